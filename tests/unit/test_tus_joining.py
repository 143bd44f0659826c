"""Parts by tus are joined: in order, once, also after a kill."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import pytest

from tests.servers.tus_api import (
    TusApi,
    held_by_another_process,
    metadata,
    path_of,
    published,
    sent_parts,
    tus_server,
    unfinished,
    write_behind_its_back,
)
from tests.servers.upload import (
    digest_field,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

DATA: Final = os.urandom(600_000)
SIZE: Final = len(DATA)
_NO_SUCH: Final = f"files/{'0' * 32}"


async def test_parts_are_joined(tus: TusApi, tmp_path: Path) -> None:
    """The whole is its parts in the order of the list, and then they are gone."""
    first, second = await sent_parts(tus, DATA[:100_000], DATA[100_000:])
    head = await tus.head(first)
    assert head.headers["Upload-Concat"] == "partial"
    assert head.headers["Upload-Offset"] == "100000"
    assert published(tmp_path) == []

    reply = await tus.joined(
        first,
        second,
        Upload_Metadata=metadata(filename="w"),
        Want_Repr_Digest="sha-256=1",
    )
    assert reply.status == 201
    whole = tus.address(reply)
    head = await tus.head(whole)
    assert head.headers["Upload-Length"] == head.headers["Upload-Offset"] == str(SIZE)
    assert head.headers["Upload-Concat"] == f"final;{first} {second}"
    assert head.headers["Upload-Metadata"] == metadata(filename="w")
    assert head.headers["Repr-Digest"] == digest_field(DATA)
    assert published(tmp_path) == [DATA]
    assert unfinished(tmp_path) == []
    assert (await tus.head(first)).status == 404


@pytest.mark.parametrize("form", ["absolute", "path", "relative", "foreign"])
async def test_addresses_of_parts_are_ids_of_ours(
    tus: TusApi, tmp_path: Path, form: str
) -> None:
    """However an address is written, what counts is which of our uploads it names."""
    (url,) = await sent_parts(tus, b"hello")
    upload_id = url.rpartition("/")[2]
    written = {
        "absolute": url,
        "path": f"/files/{upload_id}",
        "relative": upload_id,
        "foreign": f"https://example.org/files/{upload_id}/",
    }[form]
    assert (await tus.joined(written)).status == 201
    assert published(tmp_path) == [b"hello"]


async def test_a_part_may_be_there_twice(tus: TusApi, tmp_path: Path) -> None:
    """The same part may be joined several times in one whole."""
    one, two = await sent_parts(tus, b"ab", b"c")
    whole = tus.address(await tus.joined(one, two, one, one))
    assert await tus.offset(whole) == 7
    assert published(tmp_path) == [b"abcabab"]


async def test_joining_again_is_the_same(tus: TusApi, tmp_path: Path) -> None:
    """A request that is repeated, because its answer was lost, makes no second file."""
    urls = await sent_parts(tus, b"hel", b"lo")
    replies = await asyncio.gather(*(tus.joined(*urls) for _ in range(5)))
    replies.append(await tus.joined(*urls))
    assert {reply.status for reply in replies} == {201}
    assert len({reply.headers["Location"] for reply in replies}) == 1
    assert published(tmp_path) == [b"hello"]
    assert unfinished(tmp_path) == []


async def test_parts_may_still_be_on_their_way(tus: TusApi, tmp_path: Path) -> None:
    """A whole may be asked for first; it is made when its last part is whole."""
    first = await tus.begun(3, Upload_Concat="partial")
    (second,) = await sent_parts(tus, b"lo ")
    third = await tus.begun(None, Upload_Concat="partial")
    reply = await tus.joined(first, second, third)
    assert reply.status == 201
    whole = tus.address(reply)
    head = await tus.head(whole)
    assert head.status == 200
    assert "Upload-Offset" not in head.headers
    assert "Upload-Length" not in head.headers
    assert "Upload-Defer-Length" not in head.headers
    assert head.headers["Upload-Concat"].startswith("final;")
    assert (await tus.joined(first, second, third)).headers["Location"] == (
        reply.headers["Location"]
    )

    await tus.patch(first, 0, b"hel")
    await tus.patch(third, 0, b"you")
    assert "Upload-Offset" not in (await tus.head(whole)).headers
    await tus.patch(third, 3, b"", Upload_Length="3")
    head = await tus.until_complete(whole)
    assert head.headers["Upload-Length"] == "9"
    assert published(tmp_path) == [b"hello you"]
    await until(lambda: not unfinished(tmp_path))


async def test_a_length_that_can_be_computed_is_told(tus: TusApi) -> None:
    """The length of a whole is known as soon as those of its parts are."""
    one = await tus.begun(3, Upload_Concat="partial")
    two = await tus.begun(4, Upload_Concat="partial")
    head = await tus.head(tus.address(await tus.joined(one, two)))
    assert head.headers["Upload-Length"] == "7"
    assert "Upload-Offset" not in head.headers


async def test_a_part_that_others_wait_for_stays(tus: TusApi, tmp_path: Path) -> None:
    """A part goes only when nothing waits for it any more."""
    shared = await tus.begun(2, Upload_Concat="partial")
    other = await tus.begun(1, Upload_Concat="partial")
    one = tus.address(await tus.joined(shared))
    two = tus.address(await tus.joined(shared, other))
    await tus.patch(shared, 0, b"ab")
    await tus.until_complete(one)
    await tus.patch(other, 0, b"c")
    await tus.until_complete(two)
    await until(lambda: not unfinished(tmp_path))
    assert sorted(published(tmp_path)) == [b"ab", b"abc"]


@pytest.mark.parametrize("complete", [False, True], ids=["waiting", "complete"])
async def test_a_joined_upload_takes_no_bytes(
    tus: TusApi,
    tmp_path: Path,
    complete: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    """403 for a PATCH to a final upload, and neither it nor its parts change."""
    part = await tus.begun(5, Upload_Concat="partial")
    if complete:
        await tus.patch(part, 0, b"hello")
    whole = tus.address(await tus.joined(part))
    for offset in (0, 5):
        assert (await tus.patch(whole, offset, b"x")).status == 403
    assert (await tus.head(part)).status == (404 if complete else 200)
    assert published(tmp_path) == ([b"hello"] if complete else [])


async def test_what_cannot_be_joined_is_refused(tus: TusApi, tmp_path: Path) -> None:
    """404 for a part that is not there, 400 for an upload that is no part."""
    (part,) = await sent_parts(tus, b"x")
    assert (await tus.joined(part, _NO_SUCH)).status == 404
    for foreign in ("../../etc/passwd", "/files/%2e%2e", "x"):
        assert (await tus.joined(part, foreign)).status == 400
    plain = await tus.begun(5)
    assert (await tus.joined(part, plain)).status == 400
    native = await tus.api.begun(b"hello", 5)
    assert (await tus.joined(part, f"/files/{native}")).status == 400
    assert (await tus.create(b"x", Upload_Concat=f"final;{part}")).status == 400
    assert await tus.offset(part) == 1
    assert published(tmp_path) == []


async def test_a_part_is_gone_and_so_is_the_whole(tus: TusApi) -> None:
    """A whole whose part was removed waits until it expires, and harms nobody."""
    one = await tus.begun(3, Upload_Concat="partial")
    (two,) = await sent_parts(tus, b"lo")
    whole = tus.address(await tus.joined(one, two))
    await tus.delete(two)
    assert (await tus.patch(one, 0, b"hel")).status == 204
    assert "Upload-Offset" not in (await tus.head(whole)).headers
    assert (await tus.delete(whole)).status == 204


async def test_parts_that_are_held_are_not_joined(tmp_path: Path) -> None:
    """423 while somebody works on a part for too long; afterwards it is joined."""
    async with tus_server(tmp_path / "s", busy_timeout=0.2) as tus:
        urls = await sent_parts(tus, b"hel", b"lo")
        async with held_by_another_process(tmp_path / "s", urls[1]):
            assert (await tus.joined(*urls)).status == 423
            assert len(unfinished(tmp_path)) == 2
        assert (await tus.joined(*urls)).status == 201
    assert published(tmp_path) == [b"hello"]


async def test_joining_goes_on_after_a_kill(tmp_path: Path) -> None:
    """A server that was killed before it had joined does so when it is asked."""
    async with tus_server(tmp_path / "s") as tus:
        part = await tus.begun(5, Upload_Concat="partial")
        whole = path_of(tus.address(await tus.joined(part)))[1:]
    await asyncio.to_thread(write_behind_its_back, tmp_path / "s", part)
    async with tus_server(tmp_path / "s") as tus:
        await tus.until_complete(whole)
    assert published(tmp_path) == [b"hello"]


async def test_empty_parts_are_parts(tus: TusApi, tmp_path: Path) -> None:
    """Nothing at all can be joined too."""
    urls = await sent_parts(tus, b"", b"hello", b"")
    await tus.joined(*urls)
    assert published(tmp_path) == [b"hello"]
    await tus.joined(*await sent_parts(tus, b""))
    assert sorted(published(tmp_path)) == [b"", b"hello"]
