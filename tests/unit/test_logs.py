"""Log lines: one a record, with the IDs of what they are about, never a secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.config import Secret
from upload_kit.errors import UploadKitError
from upload_kit.logs import (
    IdFilter,
    JsonFormatter,
    LogFormat,
    LogSettings,
    TextFormatter,
    about,
    current_ids,
    log_settings,
    note,
    scrub,
    set_up_logging,
)
from upload_kit.server import ServerConfig, running_server
from upload_kit.uploaders.chunked import ChunkedUploader
from upload_kit.uploaders.parallel import ParallelUploader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

logger = logging.getLogger("upload_kit.transfer")


@pytest.fixture
def lines() -> Iterator[Callable[[LogSettings], io.StringIO]]:
    """Log into memory, and put everything back afterwards."""
    root = logging.getLogger("upload_kit")
    before = (list(root.handlers), root.level, logger.level)

    def into_memory(settings: LogSettings) -> io.StringIO:
        text = io.StringIO()
        set_up_logging(settings, handler=logging.StreamHandler(text))
        return text

    yield into_memory
    root.handlers[:], level, transfer_level = before
    root.setLevel(level)
    logger.setLevel(transfer_level)


def record_of(message: str, *arguments: object, error: bool = False) -> Any:
    failure = UploadKitError("It broke at https://u:hunter2@host/x?sig=abc.")
    info = (type(failure), failure, None) if error else None
    return logging.LogRecord(
        "upload_kit.transfer", logging.INFO, "x.py", 1, message, arguments, info
    )


async def test_every_line_of_an_upload_carries_its_id(
    tmp_path: Path, lines: Callable[[LogSettings], io.StringIO]
) -> None:
    """Lines of two uploads at once can be told apart, whoever of them logged."""
    text = lines(LogSettings(verbosity=2, form=LogFormat.JSON))
    uploader = ParallelUploader("memory://logs/", chunk_size=1000, history=False)
    results = await uploader.upload_files({"a.bin": bytes(5000), "b.bin": bytes(5000)})
    documents = [json.loads(line) for line in text.getvalue().splitlines()]
    of = {result.name: result.transfer_id for result in results}
    about_uploads = [one for one in documents if one["logger"] == "upload_kit.transfer"]
    assert {one["transfer_id"] for one in about_uploads} == set(of.values())
    for name, transfer_id in of.items():
        told = [one for one in about_uploads if one["message"].startswith(f"{name}:")]
        assert len(told) >= 2
        assert {one["transfer_id"] for one in told} == {transfer_id}


async def test_requests_are_told_without_their_secrets(
    tmp_path: Path, lines: Callable[[LogSettings], io.StringIO]
) -> None:
    """Every request of an upload is a line at DEBUG; no token is in any of them."""
    text = lines(LogSettings(verbosity=2, form=LogFormat.JSON))
    config = ServerConfig(directory=tmp_path, port=0, tokens=(Secret("me:hunter2"),))
    async with running_server(config) as server:
        uploader = ParallelUploader(
            f"{server.url}?sig=swordfish",
            token="hunter2",
            headers={"X-Secret": "open-sesame"},
            history=False,
        )
        result = await uploader.upload_file(bytes(3_000_000), name="a.bin")
    documents = [json.loads(line) for line in text.getvalue().splitlines()]
    requests = [one for one in documents if one["logger"] == "upload_kit.wire"]
    assert len(requests) >= 2
    assert {one["transfer_id"] for one in requests} == {result.transfer_id}
    for secret in ("hunter2", "swordfish", "open-sesame"):
        assert secret not in text.getvalue()


async def test_the_server_tells_of_every_upload_and_request(
    tmp_path: Path, lines: Callable[[LogSettings], io.StringIO]
) -> None:
    """A line tells which upload and request it is about; uploads begin and end."""
    text = lines(LogSettings(verbosity=2, form=LogFormat.JSON))
    async with running_server(ServerConfig(directory=tmp_path, port=0)) as server:
        uploader = ChunkedUploader(server.url, chunk_size=2_000_000, history=False)
        await uploader.upload_file(bytes(3_000_000), name="a.bin")
        await uploader.upload_file(b"small", name="b.bin")
    documents = [json.loads(line) for line in text.getvalue().splitlines()]
    told = [one for one in documents if one["logger"] == "upload_kit.server"]
    assert all("request_id" in one for one in told)
    of_a = {one["message"]: one for one in told if one["message"].startswith("a.bin")}
    assert list(of_a) == [
        "a.bin begins, 3000000 bytes",
        "a.bin is complete, 3000000 bytes",
    ]
    (upload_id,) = {one["upload_id"] for one in of_a.values()}
    chunks = [one for one in told if one["message"].startswith("PUT")]
    assert [one["upload_id"] for one in chunks] == [upload_id, upload_id]
    assert len({one["request_id"] for one in chunks}) == 2
    assert any(one["message"].startswith("b.bin is complete") for one in told)


async def test_ids_reach_tasks_and_end_with_their_block() -> None:
    """A task that is begun inside carries the IDs; afterwards nobody does."""

    async def look() -> dict[str, str]:
        return dict(current_ids())

    with about(request="r1"):
        note(upload="u1")
        with about(transfer="t1"):
            inner = await asyncio.create_task(look())
        assert dict(current_ids()) == {"request": "r1", "upload": "u1"}
    assert inner == {"request": "r1", "upload": "u1", "transfer": "t1"}
    assert dict(current_ids()) == {}


def test_a_filter_names_the_ids_for_handlers_of_others() -> None:
    """Whoever has handlers of their own gets the IDs as attributes of the record."""
    record = record_of("x")
    with about(transfer="t1"):
        assert IdFilter().filter(record)
    assert (record.transfer_id, record.request_id) == ("t1", None)


@pytest.mark.parametrize("form", list(LogFormat))
def test_a_level_hides_what_is_below_it(
    form: LogFormat, lines: Callable[[LogSettings], io.StringIO]
) -> None:
    """Without -v only warnings, with -v also info, with -vv everything."""
    counts = []
    for verbosity in range(3):
        text = lines(LogSettings(verbosity=verbosity, form=form))
        logger.debug("one")
        logger.info("two")
        logger.warning("three")
        counts.append(len(text.getvalue().splitlines()))
    assert counts == [1, 2, 3]


def test_setting_up_twice_writes_each_line_once(
    lines: Callable[[LogSettings], io.StringIO],
) -> None:
    """The last call counts, and only it."""
    first = lines(LogSettings(verbosity=2))
    second = lines(LogSettings(form=LogFormat.JSON))
    logger.warning("only once")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "only once"


def test_retries_are_told_by_the_display_where_there_is_one(
    lines: Callable[[LogSettings], io.StringIO],
) -> None:
    """Nobody reads twice of a retry; a program that reads JSON has no display."""
    text = lines(LogSettings(has_display=True))
    logger.warning("retry")
    assert text.getvalue() == ""
    machine = lines(LogSettings(has_display=True, form=LogFormat.JSON))
    logger.warning("retry")
    assert json.loads(machine.getvalue())["level"] == "warning"


@pytest.mark.parametrize("form", list(LogFormat))
@pytest.mark.parametrize("verbosity", range(3))
def test_settings_can_be_handed_to_another_process(
    form: LogFormat, verbosity: int, lines: Callable[[LogSettings], io.StringIO]
) -> None:
    """What is in force can be read back, so that a worker logs as its parent does."""
    settings = LogSettings(verbosity=verbosity, form=form)
    lines(settings)
    assert log_settings() == settings


@given(message=st.text())
def test_a_message_is_one_line_whatever_it_holds(message: str) -> None:
    """No file name can end a line and begin another that somebody would believe."""
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record_of("%s", message))
        assert line.splitlines() == [line]


def test_json_tells_everything_of_an_error() -> None:
    """A program finds the traceback in a field, and text below the line."""
    with about(transfer="t1", request="r1"):
        document = json.loads(JsonFormatter().format(record_of("no", error=True)))
        text = TextFormatter().format(record_of("no", error=True))
    assert document["transfer_id"] == "t1"
    assert document["request_id"] == "r1"
    assert "UploadKitError: It broke" in document["traceback"]
    assert "[transfer=t1 request=r1]: no\nupload_kit.errors.UploadKitError" in text
    assert "hunter2" not in text + str(document)
    assert "sig=abc" not in text + str(document)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        pytest.param("GET https://u:hunter2@host/", "hunter2", id="password"),
        pytest.param("to s3://b/k?X-Amz-Signature=hunter2&x=1", "hunter2", id="sig"),
        pytest.param("Authorization: Bearer hunter2", "hunter2", id="bearer"),
        pytest.param("{'Authorization': 'Basic aHVudGVy'}", "aHVudGVy", id="basic"),
    ],
)
def test_what_looks_like_a_credential_is_hidden(text: str, secret: str) -> None:
    """Even a message that should not hold a secret does not tell it."""
    assert secret not in scrub(text)
    assert "***" in scrub(text)
