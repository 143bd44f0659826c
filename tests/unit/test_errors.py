"""The tree of errors: what can be told from a class, and what a message says."""

from __future__ import annotations

import inspect
import pickle
from typing import Final

import pytest

from upload_kit import errors
from upload_kit.errors import (
    IntegrityError,
    MissingExtra,
    OffsetConflict,
    RemoteError,
    RemoteUnavailable,
    TransferStalled,
    UploadKitError,
)

DEFINED: Final = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__
]
CLASSES: Final = [kind for kind in DEFINED if issubclass(kind, UploadKitError)]


def test_every_error_is_in_the_one_tree() -> None:
    """Whoever catches `UploadKitError` catches everything raised on purpose."""
    assert CLASSES == DEFINED


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_is_drawn_in_the_tree(kind: type[UploadKitError]) -> None:
    """The picture at the top of the module is complete."""
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


def test_only_what_may_pass_is_retryable() -> None:
    """Everything else is raised at the first failure."""
    retryable = {kind for kind in CLASSES if kind.retryable}
    assert retryable == {
        RemoteUnavailable,
        TransferStalled,
        OffsetConflict,
        IntegrityError,
    }


def test_wrong_bytes_are_sent_once_more_only() -> None:
    """A disk or a network that lies twice will lie again."""
    assert IntegrityError.max_tries == 2
    assert RemoteUnavailable.max_tries is None


def test_hint_follows_the_message() -> None:
    """What went wrong comes first, what to try second."""
    error = UploadKitError("It broke.", hint="Mend it.", session_id="5")
    assert str(error) == "It broke. Mend it."
    assert (error.message, error.hint, error.session_id) == (
        "It broke.",
        "Mend it.",
        "5",
    )


def test_message_stands_alone_without_a_hint() -> None:
    """Nothing is added to a message."""
    assert str(UploadKitError("It broke.")) == "It broke."


def test_remote_error_keeps_status_and_wait() -> None:
    """A retry needs to know how long the other side asked us to wait."""
    error = RemoteError("Busy.", status=503, retry_after=1.5)
    assert (error.status, error.retry_after, error.session_id) == (503, 1.5, None)


def test_missing_extra_says_how_to_install() -> None:
    """The command can be copied."""
    assert "pip install 'upload_kit[notebook]'" in str(
        MissingExtra("ipywidgets", "notebook")
    )


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_error_survives_a_process_boundary(kind: type[UploadKitError]) -> None:
    """Pools pickle what their workers raise."""
    raised = kind("a", "b") if kind is MissingExtra else kind("What.", hint="Do.")
    raised.session_id = "7"
    copy = pickle.loads(pickle.dumps(raised))
    assert type(copy) is kind
    assert str(copy) == str(raised)
    assert copy.session_id == "7"
