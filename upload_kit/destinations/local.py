"""
`file:///folder`: a folder of this machine, or one that is mounted.

A half-done upload is two hidden files beside the final name: the bytes, written at
their offsets, and a journal with a line a chunk, written after the chunk was read back
and compared. Publishing is fsync, rename, fsync of the folder. What nobody goes on with
for a week is removed by the next upload into the same folder.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from upload_kit.destinations.local_disk import (
    OpenFile,
    append,
    digest_at,
    sweep,
    sync_folder,
    write_at,
)
from upload_kit.errors import (
    ConfigurationError,
    IntegrityError,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
)
from upload_kit.locations import safe_relative_name
from upload_kit.models import Receipt, RemoteObject
from upload_kit.planning import Capabilities
from upload_kit.threads import in_thread
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.config import ConnectionOptions
    from upload_kit.locations import Location
    from upload_kit.models import ChunkMetadata, UploadSpec
    from upload_kit.planning import Plan

T = TypeVar("T")

EXPIRES_AFTER: Final = 7 * 24 * 3600.0
"""Seconds that a half-done upload is kept after the last byte of it came."""

# Bytes a second at which a disk is read and synced at least.
_DISK_RATE: Final = 10 * MIB
# What a full, busy or distant disk says; whatever else it says, it will say again.
_MAY_PASS: Final = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
}
_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_LINE: Final = re.compile(r"([0-9]{1,18}) ([0-9]{1,18}) ([0-9a-f]{64})", re.ASCII)


class LocalDestination:
    """The folder `file:///folder`; it is made when the first upload needs it."""

    def __init__(self, location: Location, options: ConnectionOptions) -> None:
        if location.host not in {"", "localhost"}:
            raise ConfigurationError(
                f"{location} names the host {location.host!r}, but file:// means this"
                " machine.",
                hint="Write three slashes: file:///folder.",
            )
        if not location.path.startswith("/"):
            raise ConfigurationError(
                f"{location} names no folder.", hint="Write it like file:///folder."
            )
        self._folder = Path(location.path)
        self._limit = options.response_timeout
        self._swept: set[Path] = set()

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        """Take anything whose name stays below the folder."""
        safe_relative_name(spec.name)
        return Capabilities(
            unknown_length=True,
            checksums=frozenset({"sha256"}),
            whole_checksums=frozenset({"sha256"}),
            expires_after=EXPIRES_AFTER,
        )

    async def open(self, spec: UploadSpec, plan: Plan) -> LocalUpload:
        """Make the two hidden files."""
        upload = self._upload(spec, plan, secrets.token_hex(16))
        await upload.create()
        if upload.folder not in self._swept:
            self._swept.add(upload.folder)
            await upload.sweep()
        return upload

    async def reopen(self, spec: UploadSpec, plan: Plan, token: str) -> LocalUpload:
        """Go on with the two hidden files, if they are still there."""
        if not _TOKEN.fullmatch(token):
            raise RemoteGone(f"Not a half-done upload in {self._folder}.")
        upload = self._upload(spec, plan, token)
        await upload.find()
        return upload

    def _upload(self, spec: UploadSpec, plan: Plan, token: str) -> LocalUpload:
        path = self._folder / safe_relative_name(spec.name)
        return LocalUpload(path, spec, plan, token, limit=self._limit)

    async def aclose(self) -> None:
        """Nothing is kept open."""


class LocalUpload:
    """One upload into a folder."""

    def __init__(
        self, path: Path, spec: UploadSpec, plan: Plan, token: str, *, limit: float
    ) -> None:
        self._path = path
        self._limit = limit
        self._spec = spec
        self._plan = plan
        self.token = token
        self._may_stand = False
        self._part = path.with_name(f".upload_kit-{token}.part")
        self._journal = path.with_name(f".upload_kit-{token}.journal")

    @property
    def folder(self) -> Path:
        """Where the file will stand."""
        return self._path.parent

    async def create(self) -> None:
        """Make the hidden files."""
        await self._in_time(self._create)

    async def find(self) -> None:
        """
        Make sure that the hidden files are there, or a file that they may have become.

        Raises:
            RemoteGone: Neither is.
        """
        self._may_stand = await self._in_time(self._has_its_size)
        await self.held()

    def _has_its_size(self) -> bool:
        try:
            facts = self._path.stat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(facts.st_mode) and facts.st_size == self._spec.size

    async def sweep(self) -> None:
        """Remove what has expired beside it."""
        await self._in_time(lambda: sweep(self.folder, EXPIRES_AFTER))

    async def _in_time(self, function: Callable[[], T], *, size: int = 0) -> T:
        """
        Call something in a thread, which a disk that hangs may never let go of.

        Args:
            function: What to call.

            size: Bytes that it has to read or to sync.
        """
        limit = self._limit + size / _DISK_RATE
        try:
            async with asyncio.timeout(limit):
                return await in_thread(function)
        except TimeoutError as error:
            raise RemoteUnavailable(
                f"{self.folder} did not answer within {limit:.0f} seconds.",
                hint="Does its disk hang? Resume once it works.",
            ) from error
        except OSError as error:
            raise self._failure(error) from error

    def _create(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.is_dir():
                raise RemoteRejected(
                    f"{self._path} is a folder.", hint="Choose another name."
                )
            if not self._spec.overwrite and self._path.exists():
                raise self._exists()
            for path in (self._part, self._journal):
                path.touch(exist_ok=False)
        except OSError as error:
            raise self._failure(error) from error

    def _exists(self) -> RemoteRejected:
        return RemoteRejected(
            f"{self._path} exists already.", hint="Allow to overwrite it."
        )

    def _gone(self) -> RemoteGone:
        return RemoteGone(f"The half-done upload of {self._path} is gone.")

    def _failure(self, error: OSError) -> RemoteUnavailable | RemoteRejected:
        """Tell what may pass, such as a full disk, from what will not."""
        message = f"Cannot write {self._path}: {error.strerror or error}."
        if error.errno in _MAY_PASS:
            return RemoteUnavailable(message, hint="Make room, then resume.")
        return RemoteRejected(message, hint="Choose another folder, or another name.")

    async def held(self) -> Sequence[Receipt]:
        """Read the journal; see `RemoteUpload.held`."""
        return await self._in_time(self._held)

    def _held(self) -> list[Receipt]:
        try:
            lines = self._journal.read_text("ascii", "replace").split("\n")
            present = self._part.stat().st_size
        except FileNotFoundError as error:
            if self._may_stand:
                return self._chunks()
            raise self._gone() from error
        except OSError as error:
            raise self._failure(error) from error
        receipts = {}
        total = self._plan.total_chunks
        for line in lines:
            # A line torn by a crash does not match, and its chunk is sent again.
            if match := _LINE.fullmatch(line):
                index, size = int(match[1]), int(match[2])
                if total is not None and index >= total:
                    continue
                if self._plan.chunk(index).start + size <= present:
                    receipts[index] = Receipt(index=index, size=size, sha256=match[3])
        return [receipts[index] for index in sorted(receipts)]

    def _chunks(self) -> list[Receipt]:
        """
        Return the chunks of a file that was published before a kill, as it seems.

        They have no digests: only those count that a session remembers, and `complete`
        compares the whole file. If it is another one, the upload is gone.
        """
        return [
            Receipt(index=chunk.index, size=chunk.size) for chunk in self._plan.chunks()
        ]

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Write at the chunk's offset, read back, compare; see `RemoteUpload.put`."""
        file = OpenFile(self._part)
        try:
            position = chunk.start
            async for piece in body.stream():
                await file.use(write_at, piece, position)
                position += len(piece)
            written = await file.use(digest_at, chunk.start, position)
            if written != await body.digest("sha256"):
                raise IntegrityError(
                    f"Chunk {chunk.index} of {self._path} reads differently from what"
                    " was written.",
                    hint="Check the disk.",
                )
            line = f"\n{chunk.index} {position - chunk.start} {written.hex()}\n"
            await in_thread(append, self._journal, line.encode("ascii"))
        except FileNotFoundError as error:
            raise self._gone() from error
        except OSError as error:
            raise self._failure(error) from error
        finally:
            # Not awaited: on a disk that hangs it would never end.
            file.close()
        size = position - chunk.start
        return Receipt(index=chunk.index, size=size, sha256=written.hex())

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Compare the whole file if asked to, and rename it into place."""
        size = sum(receipt.size for receipt in receipts)
        actual = await self._in_time(
            lambda: self._publish(receipts, size, sha256), size=size
        )
        return RemoteObject(location=self._path.as_uri(), size=size, sha256=actual)

    def _publish(
        self, receipts: Sequence[Receipt], size: int, sha256: str | None
    ) -> str | None:
        try:
            fd = os.open(self._part, os.O_RDWR)
        except FileNotFoundError as error:
            if not self._stands(receipts, size, sha256):
                raise self._gone() from error
            self._settle()
            return sha256
        try:
            # A try of the last chunk that failed may have left bytes behind the end.
            os.ftruncate(fd, size)
            actual = None if sha256 is None else digest_at(fd, 0, size).hex()
            if actual != sha256:
                raise IntegrityError(f"{self._path} differs from what was sent.")
            os.fsync(fd)
        finally:
            os.close(fd)
        self._move_into_place()
        self._settle()
        return actual

    def _settle(self) -> None:
        """Have the file's name survive loss of power, and leave nothing beside it."""
        self._journal.unlink(missing_ok=True)
        sync_folder(self._path.parent)

    def _stands(
        self, receipts: Sequence[Receipt], size: int, sha256: str | None
    ) -> bool:
        """Whether it was published before, by a call that nobody heard the end of."""
        try:
            fd = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(fd).st_size != size:
                return False
            if sha256 is not None:
                return digest_at(fd, 0, size).hex() == sha256
            return all(self._has(fd, receipt) for receipt in receipts)
        finally:
            os.close(fd)

    def _has(self, fd: int, receipt: Receipt) -> bool:
        """Whether a file has a chunk in its place."""
        start = self._plan.chunk(receipt.index).start
        digest = digest_at(fd, start, start + receipt.size)
        return digest.hex() == receipt.sha256

    def _move_into_place(self) -> None:
        if self._spec.overwrite:
            self._part.replace(self._path)
            return
        try:
            # A hard link fails where something stands already, a rename would not.
            os.link(self._part, self._path)
        except FileExistsError as error:
            # A call that was killed right here may have made it the same file.
            if not self._part.samefile(self._path):
                raise self._exists() from error
        self._part.unlink()

    async def abort(self) -> None:
        """Remove the hidden files; see `RemoteUpload.abort`."""
        self._may_stand = False
        await self._in_time(self._remove)

    def _remove(self) -> None:
        self._journal.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)
