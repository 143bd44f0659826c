"""What can be uploaded: paths, bytes, file objects, iterators; and what cannot."""

from __future__ import annotations

import array
import contextlib
import gc
import hashlib
import io
import os
import random
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.errors import ConfigurationError, SourceChanged, SourceError
from upload_kit.sources.factory import make_source
from upload_kit.sources.file import FileSource
from upload_kit.sources.streams import FileObjectSource, IteratorSource
from upload_kit.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from upload_kit.sources.base import Source

DATA = random.Random(3).randbytes(2 * MIB + 5)


async def read_all(source: Source, step: int = MIB) -> bytes:
    """Read to the end, in buffers of this size."""
    whole = bytearray()
    while True:
        buffer = bytearray(step)
        count = await source.read(memoryview(buffer), len(whole))
        whole += buffer[:count]
        if count < step:
            return bytes(whole)


async def iterate(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Raw(io.RawIOBase):
    """A stream that gives a little at a time and cannot be sought."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data = io.BytesIO(data)
        self._most = most

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, self._most))


class Broken(io.RawIOBase):
    """A stream that fails."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def read(self, size: int = -1) -> bytes:
        raise self._error


def descriptors() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def facts_of(path: Path) -> os.stat_result:
    return path.stat()


def rewrite(path: Path) -> None:
    """Write other bytes, at a time that even a coarse clock tells apart."""
    path.write_bytes(DATA[::-1])
    os.utime(path, ns=(1, 1))


CHANGES: Final[dict[str, Callable[[Path], object]]] = {
    "grow": lambda path: os.truncate(path, 3 * MIB),
    "shrink": lambda path: os.truncate(path, MIB),
    "rewrite": rewrite,
    "touch": lambda path: os.utime(path, ns=(1, 1)),
}


def binary(file: io.IOBase) -> BinaryIO:
    return cast("BinaryIO", file)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(DATA)
    return path


class TestEverySource:
    @pytest.fixture(
        params=["path", "text", "bytes", "bytearray", "file", "pipe", "pieces"]
    )
    def source(self, request: pytest.FixtureRequest, path: Path) -> Iterator[Source]:
        pieces = (DATA[i : i + 70_001] for i in range(0, len(DATA), 70_001))
        with path.open("rb") as file:
            makers: dict[str, Callable[[], Any]] = {
                "path": lambda: path,
                "text": lambda: str(path),
                "bytes": lambda: DATA,
                "bytearray": lambda: bytearray(DATA),
                "file": lambda: file,
                "pipe": lambda: Raw(DATA, 1000),
                "pieces": lambda: iterate(*pieces),
            }
            yield make_source(makers[request.param](), name="x.bin")

    @pytest.mark.parametrize("step", [1000 * KIB, MIB, len(DATA), 4 * MIB])
    async def test_bytes_come_whole_and_in_order(
        self, source: Source, step: int
    ) -> None:
        """Whatever the size of the buffers."""
        await source.open()
        assert await read_all(source, step) == DATA
        assert source.size in {None, len(DATA)}
        assert source.name == "x.bin"
        await source.aclose()
        await source.aclose()

    async def test_digests_come_out_of_the_same_read(self, source: Source) -> None:
        """Several at once, of exactly the bytes that were read."""
        digests = [hashlib.sha256(), hashlib.md5()]
        await source.open()
        buffer = memoryview(bytearray(len(DATA) + 10))
        assert await source.read(buffer, 0, digests) == len(DATA)
        assert digests[0].digest() == hashlib.sha256(DATA).digest()
        assert digests[1].digest() == hashlib.md5(DATA).digest()
        await source.aclose()

    async def test_end_is_an_end_again_and_again(self, source: Source) -> None:
        """Reading on gives nothing."""
        await source.open()
        await read_all(source)
        for _ in range(2):
            assert await source.read(memoryview(bytearray(9)), len(DATA)) == 0
        await source.aclose()


class TestFileSource:
    async def test_facts_of_a_file(self, path: Path) -> None:
        """Name, size, absolute path, identity and first bytes."""
        source = FileSource(path)
        await source.open()
        assert (source.name, source.size) == ("big.bin", len(DATA))
        assert source.path == str(path)
        assert source.identity is not None
        assert source.identity.size == len(DATA)
        facts = facts_of(path)
        assert source.identity.mtime_ns == facts.st_mtime_ns
        assert source.identity.inode == facts.st_ino
        assert DATA.startswith(source.head)
        assert len(source.head) >= 4096
        await source.aclose()

    async def test_relative_path_is_remembered_as_an_absolute_one(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process, started elsewhere, finds it."""
        monkeypatch.chdir(path.parent)
        source = FileSource("big.bin")
        await source.open()
        await source.aclose()
        assert source.path == str(path)

    @pytest.mark.parametrize("size", [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1])
    async def test_file_around_the_size_that_is_read_at_once(
        self, tmp_path: Path, size: int
    ) -> None:
        """Small files are read when they are opened; nobody can tell."""
        path = tmp_path / "a"
        path.write_bytes(DATA[:size])
        source = FileSource(path)
        await source.open()
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(size + 1))
        assert await source.read(buffer, 0, [digest]) == size
        assert buffer[:size] == DATA[:size]
        assert digest.digest() == hashlib.sha256(DATA[:size]).digest()
        await source.aclose()

    async def test_any_part_can_be_read_again(self, path: Path) -> None:
        """By several at once."""
        source = FileSource(path)
        await source.open()
        buffer = memoryview(bytearray(1000))
        for start in (5, 0, 2 * MIB - 995, 5):
            assert await source.read(buffer, start) == 1000
            assert buffer == DATA[start : start + 1000]
        await source.aclose()

    async def test_missing_file(self, tmp_path: Path) -> None:
        """The message names the path."""
        with pytest.raises(SourceError, match="There is no file") as refused:
            await FileSource(tmp_path / "nowhere").open()
        assert "nowhere" in str(refused.value)
        assert refused.value.hint

    async def test_directory(self, tmp_path: Path) -> None:
        """The hint says what to do instead."""
        with pytest.raises(SourceError, match="is a directory"):
            await FileSource(tmp_path).open()

    async def test_fifo_is_refused_without_waiting_for_a_writer(
        self, tmp_path: Path
    ) -> None:
        """Opening one the plain way would never return."""
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(SourceError, match="no regular file"):
            await FileSource(tmp_path / "pipe").open()

    async def test_socket_and_device_are_refused(self, tmp_path: Path) -> None:
        """Neither has a size."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "sock"))
            for path in (tmp_path / "sock", Path("/dev/null"), Path("/dev/zero")):
                with pytest.raises(SourceError):
                    await FileSource(path).open()

    async def test_name_that_no_file_system_takes(self, tmp_path: Path) -> None:
        """A NUL, 4 KB, a file as a folder: a typed error each."""
        (tmp_path / "file").touch()
        for name in ("a\0b", "x" * 5000, "file/inside"):
            with pytest.raises(SourceError):
                await FileSource(tmp_path / name).open()

    async def test_loop_of_links(self, tmp_path: Path) -> None:
        """It leads nowhere."""
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with pytest.raises(SourceError, match="Cannot open"):
            await FileSource(tmp_path / "a").open()

    async def test_file_that_says_it_is_empty_and_is_not(self) -> None:
        """Files of the kernel have no size: nothing would arrive, and say success."""
        with pytest.raises(SourceError, match="/proc/self/status"):
            await FileSource("/proc/self/status").open()

    def test_unreadable_file(self, path: Path) -> None:
        """A file of somebody else: the reason is named. Root may read everything."""
        path.chmod(0o600)
        script = """
            import asyncio, os, sys
            from upload_kit.sources.file import FileSource
            from upload_kit.errors import SourceError
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            else:
                os.chmod(sys.argv[1], 0)
            try:
                asyncio.run(FileSource(sys.argv[1]).open())
            except SourceError as error:
                print(error)
        """
        for folder in path.parents:
            with contextlib.suppress(PermissionError):
                folder.chmod(folder.stat().st_mode | 0o555)
            if folder.name.startswith("pytest-of"):
                break
        told = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(path)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert told == f"Cannot open {path}: Permission denied.\n"

    @pytest.mark.parametrize("change", CHANGES)
    async def test_change_while_it_is_read(self, path: Path, change: str) -> None:
        """Half of one file and half of another are never sent as one."""
        source = FileSource(path)
        await source.open()
        buffer = memoryview(bytearray(MIB))
        await source.read(buffer, 0)
        CHANGES[change](path)
        with pytest.raises(SourceChanged, match=str(path)):
            await source.read(buffer, MIB)
        await source.aclose()

    async def test_replaced_file_is_read_to_its_end(self, path: Path) -> None:
        """Programs that save by renaming leave the old bytes to whoever reads them."""
        source = FileSource(path)
        await source.open()
        other = path.with_name("other")
        other.write_bytes(b"something else")
        other.replace(path)
        with contextlib.suppress(SourceChanged):
            assert await read_all(source) == DATA
        await source.aclose()

    @pytest.mark.parametrize("name", ["missing", ".", "big.bin"])
    async def test_no_descriptor_stays_open(self, path: Path, name: str) -> None:
        """Whether it could be opened or not."""
        before = descriptors()
        for _ in range(5):
            source = FileSource(path.parent / name)
            with contextlib.suppress(SourceError):
                await source.open()
            await source.aclose()
        gc.collect()
        assert descriptors() <= before


class TestBytesSource:
    @pytest.mark.parametrize(
        "data",
        [
            b"12345678",
            bytearray(b"12345678"),
            memoryview(b"12345678"),
            memoryview(array.array("I", [0x34333231, 0x38373635])),
            memoryview(b"0123456789")[1:9],
        ],
        ids=["bytes", "bytearray", "view", "items", "slice"],
    )
    async def test_whatever_holds_bytes(self, data: bytes) -> None:
        """Also arrays of larger items, byte by byte."""
        source = make_source(data)
        await source.open()
        assert (source.size, source.name, source.path) == (8, "upload.bin", None)
        assert len(await read_all(source, 3)) == 8

    @pytest.mark.parametrize(
        "data",
        [memoryview(b"0123456789")[::2], memoryview(b"01234567").cast("B", (2, 4))[:1]],
        ids=["strided", "rows"],
    )
    def test_bytes_that_are_not_in_a_row(self, data: memoryview) -> None:
        """They are copied into one, or refused; never a bare TypeError."""
        with contextlib.suppress(ConfigurationError):
            assert make_source(data).size == data.nbytes

    async def test_nothing(self) -> None:
        """No bytes are bytes too."""
        for data in (b"", bytearray(), memoryview(b"")):
            source = make_source(data)
            assert source.size == 0
            assert await read_all(source) == b""


class TestFileObjectSource:
    async def test_it_is_read_from_where_it_stands(self) -> None:
        """What was read before is not sent, and its size is that of the rest."""
        file = io.BytesIO(DATA)
        file.seek(100)
        source = make_source(file)
        await source.open()
        assert source.size == len(DATA) - 100
        assert file.tell() == 100
        assert await read_all(source) == DATA[100:]

    async def test_it_stays_open(self, path: Path) -> None:
        """It is the caller's."""
        with path.open("rb") as file:
            source = make_source(file)
            await source.open()
            await source.aclose()
            assert not file.closed
            assert source.name == "big.bin"

    async def test_pipe_has_no_size(self) -> None:
        """It shows at the end."""
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as file, os.fdopen(writing, "wb") as end:
            source = make_source(file)
            await source.open()
            assert source.size is None
            assert source.name == "upload.bin"
            end.write(b"hello")
            end.close()
            assert await read_all(source) == b"hello"

    async def test_size_that_the_caller_knows(self) -> None:
        """Where the stream cannot tell."""
        source = make_source(binary(Raw(DATA, 100)), size=len(DATA))
        await source.open()
        assert source.size == len(DATA)

    @pytest.mark.parametrize("wrong", ["text", None, 7], ids=repr)
    async def test_stream_that_gives_no_bytes(self, wrong: Any) -> None:
        """The hint says to open it in binary mode."""

        class Odd(io.RawIOBase):
            def read(self, size: int = -1) -> Any:
                return wrong

        source = FileObjectSource(binary(Odd()), name="odd", size=9)
        with pytest.raises(SourceError, match="binary mode"):
            await read_all(source)

    async def test_stream_that_gives_more_than_was_asked_for(self) -> None:
        """A reader that ignores the size breaks nothing but itself."""

        class Greedy(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                return bytes(size + 1)

        source = FileObjectSource(binary(Greedy()), name="greedy", size=9)
        with pytest.raises(SourceError, match="greedy"):
            await read_all(source)

    @pytest.mark.parametrize(
        "error",
        [
            OSError(5, "I/O error"),
            ValueError("closed file"),
            EOFError("half a member"),
            RuntimeError("no luck"),
            StopIteration(),
        ],
        ids=repr,
    )
    async def test_stream_that_fails(self, error: Exception) -> None:
        """Whatever it raises comes as a SourceError, with the cause."""
        source = FileObjectSource(binary(Broken(error)), name="x", size=9)
        with pytest.raises(SourceError, match="Cannot read x") as raised:
            await read_all(source)
        assert raised.value.__cause__ is not None

    async def test_closed_file(self, path: Path) -> None:
        """It is told when it is opened."""
        file = path.open("rb")
        file.close()
        with pytest.raises(SourceError, match=r"big\.bin"):
            await make_source(file).open()


class TestIteratorSource:
    @given(
        sizes=st.lists(st.integers(0, 40), max_size=12),
        steps=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    )
    async def test_pieces_of_any_size_fill_buffers_of_any_size(
        self, sizes: list[int], steps: list[int]
    ) -> None:
        """Nothing is lost between them."""
        data = random.Random(len(sizes)).randbytes(sum(sizes))
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        pieces = [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        source = IteratorSource(iterate(*pieces), name="x")
        whole = b""
        for step in [*steps, len(data) + 1]:
            buffer = memoryview(bytearray(step))
            count = await source.read(buffer, len(whole))
            whole += buffer[:count]
        assert whole == data

    async def test_closing_closes_the_generator(self) -> None:
        """Its `finally` runs, whether or not it was read to the end."""
        ended = []

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"1"
                yield b"2"
            finally:
                ended.append(True)

        source = IteratorSource(pieces(), name="x")
        await source.read(memoryview(bytearray(1)), 0)
        await source.aclose()
        assert ended == [True]

    async def test_iterator_that_cannot_be_closed(self) -> None:
        """Any async iterator will do."""

        class Pieces:
            def __init__(self) -> None:
                self._left = [b"1", b"2"]

            def __aiter__(self) -> Pieces:
                return self

            async def __anext__(self) -> bytes:
                if not self._left:
                    raise StopAsyncIteration
                return self._left.pop(0)

        source = make_source(Pieces())
        assert await read_all(source) == b"12"
        await source.aclose()

    @pytest.mark.parametrize("wrong", ["text", None, 7, [1]], ids=repr)
    async def test_piece_that_is_no_bytes(self, wrong: Any) -> None:
        """A typed error that names the type."""
        source = IteratorSource(iterate(wrong), name="x")
        with pytest.raises(SourceError, match=type(wrong).__name__):
            await read_all(source)

    @pytest.mark.parametrize(
        "error", [OSError("gone"), ValueError("bad"), KeyError("x")], ids=repr
    )
    async def test_iterator_that_fails(self, error: Exception) -> None:
        """Whatever it raises comes as a SourceError, with the cause."""

        async def pieces() -> AsyncIterator[bytes]:
            yield b"1"
            raise error

        with pytest.raises(SourceError, match="Cannot read x") as raised:
            await read_all(IteratorSource(pieces(), name="x"))
        assert raised.value.__cause__ is error

    async def test_iterator_that_fails_when_it_is_closed(self) -> None:
        """An upload that is done does not fail because of it."""

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"1"
            finally:
                raise RuntimeError("in the finally")

        source = IteratorSource(pieces(), name="x")
        await source.read(memoryview(bytearray(1)), 0)
        await source.aclose()


@pytest.mark.parametrize("wrong", [7, None, 1.5, [b"1"], (x for x in b"1"), object()])
def test_what_is_no_source(wrong: Any) -> None:
    """The error names the type and what would do."""
    with pytest.raises(ConfigurationError, match=type(wrong).__name__):
        make_source(wrong)


def test_text_file_is_refused(path: Path) -> None:
    """Its bytes are not those on the disk."""
    with path.open(encoding="latin-1") as file, pytest.raises(ConfigurationError):
        make_source(binary(file))
    with pytest.raises(ConfigurationError, match="binary mode"):
        make_source(binary(io.StringIO("a")))


@pytest.mark.parametrize("size", [-1, -(2**40)])
def test_negative_size_is_refused(size: int) -> None:
    """Before a byte is read."""
    with pytest.raises(ConfigurationError, match=str(size)):
        make_source(iterate(b""), size=size)


def test_name_goes_before_the_sources_own(path: Path) -> None:
    """The caller knows best."""
    assert make_source(path).name == "big.bin"
    assert make_source(path, name="other").name == "other"
    assert make_source(b"", name="other").name == "other"
