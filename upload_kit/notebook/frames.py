"""
DataFrames of what was uploaded, what is unfinished, chunks and speed.

Each has a fixed schema, also when it is empty, so that code which works today works on
the first day too. Types survive parquet. Attributes hold JSON only: parquet drops all
of them for the sake of one that is not.
"""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from upload_kit.models import UploadStatus
from upload_kit.sessions.owners import is_held

try:
    import pyarrow as pa  # type: ignore[import-untyped] # it brings no types
except ImportError:  # pragma: no cover (the extra brings it)
    pa = None

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from upload_kit.api.samples import Sample
    from upload_kit.models import UploadResult, UploadSession

_MB: Final = 1e6
_MOMENT: Final = pd.DatetimeTZDtype("us", "UTC")
_STATUS: Final = pd.CategoricalDtype([status.value for status in UploadStatus])
_SPAN: Final = "timedelta64[us]"
_TEXT: Final = "string"
_STRING: Final[Any] = pd.StringDtype()

HISTORY: Final[dict[str, Any]] = {
    "transfer_id": _TEXT,
    "started_at": _MOMENT,
    "finished_at": _MOMENT,
    "name": _TEXT,
    "source": _TEXT,
    "destination": _TEXT,
    "layer": _TEXT,
    "status": _STATUS,
    "bytes_total": "Int64",
    "bytes_sent": "Int64",
    "bytes_resumed": "Int64",
    "elapsed": _SPAN,
    "throughput_mb_s": "float64",
    "chunks": "Int64",
    "chunk_size": "Int64",
    "max_parallel": "Int64",
    "retries": "Int64",
    "retry_causes": _TEXT,
    "compression_ratio": "float64",
    "sha256": _TEXT,
    "verified": _TEXT,
    "error_type": _TEXT,
    "error": _TEXT,
    "session_id": _TEXT,
    "rtt_ms": "float64",
}
"""A row an upload. `elapsed` is a time span, `throughput_mb_s` counts MB of 10^6."""

HISTORY_FIELDS: Final = {
    "transfer_id": "transfer_id",
    "started_at": "started_at",
    "finished_at": "finished_at",
    "name": "name",
    "source": "source",
    "destination": "destination",
    "layer": "layer",
    "status": "status",
    "size": "bytes_total",
    "bytes_sent": "bytes_sent",
    "bytes_resumed": "bytes_resumed",
    "seconds": "elapsed",
    "rate": "throughput_mb_s",
    "chunks": "chunks",
    "chunk_size": "chunk_size",
    "max_parallel": "max_parallel",
    "retries": "retries",
    "retry_causes": "retry_causes",
    "compression_ratio": "compression_ratio",
    "sha256": "sha256",
    "verified": "verified",
    "error_type": "error_type",
    "error": "error",
    "session_id": "session_id",
    "rtt": "rtt_ms",
}
"""Fields of `HistoryRow`, and the columns that they become."""

SESSIONS: Final[dict[str, Any]] = {
    "session_id": _TEXT,
    "name": _TEXT,
    "status": _STATUS,
    "percent": "float64",
    "bytes_confirmed": "Int64",
    "bytes_total": "Int64",
    "chunks_confirmed": "Int64",
    "chunks_total": "Int64",
    "destination": _TEXT,
    "source": _TEXT,
    "created_at": _MOMENT,
    "updated_at": _MOMENT,
    "expires_at": _MOMENT,
    "in_use": "boolean",
    "resumable": "boolean",
    "error": _TEXT,
}
"""A row an unfinished upload. `in_use`: a process works on it now."""

CHUNKS: Final[dict[str, Any]] = {
    "index": "Int64",
    "start": "Int64",
    "bytes": "Int64",
    "sha256": _TEXT,
}
"""A row a chunk that was confirmed. `start` is its offset in the file, in bytes."""

SAMPLES: Final[dict[str, Any]] = {
    "at": _MOMENT,
    "elapsed_s": "float64",
    "sent_bytes": "Int64",
    "confirmed_bytes": "Int64",
    "throughput_mb_s": "float64",
}
"""A row a moment. `throughput_mb_s`: sent since the row before, MB of 10^6."""


def history_frame(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """
    Return the history, with the schema `HISTORY`.

    Args:
        columns: A list a field of `HistoryRow`, as the history's `columns` has it.
    """
    data: dict[str, Any] = {
        HISTORY_FIELDS[field]: values for field, values in columns.items()
    }
    if data:
        for name in ("started_at", "finished_at"):
            data[name] = _moments(data[name])
        data["elapsed"] = _spans(data["elapsed"])
        data["throughput_mb_s"] = _floats(data["throughput_mb_s"]) / _MB
        data["rtt_ms"] = _floats(data["rtt_ms"]) * 1000
        data["retry_causes"] = [_causes(causes) for causes in data["retry_causes"]]
    return _frame("history", HISTORY, data)


def sessions_frame(sessions: Iterable[UploadSession]) -> pd.DataFrame:
    """Return unfinished uploads, with the schema `SESSIONS`; without their secrets."""
    rows = [_session_row(session) for session in sessions]
    data: dict[str, Any] = {name: [row[name] for row in rows] for name in SESSIONS}
    for name in ("created_at", "updated_at", "expires_at"):
        data[name] = _moments(data[name])
    return _frame("sessions", SESSIONS, data)


def _session_row(session: UploadSession) -> dict[str, object]:
    done, size = session.bytes_completed, session.size
    held = is_held(session, time.time())
    return {
        "session_id": session.session_id,
        "name": session.name,
        "status": session.status.value,
        "percent": None if size is None else 100 * done / size if size else 100.0,
        "bytes_confirmed": done,
        "bytes_total": size,
        "chunks_confirmed": session.chunks_completed,
        "chunks_total": session.total_chunks,
        "destination": session.destination,
        "source": session.source,
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "expires_at": session.expires_at,
        "in_use": held,
        "resumable": session.source is not None and not held,
        "error": session.error,
    }


def chunks_frame(result: UploadResult) -> pd.DataFrame:
    """Return the chunks of an upload, with the schema `CHUNKS`."""
    data = {
        "index": [chunk.index for chunk in result.chunks],
        "start": [chunk.start for chunk in result.chunks],
        "bytes": [chunk.size for chunk in result.chunks],
        "sha256": [chunk.sha256 for chunk in result.chunks],
    }
    return _frame("chunks", CHUNKS, data)


def samples_frame(samples: Sequence[Sample]) -> pd.DataFrame:
    """Return bytes over time, with the schema `SAMPLES`."""
    elapsed = _floats([sample.elapsed for sample in samples])
    sent = _floats([sample.sent for sample in samples])
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.diff(sent, prepend=np.nan) / np.diff(elapsed, prepend=np.nan) / _MB
    # A retry takes back what it has to send again.
    rate[~np.isfinite(rate)] = np.nan
    data = {
        "at": _moments([sample.at for sample in samples]),
        "elapsed_s": elapsed,
        "sent_bytes": [sample.sent for sample in samples],
        "confirmed_bytes": [sample.confirmed for sample in samples],
        "throughput_mb_s": rate.clip(min=0),
    }
    return _frame("samples", SAMPLES, data)


def _frame(
    what: str, schema: Mapping[str, Any], data: Mapping[str, Any]
) -> pd.DataFrame:
    frame = pd.DataFrame(
        {name: _column(data.get(name, []), schema[name]) for name in schema},
        copy=False,
    )
    frame.attrs = {
        "schema": f"upload_kit.{what}/1",
        "upload_kit": version("upload_kit"),
        "python": platform.python_version(),
        "host": platform.node(),
    }
    return frame


def _column(values: Any, dtype: Any) -> Any:
    if dtype == _TEXT and pa is not None:
        # Six times as fast as by way of pandas, for a hundred thousand rows.
        return _STRING.__from_arrow__(pa.array(values, pa.string()))
    return pd.Series(values, dtype=dtype)


def _floats(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(values, dtype="float64")


def _moments(seconds: Sequence[Any]) -> pd.Series[Any]:
    """Turn seconds since the epoch into moments, to the microsecond."""
    return pd.Series(_microseconds(seconds).astype("datetime64[us]")).dt.tz_localize(
        "UTC"
    )


def _spans(seconds: Sequence[Any]) -> np.ndarray[Any, Any]:
    return _microseconds(seconds).astype("timedelta64[us]")


def _microseconds(seconds: Sequence[Any]) -> np.ndarray[Any, Any]:
    micro = np.round(_floats(seconds) * 1e6)
    missing = np.isnan(micro)
    whole = np.where(missing, 0, micro).astype("int64")
    whole[missing] = np.iinfo("int64").min  # What NumPy takes for "not a time".
    return whole


def _causes(causes: Mapping[str, int] | None) -> str | None:
    if not causes:
        return None
    return ", ".join(f"{name}: {count}" for name, count in sorted(causes.items()))
