"""Uploads to tus servers: whole, checked, resumed in mid-chunk, as the text says."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from tests.servers.killed import forget_the_end
from tests.servers.tus_scripted import EVERYTHING, Fault, ScriptedTus
from upload_kit.config import ConnectionOptions, RetryPolicy
from upload_kit.destinations.registry import make_destination
from upload_kit.destinations.reply import Reply
from upload_kit.destinations.tus_fields import format_metadata, read_options, resolve
from upload_kit.errors import (
    AuthenticationFailed,
    ConfigurationError,
    IntegrityError,
    OffsetConflict,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
    UploadKitError,
)
from upload_kit.models import UploadSpec, Verification
from upload_kit.planning import Plan
from upload_kit.units import KIB
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.parallel import ParallelUploader
from upload_kit.uploaders.resumable import ResumableUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LAYERS: Final = [ChunkedUploader, ParallelUploader, ResumableUploader]
QUICK: Final = RetryPolicy(attempts=3, base_delay=0.01, max_delay=0.05)
CHUNK: Final = 256 * KIB
# More than fits into the request that begins an upload.
BIG: Final = 5 * CHUNK + 7
_ROOT: Final = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def private_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep sessions and history away from the user's."""
    monkeypatch.setenv("UPLOAD_KIT_SESSION_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedTus]:
    async with ScriptedTus() as server:
        yield server


def _url(server: ScriptedTus, query: str = "") -> str:
    return f"tus+{server.url}{query}"


def _chunked(server: ScriptedTus, query: str = "", **options: Any) -> ChunkedUploader:
    settings = {"chunk_size": CHUNK, "retry": QUICK, "history": False, **options}
    return ChunkedUploader(_url(server, query), **settings)


def _parallel(server: ScriptedTus, query: str, **options: Any) -> ParallelUploader:
    settings = {"chunk_size": CHUNK, "retry": QUICK, "history": False, **options}
    return ParallelUploader(_url(server, query), max_parallel=3, **settings)


def _resumable(
    server: ScriptedTus, query: str = "", **options: Any
) -> ResumableUploader:
    settings = {"chunk_size": CHUNK, "retry": QUICK, "history": False, **options}
    return ResumableUploader(_url(server, query), **settings)


def _data(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def _pieces(data: bytes, step: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


def _bytes_sent(server: ScriptedTus) -> int:
    """Return how many bytes the bodies that came in were announced to have."""
    return sum(
        int(one.headers["Content-Length"])
        for one in server.seen
        if one.method in {"POST", "PATCH"}
    )


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.layer.value)
@pytest.mark.parametrize("location", ["absolute", "relative", "path"])
@pytest.mark.parametrize(
    "size",
    [0, 1, CHUNK, 2 * CHUNK, BIG],
    ids=["empty", "one-byte", "one-chunk", "two-chunks", "many-chunks"],
)
async def test_every_layer_uploads(
    layer: type[ChunkedUploader], location: str, size: int
) -> None:
    """What arrives is what was sent, however the server writes an upload's address."""
    async with ScriptedTus(location=location) as server:
        uploader = layer(_url(server), chunk_size=CHUNK, history=False)
        result = await uploader.upload_file(_data(size), name="notes.txt")
        assert server.only().data == _data(size)
        assert server.only().length == size
        assert result.size == size
        assert result.retries == 0
        assert result.verified is Verification.CHUNKS
        assert result.location == server.origin + server.seen[-1].path or size <= CHUNK
        assert server.count("HEAD") == 0


@pytest.mark.parametrize(
    ("headers", "options_status"),
    [
        ({"Tus-Version": "", "Tus-Extension": ""}, 204),
        ({"Tus-Version": "", "Tus-Extension": ""}, 404),
        ({"Tus-Extension": "creation"}, 200),
    ],
    ids=["proxy-answers", "no-options", "creation-only"],
)
async def test_a_server_that_tells_little_gets_plain_tus(
    headers: dict[str, str], options_status: int
) -> None:
    """Where OPTIONS tells nothing, creation and the core protocol are used alone."""
    async with ScriptedTus(
        extensions=("creation",), headers=headers, options_status=options_status
    ) as server:
        result = await _chunked(server).upload_file(_data(BIG))
        assert server.only().data == _data(BIG)
        assert result.verified is Verification.SIZE
        assert all("Upload-Checksum" not in one.headers for one in server.seen)


async def test_a_small_file_takes_one_request(server: ScriptedTus) -> None:
    """With creation-with-upload, a small file goes with the request that begins it."""
    await _chunked(server).upload_file(b"hello")
    assert [one.method for one in server.seen] == ["OPTIONS", "POST"]
    assert server.only().data == b"hello"


async def test_a_small_file_with_a_session_is_found_again(
    server: ScriptedTus, tmp_path: Path
) -> None:
    """Whoever is killed once it arrived learns that it did: it is not stored twice."""
    (tmp_path / "a").write_bytes(b"hello")
    uploader = _resumable(server, keep_sessions=True, session_dir=tmp_path / "s")
    first = await uploader.upload_file(tmp_path / "a")
    await forget_the_end(tmp_path / "s")
    again = await uploader.upload_file(tmp_path / "a")
    assert (again.location, again.bytes_sent) == (first.location, 0)
    assert len(server.uploads) == 1


@pytest.mark.parametrize("take", [0, 2], ids=["nothing", "a-part"])
async def test_what_the_beginning_did_not_take_is_appended(
    server: ScriptedTus, take: int
) -> None:
    """A server may take less of the first body than it was sent."""
    server.checksums = ()
    server.on("POST", Fault(take=take))
    await _chunked(server).upload_file(b"hello")
    assert [one.method for one in server.seen] == ["OPTIONS", "POST", "PATCH"]
    assert server.only().data == b"hello"


async def test_a_beginning_that_broke_off_begins_anew(server: ScriptedTus) -> None:
    """Nobody knows the address of an upload whose first answer was lost."""
    server.on("POST", Fault(lose_answer=True))
    result = await _chunked(server).upload_file(b"hello")
    assert result.retries == 1
    assert [bytes(one.data) for one in server.uploads.values()] == [b"hello"] * 2


async def test_the_server_is_asked_once_for_many_files(server: ScriptedTus) -> None:
    """What a server can do does not change from file to file."""
    async with _chunked(server) as uploader:
        for number in range(3):
            await uploader.upload_file(b"hello", name=f"{number}.txt")
    assert server.count("OPTIONS") == 1


async def test_metadata_arrives(server: ScriptedTus) -> None:
    """Name and type are sent as servers look for them, and what the user gave."""
    await _chunked(server).upload_file(
        b"x", name="Größe.txt", metadata={"album": "été", "flag": ""}
    )
    pairs = (pair.partition(" ") for pair in (server.only().metadata or "").split(","))
    decoded = {key: base64.b64decode(value).decode() for key, _, value in pairs}
    assert decoded == {
        "filename": "Größe.txt",
        "filetype": "text/plain",
        "album": "été",
        "flag": "",
    }


@pytest.mark.parametrize(
    "key", ["", "a b", "a,b", "é", "a\nb"], ids=["empty", "blank", "comma", "e", "line"]
)
async def test_metadata_that_cannot_be_sent_is_refused(
    server: ScriptedTus, key: str
) -> None:
    """A key that the protocol has no way to write is refused before a byte is sent."""
    with pytest.raises(ConfigurationError, match="metadata"):
        await _chunked(server).upload_file(b"x", metadata={key: "value"})
    assert server.seen == []


@pytest.mark.parametrize(
    ("offered", "query", "sent"),
    [
        (("sha1", "sha256"), "", "sha256"),
        (("md5", "sha1"), "", "sha1"),
        (("sha1", "sha256"), "?checksum=sha1", "sha1"),
        (("md5", "crc32"), "", None),
        (("sha1", "sha256"), "?checksum=off", None),
    ],
    ids=["best", "least", "asked-for", "none-known", "off"],
)
async def test_requests_carry_a_digest_that_the_server_checks(
    offered: tuple[str, ...], query: str, sent: str | None
) -> None:
    """The best digest that both know is sent with every request, unless it is off."""
    async with ScriptedTus(checksums=offered) as server:
        result = await _chunked(server, query).upload_file(_data(BIG))
        fields = {
            one.headers.get("Upload-Checksum", "").partition(" ")[0]
            for one in server.seen
            if one.method == "PATCH"
        }
        assert fields == {sent or ""}
        expected = Verification.CHUNKS if sent else Verification.SIZE
        assert result.verified is expected


async def test_a_digest_that_the_server_does_not_check_is_refused() -> None:
    """Whoever asks for a digest does not get an upload without it."""
    async with ScriptedTus(checksums=("sha1",)) as server:
        with pytest.raises(ConfigurationError, match="sha256"):
            await _chunked(server, "?checksum=sha256").upload_file(_data(BIG))


@pytest.mark.parametrize("size", [5, BIG], ids=["at-once", "in-chunks"])
async def test_bytes_that_changed_on_the_way_are_sent_again_once(
    server: ScriptedTus, size: int
) -> None:
    """460 is tried once more; if it comes again, the upload fails."""
    method = "POST" if size == 5 else "PATCH"
    server.on(method, Fault(status=460))
    result = await _chunked(server).upload_file(_data(size))
    assert result.retries == 1
    assert bytes(next(reversed(server.uploads.values())).data) == _data(size)

    server.on(method, Fault(status=460), Fault(status=460))
    with pytest.raises(IntegrityError, match="other bytes"):
        await _chunked(server).upload_file(_data(size))


@pytest.mark.parametrize("offered", [(), ("sha1",), ("sha256",)], ids=str)
async def test_a_chunk_that_broke_off_goes_on_where_it_broke(
    offered: tuple[str, ...],
) -> None:
    """After a break the server is asked, and what it kept is not sent again."""
    async with ScriptedTus(checksums=offered) as server:
        server.on("PATCH", None, Fault(cut_after=100 * KIB))
        result = await _chunked(server).upload_file(_data(BIG))
        assert server.only().data == _data(BIG)
        assert result.retries == 1
        assert server.count("HEAD") == 1
        lengths = [
            int(one.headers["Content-Length"])
            for one in server.seen
            if one.method == "PATCH"
        ]
        assert lengths[1] == CHUNK
        assert lengths[2] < CHUNK
        assert _bytes_sent(server) - lengths[1] < BIG


async def test_a_lost_answer_costs_no_byte(server: ScriptedTus) -> None:
    """Bytes that arrived are not sent again when only the answer was lost."""
    server.on("PATCH", *[Fault(lose_answer=True)] * 2)
    result = await _chunked(server).upload_file(_data(BIG))
    assert server.only().data == _data(BIG)
    assert result.retries == 2
    assert _bytes_sent(server) == BIG


async def test_the_last_answer_may_be_lost(server: ScriptedTus) -> None:
    """An upload whose last answer was lost is found to be complete."""
    server.on("PATCH", *[None] * 5, Fault(lose_answer=True))
    result = await _chunked(server).upload_file(_data(BIG))
    assert result.success
    assert _bytes_sent(server) == BIG


async def test_a_server_may_take_less_than_it_is_sent(server: ScriptedTus) -> None:
    """What a server did not take of a request is sent in the next one."""
    server.checksums = ()
    server.on("PATCH", Fault(take=1000), Fault(take=1000))
    result = await _chunked(server).upload_file(_data(BIG))
    assert server.only().data == _data(BIG)
    assert result.retries == 0


@pytest.mark.parametrize("status", [409, 423, 408, 429, 500, 502, 503], ids=str)
async def test_what_may_pass_is_tried_again_after_asking(
    server: ScriptedTus, status: int
) -> None:
    """Before bytes go again, the server is asked how many it has."""
    server.on("PATCH", None, Fault(status=status))
    result = await _chunked(server).upload_file(_data(BIG))
    assert server.only().data == _data(BIG)
    assert result.retries == 1
    methods = [one.method for one in server.seen]
    assert methods[2:6] == ["PATCH", "PATCH", "HEAD", "PATCH"]


@pytest.mark.parametrize("status", [423, 503], ids=str)
async def test_a_locked_upload_is_asked_for_again(
    server: ScriptedTus, status: int
) -> None:
    """A server may need a moment to see that a connection is dead."""
    server.on("PATCH", Fault(cut_after=1000))
    server.on("HEAD", Fault(status=status))
    result = await _chunked(server).upload_file(_data(BIG))
    assert server.only().data == _data(BIG)
    assert result.retries == 2


@pytest.mark.parametrize("status", [404, 410], ids=str)
async def test_an_upload_that_is_gone_is_begun_anew(
    server: ScriptedTus, status: int
) -> None:
    """404 and 410 make a new upload, from its first byte."""
    server.on("PATCH", None, None, Fault(status=status))
    result = await _chunked(server).upload_file(_data(BIG))
    assert result.success
    assert server.count("POST") == 2
    assert next(reversed(server.uploads.values())).data == _data(BIG)


async def test_403_to_a_question_means_gone(server: ScriptedTus) -> None:
    """The text allows a server to hide what is not there behind 403."""
    server.on("PATCH", Fault(cut_after=10))
    server.on("HEAD", Fault(status=403))
    await _chunked(server).upload_file(_data(BIG))
    assert server.count("POST") == 2


async def test_a_server_that_lost_bytes_gets_a_new_upload(server: ScriptedTus) -> None:
    """An offset below what was acknowledged cannot be gone on from."""
    server.on("PATCH", None, Fault(status=500))
    server.on("HEAD", Fault(lose=10))
    await _chunked(server).upload_file(_data(BIG))
    assert server.count("POST") == 2
    assert next(reversed(server.uploads.values())).data == _data(BIG)


async def test_an_upload_that_became_another_one_is_begun_anew(
    server: ScriptedTus,
) -> None:
    """An address that stands for another length is no longer our upload."""
    server.on("PATCH", Fault(status=500))
    server.on("HEAD", Fault(headers={"Upload-Length": "12"}))
    await _chunked(server).upload_file(_data(BIG))
    assert server.count("POST") == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RemoteRejected),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (412, RemoteRejected),
        (413, RemoteRejected),
        (415, RemoteRejected),
        (301, RemoteRejected),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
async def test_what_will_not_pass_ends_the_upload(
    server: ScriptedTus, status: int, error: type[UploadKitError]
) -> None:
    """A refusal is told at once, and the half-done upload is removed."""
    server.on("PATCH", None, Fault(status=status))
    with pytest.raises(error) as caught:
        await _chunked(server).upload_file(_data(BIG))
    assert str(status) in str(caught.value) or status in {412, 413}
    assert server.count("PATCH") == 2
    assert server.uploads == {}


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, RemoteRejected, "400"),
        (401, AuthenticationFailed, "401"),
        (403, AuthenticationFailed, "403"),
        (404, RemoteRejected, "Check that the URL"),
        (405, RemoteRejected, "Check that the URL"),
        (410, RemoteRejected, "Check that the URL"),
        (412, RemoteRejected, "does not speak tus 1.0.0"),
        (413, RemoteRejected, "too large"),
        (200, RemoteRejected, "200"),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
async def test_an_upload_that_cannot_begin_says_why(
    server: ScriptedTus, status: int, error: type[UploadKitError], words: str
) -> None:
    """What is wrong with the first request is told at once."""
    server.on("POST", *[Fault(status=status)] * 9)
    with pytest.raises(error, match=words):
        await _chunked(server).upload_file(_data(BIG))
    assert server.count("POST") == 1


async def test_a_version_of_the_future_is_not_spoken() -> None:
    """A server that names other versions only is told so before anything is sent."""
    async with ScriptedTus(headers={"Tus-Version": "3.0.0"}) as server:
        with pytest.raises(RemoteRejected, match=r"not speak tus 1\.0\.0, but 3\.0\.0"):
            await _chunked(server).upload_file(_data(BIG))
        assert server.count("POST") == 0


async def test_a_file_above_the_limit_is_not_begun() -> None:
    """What the server said of its limit is checked before a byte is sent."""
    async with ScriptedTus(max_size=100) as server:
        with pytest.raises(ConfigurationError, match="more than"):
            await _chunked(server).upload_file(_data(101))
        assert server.count("POST") == 0


@pytest.mark.parametrize("status", [401, 407], ids=str)
async def test_a_server_that_wants_to_know_us_is_not_guessed_at(status: int) -> None:
    """Where even OPTIONS is refused, that is what is told."""
    async with ScriptedTus(
        options_status=status, headers={"Tus-Version": ""}
    ) as server:
        with pytest.raises(AuthenticationFailed):
            await _chunked(server).upload_file(b"x")


@pytest.mark.parametrize(
    "offset", ["", "-1", "1_0", "+5", "٣", "9" * 20, str(BIG + 1)], ids=repr
)
async def test_an_offset_that_cannot_be_is_not_believed(
    server: ScriptedTus, offset: str
) -> None:
    """Neither a missing offset, nor one that is no number, nor too large a one."""
    server.on("PATCH", Fault(headers={"Upload-Offset": offset}))
    with pytest.raises(RemoteRejected, match=r"(?i)offset"):
        await _chunked(server).upload_file(_data(BIG))
    assert server.count("PATCH") == 1


async def test_an_offset_above_the_length_is_not_believed(server: ScriptedTus) -> None:
    """A server that says it holds more than there is does not make us lose bytes."""
    server.on("PATCH", Fault(status=500))
    server.on("HEAD", Fault(headers={"Upload-Offset": str(BIG + 1)}))
    with pytest.raises(RemoteRejected, match="offset"):
        await _chunked(server).upload_file(_data(BIG))


async def test_a_server_that_takes_nothing_is_given_up(server: ScriptedTus) -> None:
    """An offset that never moves does not keep us for ever."""
    server.checksums = ()
    server.on("PATCH", *[Fault(take=0)] * 9)
    with pytest.raises(OffsetConflict, match="took none"):
        await _chunked(server).upload_file(_data(BIG))
    assert server.count("PATCH") == QUICK.attempts


@pytest.mark.parametrize("location", ["", "ftp://host/x", "http://[", "//"], ids=repr)
async def test_an_address_that_is_none_is_told(
    server: ScriptedTus, location: str
) -> None:
    """A Location that nothing can be sent to is told with the request that had it."""
    server.on("POST", Fault(headers={"Location": location}))
    with pytest.raises(RemoteRejected, match="Location"):
        await _chunked(server).upload_file(_data(BIG))


@pytest.mark.parametrize(
    "size",
    [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK, BIG],
    ids=["empty", "one-byte", "nearly", "one-chunk", "three-chunks", "many-chunks"],
)
@pytest.mark.parametrize("fault", [None, Fault(lose_answer=True), Fault(cut_after=1)])
async def test_a_length_that_shows_at_the_end_is_told_once(
    server: ScriptedTus, size: int, fault: Fault | None
) -> None:
    """An upload of unknown length is begun without one, and gets it with its end."""
    last = max(1, -(-size // CHUNK))
    server.on("PATCH", *[None] * (last - 1), fault)
    result = await _chunked(server).upload_file(_pieces(_data(size), 100_000))
    stored = server.only()
    assert (bytes(stored.data), stored.length) == (_data(size), size)
    assert result.size == size
    told = [one for one in server.seen if "Upload-Length" in one.headers]
    assert len(told) == 1 or fault is not None
    assert server.seen[1].headers["Upload-Defer-Length"] == "1"


async def test_a_server_that_must_know_the_length_says_so() -> None:
    """Without creation-defer-length nothing is begun."""
    async with ScriptedTus(extensions=("creation",)) as server:
        with pytest.raises(ConfigurationError, match="must know the size"):
            await _chunked(server).upload_file(_pieces(b"x", 1))
        assert server.count("POST") == 0


@pytest.mark.parametrize("offered", [True, False], ids=["offered", "not-offered"])
async def test_what_failed_is_removed_where_the_server_can(offered: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """A failed upload without a session leaves nothing behind, if it can be helped."""
    extensions = [name for name in EVERYTHING if offered or name != "termination"]
    async with ScriptedTus(extensions=extensions) as server:
        server.on("PATCH", None, Fault(status=400))
        with pytest.raises(RemoteRejected):
            await _chunked(server).upload_file(_data(BIG))
        assert server.count("DELETE") == int(offered)
        assert len(server.uploads) == int(not offered)


@pytest.mark.parametrize(
    ("digest", "verified"),
    [("right", Verification.SHA256), ("", Verification.CHUNKS), ("sha-256=:", None)],
    ids=["right", "none", "broken"],
)
async def test_the_digest_of_the_whole_is_asked_for(
    server: ScriptedTus, digest: str, verified: Verification | None
) -> None:
    """A server that says the SHA-256 of the whole file has it compared with ours."""
    if digest == "right":
        sha256 = hashlib.sha256(_data(BIG)).digest()
        digest = f"sha-256=:{base64.b64encode(sha256).decode()}:"
    server.headers = {"Repr-Digest": digest} if digest else {}
    result = await _chunked(server, whole_digest=True).upload_file(_data(BIG))
    assert result.verified is (verified or Verification.CHUNKS)
    assert server.seen[1].headers["Want-Repr-Digest"] == "sha-256=10"


async def test_another_digest_of_the_whole_fails(server: ScriptedTus) -> None:
    """A whole file that differs there is an error here."""
    encoded = base64.b64encode(bytes(32)).decode()
    server.headers = {"Repr-Digest": f"sha-256=:{encoded}:"}
    with pytest.raises(IntegrityError, match="digest"):
        await _chunked(server, whole_digest=True).upload_file(_data(BIG))


async def test_a_url_without_a_protocol_is_found_out(server: ScriptedTus) -> None:
    """`http://` asks, and the answer's `Tus-Version` tells."""
    uploader = ChunkedUploader(server.url, chunk_size=CHUNK, history=False)
    await uploader.upload_file(_data(BIG))
    assert server.only().data == _data(BIG)


async def test_a_password_in_the_url_is_sent_and_never_shown(
    server: ScriptedTus,
) -> None:
    """User and password go as basic authentication; nothing that is shown has them."""
    url = _url(server).replace("://", "://me:s3cret@") + "?token=t0ken"
    uploader = ChunkedUploader(url, chunk_size=CHUNK, history=False)
    result = await uploader.upload_file(_data(BIG))
    expected = base64.b64encode(b"me:s3cret").decode()
    for one in server.seen:
        assert one.headers["Authorization"] == f"Basic {expected}"
    shown = f"{result.to_json()} {uploader!r}"
    assert "s3cret" not in shown
    assert "t0ken" not in shown


async def test_credentials_stay_with_the_server_they_are_for() -> None:
    """An upload that stands on another host gets its bytes, and no token of ours."""
    async with ScriptedTus() as server, ScriptedTus() as other:
        begun = await _begin(other)
        server.on("POST", Fault(headers={"Location": begun}))
        uploader = _chunked(server, token="s3cret", headers={"X-Key": "k"})
        await uploader.upload_file(_data(BIG))
        assert other.only().data == _data(BIG)
        assert server.seen[-1].headers["Authorization"] == "Bearer s3cret"
        for one in other.seen:
            assert "Authorization" not in one.headers
            assert "X-Key" not in one.headers


async def _begin(server: ScriptedTus) -> str:
    """Begin an upload of `BIG` bytes, and return its address."""
    destination = make_destination(_url(server), ConnectionOptions())
    spec = UploadSpec(name="x", size=BIG)
    try:
        await destination.negotiate(spec)
        remote = await destination.open(spec, _plan(BIG))
        return remote.token
    finally:
        await destination.aclose()


def _plan(size: int) -> Plan:
    return Plan(size=size, chunk_size=CHUNK)


def _reply(location: str) -> Reply:
    return Reply(
        method="POST",
        raw_url="https://host/files/",
        status=201,
        headers=CIMultiDictProxy(CIMultiDict({"Location": location})),
        body=b"",
    )


@pytest.mark.parametrize(
    ("base", "location", "expected"),
    [
        ("http://h:1/files/", "abc", "http://h:1/files/abc"),
        ("http://h:1/files", "files/abc", "http://h:1/files/abc"),
        ("http://h/files/", "/other/abc?x=1", "http://h/other/abc?x=1"),
        ("https://h:8443/files/", "http://h/files/a", "https://h:8443/files/a"),
        ("https://h/files/", "//cdn/a%2Fb", "https://cdn/a%2Fb"),
        ("https://h/files/", "http://other/a", "http://other/a"),
    ],
)
def test_addresses_are_resolved(base: str, location: str, expected: str) -> None:
    """Addresses may be relative, and what began encrypted stays encrypted."""
    assert resolve(base, _reply(location)) == expected


@pytest.mark.parametrize(
    "query", ["parts=0", "parts=x", "parts=1000", "checksum=md4"], ids=str
)
def test_options_that_are_none_are_refused(query: str) -> None:
    """An option with a value that nobody knows is told before any request."""
    with pytest.raises(ConfigurationError, match=query.partition("=")[0]):
        make_destination(f"tus+http://host/files/?{query}")


def test_options_of_others_are_left_to_the_server() -> None:
    """Only what is meant for us is taken out of the query."""
    options = read_options("a=1&parts=4&b&checksum=off", {"parts": "2"})
    assert (options.parts, options.checksum, options.query) == (2, "off", "a=1&b")


@given(st.dictionaries(st.from_regex(r"[!-+\--~]{1,20}", fullmatch=True), st.text()))
def test_metadata_is_written_so_that_it_can_be_read(metadata: dict[str, str]) -> None:
    """Whatever the values are, each key has its own again on the other side."""
    text = format_metadata(UploadSpec(name="n", size=1, metadata=metadata))
    pairs = (pair.partition(" ") for pair in text.split(","))
    read = {
        key: base64.b64decode(value).decode(errors="surrogateescape")
        for key, _, value in pairs
    }
    assert {"filename", "filetype"} <= read.keys()
    assert metadata.items() <= read.items()


async def test_parts_go_at_once_and_are_joined(server: ScriptedTus) -> None:
    """With `parts`, a file goes in partial uploads at once, which the server joins."""
    server.on("PATCH", *[Fault(meet=3)] * 3)
    async with _parallel(server, "?parts=4") as uploader:
        result = await uploader.upload_file(_data(8 * CHUNK), name="a.bin")
    *parts, whole = server.uploads.values()
    assert [part.concat for part in parts] == ["partial"] * 4
    assert [len(part.data) for part in parts] == [2 * CHUNK] * 4
    assert bytes(whole.data) == _data(8 * CHUNK)
    assert whole.metadata is not None
    assert result.location == f"{server.url}{list(server.uploads)[-1]}"
    assert result.verified is Verification.CHUNKS
    assert server.most_at_once == 3


async def test_a_part_that_broke_off_goes_on_where_it_broke(
    server: ScriptedTus,
) -> None:
    """Each part is its own upload, with its own offset."""
    server.on("PATCH", Fault(cut_after=1000), Fault(lose_answer=True))
    result = await _parallel(server, "?parts=4").upload_file(_data(8 * CHUNK))
    assert bytes(list(server.uploads.values())[-1].data) == _data(8 * CHUNK)
    assert result.retries == 2
    broken = sum(
        one.method == "PATCH" and one.headers["Content-Length"] != str(2 * CHUNK)
        for one in server.seen
    )
    assert broken <= 1


@pytest.mark.parametrize(
    "extensions", [("creation",), EVERYTHING], ids=["cannot", "too-small"]
)
async def test_parts_that_cannot_be_are_one_stream(extensions: tuple[str, ...]) -> None:
    """Servers that join nothing, and files of one chunk, get a plain upload."""
    size = BIG if extensions == ("creation",) else 10
    async with ScriptedTus(extensions=extensions) as server:
        await _parallel(server, "?parts=4").upload_file(_data(size))
        assert server.only().data == _data(size)
        assert server.only().concat is None


async def test_parts_that_cannot_all_begin_leave_nothing(server: ScriptedTus) -> None:
    """When one part cannot begin, the others are removed."""
    server.on("POST", None, Fault(status=400))
    with pytest.raises(RemoteRejected):
        await _parallel(server, "?parts=4").upload_file(_data(8 * CHUNK))
    assert server.uploads == {}


async def test_parts_that_fail_are_all_removed(server: ScriptedTus) -> None:
    """A failed upload in parts leaves none of them behind."""
    server.on("PATCH", None, Fault(status=400))
    with pytest.raises(RemoteRejected):
        await _parallel(server, "?parts=4").upload_file(_data(8 * CHUNK))
    assert server.uploads == {}
    assert server.count("DELETE") == 4


async def test_what_cannot_be_removed_is_no_second_failure(
    server: ScriptedTus,
) -> None:
    """Why the upload failed is told, and not why clearing up after it failed."""
    server.on("PATCH", Fault(status=415))
    server.on("DELETE", Fault(status=500))
    with pytest.raises(RemoteRejected, match="415"):
        await _chunked(server).upload_file(_data(BIG))


async def test_a_small_file_that_fails_is_removed(server: ScriptedTus) -> None:
    """What a refused rest leaves of a small file is removed."""
    server.checksums = ()
    server.on("POST", Fault(take=2))
    server.on("PATCH", Fault(status=400))
    with pytest.raises(RemoteRejected):
        await _chunked(server).upload_file(b"hello")
    assert server.uploads == {}


async def test_a_refusal_to_join_is_told(server: ScriptedTus) -> None:
    """A server that will never join the parts says so, and they are removed."""
    server.on("POST", *[None] * 4, Fault(status=400))
    with pytest.raises(RemoteRejected, match="400"):
        await _parallel(server, "?parts=4").upload_file(_data(8 * CHUNK))
    assert server.uploads == {}


async def test_a_part_that_is_gone_begins_the_file_anew(server: ScriptedTus) -> None:
    """Without one of its parts the whole cannot be joined."""
    server.on("PATCH", Fault(forget=True))
    result = await _parallel(server, "?parts=4").upload_file(_data(8 * CHUNK))
    assert result.success
    assert bytes(list(server.uploads.values())[-1].data) == _data(8 * CHUNK)


async def test_parts_that_vanish_before_they_are_joined_begin_anew(
    server: ScriptedTus,
) -> None:
    """404 to the request that joins them means that a part is gone."""
    server.on("POST", *[None] * 4, Fault(status=404))
    result = await _parallel(server, "?parts=4").upload_file(_data(8 * CHUNK))
    assert result.success
    assert server.count("POST") == 10


async def test_joining_may_take_a_while(server: ScriptedTus) -> None:
    """A joined upload without an offset is not ready; it is asked for again."""
    server.on("HEAD", Fault(headers={"Upload-Offset": ""}))
    result = await _parallel(server, "?parts=4").upload_file(_data(8 * CHUNK))
    assert result.success
    assert server.count("HEAD") == 2
    assert server.count("POST") == 5


async def test_parts_of_another_size_are_an_error(server: ScriptedTus) -> None:
    """What was joined has to have as many bytes as its parts."""
    server.on("HEAD", *[Fault(headers={"Upload-Offset": "7"})] * 9)
    with pytest.raises(IntegrityError, match="7 bytes"):
        await _parallel(server, "?parts=4").upload_file(_data(8 * CHUNK))


_PROGRAM: Final = """
import asyncio, sys
from upload_kit import ResumableUploader
from upload_kit.planning import Plan
from upload_kit.units import KIB

async def main(url, path):
    uploader = ResumableUploader(url, chunk_size=256 * KIB, history=False)
    await uploader.upload_file(path)

asyncio.run(main(*sys.argv[1:]))
"""


async def _killed_upload(server: ScriptedTus, query: str, path: Path) -> None:
    """Upload in another process, and kill it where the server stops reading."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, _url(server, query), path), cwd=_ROOT
    )
    async with asyncio.timeout(30):
        await server.stalled.wait()
    process.send_signal(signal.SIGKILL)
    await process.wait()
    server.stalled.clear()


@pytest.mark.parametrize("query", ["?checksum=off", "?parts=3"], ids=["one", "parts"])
async def test_a_killed_process_is_continued_in_mid_chunk(
    server: ScriptedTus, tmp_path: Path, query: str
) -> None:
    """After kill -9 another process goes on in the middle of the chunk."""
    path = tmp_path / "big.bin"
    path.write_bytes(_data(BIG))
    server.on("PATCH", None, Fault(stall_after=100 * KIB))
    await _killed_upload(server, query, path)
    held = sum(len(one.data) for one in server.uploads.values())
    assert held >= CHUNK + 100 * KIB

    seen = len(server.seen)
    result = await _resumable(server, query).upload_file(path)
    assert bytes(list(server.uploads.values())[-1].data) == _data(BIG)
    assert result.verified in {Verification.SIZE, Verification.CHUNKS}
    sent = sum(
        int(one.headers["Content-Length"])
        for one in server.seen[seen:]
        if one.method == "PATCH"
    )
    assert sent == BIG - held


@pytest.mark.parametrize("status", [404, 410], ids=str)
async def test_an_upload_that_expired_between_processes_is_begun_anew(
    server: ScriptedTus, tmp_path: Path, status: int
) -> None:
    """A session whose upload is gone makes a new one, without asking anybody."""
    path = tmp_path / "big.bin"
    path.write_bytes(_data(BIG))
    server.on("PATCH", None, Fault(status=400))
    with pytest.raises(RemoteRejected):
        await _resumable(server).upload_file(path)
    assert len(server.uploads) == 1

    server.on("HEAD", Fault(status=status))
    result = await _resumable(server).upload_file(path)
    assert result.success
    assert result.bytes_resumed == 0
    assert next(reversed(server.uploads.values())).data == _data(BIG)


async def test_an_upload_begun_as_one_stream_is_not_continued_in_parts(
    server: ScriptedTus,
) -> None:
    """What was begun in one way is begun anew where another way is asked for."""
    destination = make_destination(_url(server, "?parts=4"), ConnectionOptions())
    spec = UploadSpec(name="x", size=BIG)
    try:
        await destination.negotiate(spec)
        for token in (f"{server.url}abc", f'["{server.url}abc"]', "once-abc"):
            with pytest.raises(RemoteGone):
                await destination.reopen(spec, _plan(BIG), token)
    finally:
        await destination.aclose()


async def test_a_server_that_is_not_there_is_unavailable(server: ScriptedTus) -> None:
    """A connection that cannot be made is told as what it is."""
    url = _url(server).replace("/files/", "").rpartition(":")[0] + ":1/files/"
    uploader = ChunkedUploader(url, retry=QUICK, history=False)
    with pytest.raises(RemoteUnavailable, match="Cannot connect"):
        await uploader.upload_file(b"x")


_FAULTS: Final = st.one_of(
    st.none(),
    st.builds(Fault, cut_after=st.integers(0, 4096)),
    st.builds(Fault, status=st.sampled_from([409, 423, 500, 503])),
    st.just(Fault(lose_answer=True)),
    st.just(Fault(forget=True)),
)


@given(
    size=st.integers(0, 40 * KIB),
    chunk_size=st.integers(1500, 9000),
    faults=st.lists(_FAULTS, max_size=5),
    parts=st.sampled_from([1, 3]),
    checksums=st.sampled_from([(), ("sha1",), ("sha256",)]),
    known=st.booleans(),
)
async def test_bytes_out_are_bytes_in(
    *,
    size: int,
    chunk_size: int,
    faults: list[Fault | None],
    parts: int,
    checksums: tuple[str, ...],
    known: bool,
) -> None:
    """Whatever breaks, bytes out are bytes in, and sent is confirmed is total."""
    # An upload may be lost once only, and one that cannot be read again never.
    forgotten = [fault for fault in faults if fault and fault.forget]
    faults = [fault for fault in faults if fault not in forgotten]
    faults += forgotten[: int(known)]
    async with ScriptedTus(
        extensions=[name for name in EVERYTHING if name != "creation-with-upload"],
        checksums=checksums,
    ) as server:
        server.on("PATCH", *faults)
        uploader = ParallelUploader(
            _url(server, f"?parts={parts}"),
            chunk_size=chunk_size,
            retry=RetryPolicy(base_delay=0.0),
            history=False,
        )
        async with uploader:
            source = _data(size) if known else _pieces(_data(size), 1000)
            transfer = uploader.start(source)
            result = await transfer
        assert result.success
        assert bytes(next(reversed(server.uploads.values())).data) == _data(size)
        progress = transfer.progress
        assert progress.sent == progress.confirmed == progress.total == size
