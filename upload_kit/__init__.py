"""
Move big files to where they belong, and prove that they arrived.

Names are imported when first used: `import upload_kit` pulls in neither pandas nor
ipywidgets nor a cloud's package.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from upload_kit.api.jobs import Job, jobs
    from upload_kit.api.serving import serve
    from upload_kit.bench.benchmark import benchmark
    from upload_kit.config import Compression, ConnectionOptions, RetryPolicy, Secret
    from upload_kit.demo.face import demo
    from upload_kit.errors import (
        AuthenticationFailed,
        ConfigurationError,
        IntegrityError,
        MissingExtra,
        OffsetConflict,
        RemoteError,
        RemoteGone,
        RemoteRejected,
        RemoteUnavailable,
        SessionConflict,
        SessionCorrupt,
        SessionError,
        SessionExpired,
        SessionNotFound,
        SourceChanged,
        SourceError,
        TransferStalled,
        UploadCancelled,
        UploadKitError,
    )
    from upload_kit.events import EventKind, UploadEvent
    from upload_kit.models import (
        ChunkMetadata,
        FileUploadTask,
        Layer,
        Receipt,
        RemoteObject,
        Stage,
        StreamingProgress,
        UploadProgress,
        UploadResult,
        UploadSession,
        UploadStatus,
        Verification,
    )
    from upload_kit.notebook.doctor import doctor
    from upload_kit.notebook.face import (
        history,
        resume,
        sessions,
        start,
        start_many,
        upload,
        upload_many,
    )
    from upload_kit.notebook.magics import load_ipython_extension
    from upload_kit.notebook.nested import allow_nested
    from upload_kit.progress.tracker import ProgressTracker
    from upload_kit.sessions.manager import SessionManager
    from upload_kit.throttle import BandwidthThrottle
    from upload_kit.transfer import Transfer
    from upload_kit.uploaders.chunked import ChunkedUploader
    from upload_kit.uploaders.parallel import ParallelUploader
    from upload_kit.uploaders.resumable import ResumableUploader

_MODULES: Final = {
    "api.jobs": ("Job", "jobs"),
    "api.serving": ("serve",),
    "bench.benchmark": ("benchmark",),
    "config": ("Compression", "ConnectionOptions", "RetryPolicy", "Secret"),
    "demo.face": ("demo",),
    "errors": (
        "AuthenticationFailed",
        "ConfigurationError",
        "IntegrityError",
        "MissingExtra",
        "OffsetConflict",
        "RemoteError",
        "RemoteGone",
        "RemoteRejected",
        "RemoteUnavailable",
        "SessionConflict",
        "SessionCorrupt",
        "SessionError",
        "SessionExpired",
        "SessionNotFound",
        "SourceChanged",
        "SourceError",
        "TransferStalled",
        "UploadCancelled",
        "UploadKitError",
    ),
    "events": ("EventKind", "UploadEvent"),
    "models": (
        "ChunkMetadata",
        "FileUploadTask",
        "Layer",
        "Receipt",
        "RemoteObject",
        "Stage",
        "StreamingProgress",
        "UploadProgress",
        "UploadResult",
        "UploadSession",
        "UploadStatus",
        "Verification",
    ),
    "notebook.doctor": ("doctor",),
    "notebook.face": (
        "history",
        "resume",
        "sessions",
        "start",
        "start_many",
        "upload",
        "upload_many",
    ),
    "notebook.magics": ("load_ipython_extension",),
    "notebook.nested": ("allow_nested",),
    "progress.tracker": ("ProgressTracker",),
    "sessions.manager": ("SessionManager",),
    "throttle": ("BandwidthThrottle",),
    "transfer": ("Transfer",),
    "uploaders.chunked": ("ChunkedUploader",),
    "uploaders.parallel": ("ParallelUploader",),
    "uploaders.resumable": ("ResumableUploader",),
}
_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "AuthenticationFailed",
    "BandwidthThrottle",
    "ChunkMetadata",
    "ChunkedUploader",
    "Compression",
    "ConfigurationError",
    "ConnectionOptions",
    "EventKind",
    "FileUploadTask",
    "IntegrityError",
    "Job",
    "Layer",
    "MissingExtra",
    "OffsetConflict",
    "ParallelUploader",
    "ProgressTracker",
    "Receipt",
    "RemoteError",
    "RemoteGone",
    "RemoteObject",
    "RemoteRejected",
    "RemoteUnavailable",
    "ResumableUploader",
    "RetryPolicy",
    "Secret",
    "SessionConflict",
    "SessionCorrupt",
    "SessionError",
    "SessionExpired",
    "SessionManager",
    "SessionNotFound",
    "SourceChanged",
    "SourceError",
    "Stage",
    "StreamingProgress",
    "Transfer",
    "TransferStalled",
    "UploadCancelled",
    "UploadEvent",
    "UploadKitError",
    "UploadProgress",
    "UploadResult",
    "UploadSession",
    "UploadStatus",
    "Verification",
    "__version__",
    "allow_nested",
    "benchmark",
    "demo",
    "doctor",
    "history",
    "jobs",
    "load_ipython_extension",
    "resume",
    "serve",
    "sessions",
    "start",
    "start_many",
    "upload",
    "upload_many",
]


class _Package(ModuleType):
    """
    Keeps functions in place that have the name of a module, such as `sessions`.

    Once a module is imported, the import system makes it an attribute of its package.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


if not TYPE_CHECKING:
    # Else type checkers would take every misspelt name for one of ours.
    def __getattr__(name: str) -> Any:
        """Import a public name from its module when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *_HOMES})
