"""The records: made from keywords, checked, never changed, JSON and back."""

from __future__ import annotations

import enum
import json
import typing
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upload_kit.errors import ConfigurationError
from upload_kit.models import (
    ChunkMetadata,
    FileUploadTask,
    Layer,
    Receipt,
    RemoteObject,
    SourceIdentity,
    Stage,
    StreamingProgress,
    UploadProgress,
    UploadResult,
    UploadSession,
    UploadSpec,
    UploadStatus,
    Verification,
)

if typing.TYPE_CHECKING:
    from upload_kit.records import Record

RECORDS: Final[list[type[Record]]] = [
    ChunkMetadata,
    FileUploadTask,
    Receipt,
    RemoteObject,
    SourceIdentity,
    StreamingProgress,
    UploadProgress,
    UploadResult,
    UploadSession,
    UploadSpec,
]
SHA256: Final = "0123456789abcdef" * 4

sizes: Final = st.integers(0, 2**70)
# Lone surrogates too: that is how Python names files whose names are no UTF-8.
texts: Final = st.text(st.characters(exclude_categories=()), max_size=10)
digests: Final = st.none() | st.text("0123456789abcdef", min_size=64, max_size=64)


PLAIN: Final[dict[Any, st.SearchStrategy[Any]]] = {
    int: sizes,
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: texts,
    bool: st.booleans(),
    type(None): st.none(),
    dict[str, str]: st.dictionaries(texts, texts, max_size=3),
}
BY_NAME: Final[dict[str, st.SearchStrategy[Any]]] = {
    "sha256": digests,
    "prefix_sha256": digests,
    "chunk_size": st.integers(1, 2**60),
}


def values(name: str, hint: Any) -> st.SearchStrategy[Any]:
    """Return what a field may hold, by its name or its type."""
    arguments = typing.get_args(hint)
    if name in BY_NAME or hint in PLAIN:
        return BY_NAME[name] if name in BY_NAME else PLAIN[hint]
    if typing.get_origin(hint) is tuple:
        return st.lists(values("", arguments[0]), max_size=3).map(tuple)
    if arguments:
        return st.one_of([values("", part) for part in arguments])
    if issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    return records(hint)


def records(kind: type[Record]) -> st.SearchStrategy[Record]:
    """Return records of a kind, with every field drawn."""
    fields = {
        name: values(name, hint) for name, hint in typing.get_type_hints(kind).items()
    }
    return st.builds(kind, **fields)


DRAWN: Final = {kind.__name__: records(kind) for kind in RECORDS}


def start_of(text: str) -> str:
    return ascii(text)[:20]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
def test_json_and_back_without_loss(kind: type[Record], data: st.DataObject) -> None:
    """Whatever the fields hold, one line of JSON brings the same record back."""
    record = data.draw(DRAWN[kind.__name__])
    text = record.to_json()
    assert "\n" not in text
    assert kind.from_json(text) == record
    assert kind.from_json(text.encode()) == record


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
def test_plain_types_and_back_without_loss(
    kind: type[Record], data: st.DataObject
) -> None:
    """A dictionary of plain types has a key a field, and makes the same record."""
    record = data.draw(DRAWN[kind.__name__])
    plain = record.to_dict()
    assert list(plain) == list(typing.get_type_hints(kind))
    assert kind.from_dict(plain) == record


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_records_are_frozen_slotted_and_take_keywords(kind: type[Record]) -> None:
    """Nobody changes a record that others read, nor adds a misspelt field."""
    parameters = kind.__dataclass_params__  # type: ignore[attr-defined] # Every dataclass has them.
    assert parameters.frozen
    assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)
    with pytest.raises(TypeError):
        kind("positional")  # type: ignore[call-arg] # That it is refused is the point.


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "7", "\udcff", '{"a":' + "[" * 9999],
    ids=start_of,
)
def test_what_is_no_record_is_refused(kind: type[Record], text: str) -> None:
    """The error names the record that was expected."""
    with pytest.raises(ConfigurationError, match=f"Not a {kind.__name__}"):
        kind.from_json(text)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_wrong_types_in_a_dictionary_are_refused(kind: type[Record]) -> None:
    """A record from plain types is checked as one from JSON is."""
    plain = {name: object() for name in typing.get_type_hints(kind)}
    with pytest.raises(ConfigurationError, match=f"Not a {kind.__name__}"):
        kind.from_dict(plain)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
def test_fields_of_a_later_version_are_passed_over(
    kind: type[Record], data: st.DataObject
) -> None:
    """A session written by a newer upload_kit is readable by an older one."""
    record = data.draw(DRAWN[kind.__name__])
    plain = {**record.to_dict(), "of_tomorrow": [1, {"a": None}]}
    assert kind.from_json(json.dumps(plain)) == record


@pytest.mark.parametrize(
    "kind", [ChunkMetadata, Receipt], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize(
    "wrong",
    [
        {"index": -1},
        {"size": -1},
        {"sha256": ""},
        {"sha256": SHA256.upper()},
        {"sha256": SHA256[:-1]},
        {"sha256": SHA256 + "\n"},
    ],
    ids=str,
)
def test_impossible_chunk_is_refused(kind: type[Record], wrong: dict[str, Any]) -> None:
    """However it is made: by hand, from a dictionary or from JSON."""
    fields = {"index": 0, "size": 5, "sha256": SHA256}
    fields |= {"start": 0} if kind is ChunkMetadata else {}
    assert kind.from_dict(fields).to_dict().items() >= fields.items()
    with pytest.raises(ConfigurationError):
        kind(**(fields | wrong))
    with pytest.raises(ConfigurationError):
        kind.from_dict(fields | wrong)
    with pytest.raises(ConfigurationError):
        kind.from_json(json.dumps(fields | wrong))


def test_impossible_prefix_is_refused() -> None:
    """It is checked like the digest that it stands for."""
    assert Receipt(index=1, size=5, prefix_sha256=SHA256).sha256 is None
    with pytest.raises(ConfigurationError, match="SHA-256"):
        Receipt(index=1, size=5, prefix_sha256=SHA256.upper())


def test_chunk_start_cannot_be_negative() -> None:
    """Offsets start at 0."""
    with pytest.raises(ConfigurationError, match="-1"):
        ChunkMetadata(index=0, start=-1, size=1)


def test_chunk_ends_behind_its_last_byte() -> None:
    """Ranges are half open."""
    assert ChunkMetadata(index=3, start=15, size=5).end == 20


def session(**changes: Any) -> UploadSession:
    fields: dict[str, Any] = {
        "session_id": "0" * 32,
        "name": "a",
        "source": None,
        "destination": "memory://x/",
        "size": 10,
        "chunk_size": 4,
        "total_chunks": 3,
    }
    return UploadSession(**(fields | changes))


@pytest.mark.parametrize("wrong", [{"chunk_size": 0}, {"chunk_size": -4}, {"size": -1}])
def test_impossible_session_is_refused(wrong: dict[str, Any]) -> None:
    """What a store could have broken is checked."""
    with pytest.raises(ConfigurationError):
        session(**wrong)


def test_session_sums_its_receipts() -> None:
    """Chunks and bytes completed are what the remote acknowledged, in any order."""
    receipts = (Receipt(index=2, size=2), Receipt(index=0, size=4))
    done = session(receipts=receipts)
    assert (done.chunks_completed, done.bytes_completed) == (2, 6)
    assert (session().chunks_completed, session().bytes_completed) == (0, 0)


def progress(**changes: Any) -> UploadProgress:
    return UploadProgress(transfer_id="t", name="n", **changes)


@pytest.mark.parametrize(
    ("total", "confirmed", "percent"),
    [(None, 5, None), (0, 0, 100.0), (10, 0, 0.0), (10, 5, 50.0), (10, 10, 100.0)],
)
def test_percent_counts_what_is_confirmed(
    total: int | None, confirmed: int, percent: float | None
) -> None:
    """Bytes in flight are not done; an empty file is; an unknown total has none."""
    state = progress(total=total, confirmed=confirmed, sent=confirmed)
    assert state.percent == percent
    assert state.fraction == (None if percent is None else percent / 100)


def test_in_flight_is_sent_and_not_confirmed() -> None:
    """The two numbers are told apart."""
    assert progress(sent=7, confirmed=4).in_flight == 3


def result(**changes: Any) -> UploadResult:
    return UploadResult(success=True, name="n", **changes)


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        ({"size": 100, "seconds": 2.0}, 50.0),
        ({"size": 100, "seconds": 2.0, "bytes_resumed": 60}, 20.0),
        ({"size": 100, "seconds": 2.0, "bytes_resumed": 100}, 0.0),
        ({"size": 100, "seconds": 0.0}, 0.0),
        ({"size": None, "seconds": 1.0}, 0.0),
    ],
    ids=str,
)
def test_rate_leaves_out_what_was_there_before(
    fields: dict[str, Any], rate: float
) -> None:
    """A resumed upload is not faster than the wire."""
    assert result(**fields).rate == rate


@pytest.mark.parametrize("status", UploadStatus)
def test_stream_ends_with_a_final_status(status: UploadStatus) -> None:
    """Complete, failed and cancelled are final; pending, uploading and paused not."""
    line = StreamingProgress(kind="x", progress=progress(status=status), at=0.0)
    assert line.is_final is (status.value in {"complete", "failed", "cancelled"})
    assert status.is_final is line.is_final


def test_task_statuses_are_there() -> None:
    """A task is pending, uploading, complete or failed, as the records name them."""
    assert {"pending", "uploading", "complete", "failed"} <= set(UploadStatus)
    assert FileUploadTask(task_id="t", name="n").status is UploadStatus.PENDING


def test_words_are_what_json_shows() -> None:
    """Enumerations are strings, so that readers of JSON need no table."""
    assert [layer.value for layer in Layer] == ["foundation", "feature", "polish"]
    assert json.loads(result(verified=Verification.SHA256).to_json())["verified"] == (
        "sha256"
    )
    assert " ".join(Stage).startswith("validating planning uploading verifying")
