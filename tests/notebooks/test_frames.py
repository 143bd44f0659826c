"""DataFrames: one schema, empty or full, that survives parquet and holds no secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from pandas.api.types import pandas_dtype

from upload_kit.api.lookup import history_columns, sessions
from upload_kit.api.samples import Sample
from upload_kit.api.starting import start, upload
from upload_kit.errors import SourceError, UploadKitError
from upload_kit.models import (
    ChunkMetadata,
    SourceIdentity,
    UploadResult,
    UploadSession,
    UploadStatus,
)
from upload_kit.notebook.frames import (
    CHUNKS,
    HISTORY,
    HISTORY_FIELDS,
    SAMPLES,
    SESSIONS,
    chunks_frame,
    history_frame,
    samples_frame,
    sessions_frame,
)
from upload_kit.sessions.history import FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "planted-7c2e"


def session(**changes: Any) -> UploadSession:
    return UploadSession(
        **{
            "session_id": "ab" * 16,
            "name": "big.bin",
            "source": "/data/big.bin",
            "destination": "http://127.0.0.1/",
            "size": 1000,
            "chunk_size": 100,
            "total_chunks": 10,
            "identity": SourceIdentity(size=1000, mtime_ns=1),
            "remote_token": SECRET,
            "created_at": 1.5,
            "updated_at": 2.25,
            **changes,
        }
    )


def full_history() -> pd.DataFrame:
    upload(b"some bytes", "memory://frames/", name="a.bin")
    with pytest.raises(SourceError):
        upload("/no/such/file", "memory://frames/", layer="feature")
    return history_frame(history_columns())


FRAMES: dict[str, tuple[dict[str, Any], Callable[[], Any], Callable[[], Any]]] = {
    "history": (HISTORY, lambda: history_frame({}), full_history),
    "sessions": (
        SESSIONS,
        lambda: sessions_frame([]),
        lambda: sessions_frame([session(), session(size=None, source=None)]),
    ),
    "chunks": (
        CHUNKS,
        lambda: chunks_frame(UploadResult(success=False, name="x")),
        lambda: chunks_frame(
            UploadResult(
                success=True,
                name="x",
                chunks=(ChunkMetadata(index=0, start=0, size=5, sha256="0" * 64),),
            )
        ),
    ),
    "samples": (
        SAMPLES,
        lambda: samples_frame([]),
        lambda: samples_frame(
            [
                Sample(at=10.0, elapsed=0.0, sent=0, confirmed=0),
                Sample(at=11.0, elapsed=1.0, sent=2_000_000, confirmed=1_000_000),
                Sample(at=12.0, elapsed=2.0, sent=1_000_000, confirmed=1_000_000),
            ]
        ),
    ),
}


@pytest.mark.parametrize("which", FRAMES)
@pytest.mark.parametrize("full", [False, True], ids=["empty", "full"])
def test_the_schema_is_always_the_same(which: str, full: bool) -> None:  # noqa: FBT001
    """Columns and types do not depend on whether there is anything."""
    schema, empty, filled = FRAMES[which]
    frame = (filled if full else empty)()
    assert (len(frame) > 0) is full
    expected = {name: pandas_dtype(dtype) for name, dtype in schema.items()}
    assert dict(frame.dtypes) == expected


@pytest.mark.parametrize("which", FRAMES)
def test_parquet_keeps_types_and_attributes(which: str, tmp_path: Path) -> None:
    """What was written to parquet comes back as it was."""
    frame = FRAMES[which][2]()
    frame.to_parquet(tmp_path / "frame.parquet")
    back = pd.read_parquet(tmp_path / "frame.parquet")
    pd.testing.assert_frame_equal(back, frame)
    assert back.attrs == frame.attrs
    assert json.loads(json.dumps(frame.attrs)) == frame.attrs


def test_every_field_of_the_history_is_a_column() -> None:
    """A field that is added to the history is not forgotten here."""
    assert tuple(HISTORY_FIELDS) == FIELDS
    assert set(HISTORY_FIELDS.values()) == set(HISTORY)


def test_the_history_holds_what_happened() -> None:
    """Units are converted, and what is missing is missing."""
    frame = full_history()
    rows: list[Any] = list(frame.itertuples())
    done, failed = rows
    assert (done.status, failed.status) == ("complete", "failed")
    assert (done.bytes_total, done.layer) == (10, "polish")
    assert pd.isna(failed.bytes_total)
    assert failed.error_type == "SourceError"
    assert done.finished_at - done.started_at >= done.elapsed.floor("ms")
    assert abs((pd.Timestamp.now("UTC") - done.started_at).total_seconds()) < 60


def test_a_session_says_how_much_is_there() -> None:
    """An unfinished upload's share is in percent, and its secret is nowhere."""
    frame = sessions_frame(
        [session(status=UploadStatus.PAUSED), session(size=0), session(size=None)]
    )
    assert frame.percent.tolist()[:2] == [0.0, 100.0]
    assert pd.isna(frame.percent[2])
    assert frame.created_at[0] == pd.Timestamp(1.5, unit="s", tz="UTC")
    assert frame.expires_at.isna().all()
    assert SECRET not in frame.to_csv() + str(frame.attrs)


def test_speed_is_never_negative() -> None:
    """A retry takes bytes back; the speed of that moment is none."""
    frame = FRAMES["samples"][2]()
    assert frame.throughput_mb_s.tolist()[1:] == [2.0, 0.0]


def test_a_job_has_samples_and_a_result_chunks() -> None:
    """The handle and the result make the frames themselves."""
    job = start(bytes(300_000), "memory://frames/", chunk_size="100kB")
    result = job.result(20)
    chunks = result.chunks_frame()
    assert chunks["bytes"].sum() == 300_000
    assert chunks.start.tolist() == [0, 100_000, 200_000]
    samples = job.samples()
    assert samples.confirmed_bytes.iloc[-1] == 300_000
    assert samples.elapsed_s.is_monotonic_increasing


def test_no_secret_of_a_url_in_any_frame(tmp_path: Path) -> None:
    """Passwords and signatures of a destination are in no frame."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"x")
    url = f"http://me:{SECRET}@127.0.0.1:9/?sig={SECRET}"
    with pytest.raises(UploadKitError):
        upload(path, url)
    frames = [history_frame(history_columns()), sessions_frame(sessions())]
    assert len(frames[0]) == 1
    for frame in frames:
        assert SECRET not in frame.to_csv() + str(frame.attrs)
