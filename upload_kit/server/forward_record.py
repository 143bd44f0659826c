"""How far the forward of one upload is: what is remembered, and what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from upload_kit.models import Verification
from upload_kit.records import Record


class ForwardState(StrEnum):
    """Where the forward of an upload stands."""

    WAITING = "waiting"
    """For its turn, or for the next try."""

    FORWARDING = "forwarding"
    """Bytes are on their way."""

    COMPLETE = "complete"
    """It is at the destination, and proved to be."""

    FAILED = "failed"
    """It is not tried again before the server starts anew."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens as long as the server runs."""
        return self in {self.COMPLETE, self.FAILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward(Record):
    """How far the forward of one upload is."""

    state: ForwardState = ForwardState.WAITING
    """Where it stands."""

    queued_at: float = 0.0
    """When the upload was received; the oldest goes first."""

    updated_at: float = 0.0
    """When this was written."""

    destination: str | None = None
    """URL, without secrets; None before the first try."""

    session_id: str | None = None
    """The session of the layer that forwards; None before there is one."""

    bytes: int = 0
    """What the destination acknowledged."""

    tries: int = 0
    """Tries that failed since the last progress."""

    retry_at: float = 0.0
    """When the next try may begin, seconds since the epoch."""

    location: str | None = None
    """Where it is, without secrets; None before it is complete."""

    sha256: str | None = None
    """Digest of the whole file, as it was sent."""

    verified: Verification = Verification.NONE
    """How far the destination's bytes were compared."""

    removed: bool = False
    """Whether the received file was removed afterwards."""

    error: str | None = None
    """Why the last try failed; holds no secret."""

    error_type: str | None = None
    """Class name of that error, as in `upload_kit.errors`."""

    def document(self) -> dict[str, object]:
        """Return what is answered to who asks; see docs/dev/native-protocol.md."""
        return {
            "state": self.state.value,
            "destination": self.destination,
            "location": self.location,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "verified": self.verified.value,
            "removed": self.removed,
            "tries": self.tries,
            "retry_at": self.retry_at or None,
            "updated_at": self.updated_at,
            "error": self.error,
            "error_type": self.error_type,
        }
