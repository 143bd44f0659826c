"""Bearer tokens say who somebody is, and are not to be found anywhere."""

from __future__ import annotations

import hashlib
import pickle
from typing import TYPE_CHECKING

import pytest

from upload_kit.config import Secret
from upload_kit.errors import ConfigurationError
from upload_kit.server.auth import ANYBODY, Tokens
from upload_kit.server.problems import ProblemType, UploadProblem

if TYPE_CHECKING:
    from pathlib import Path


def test_without_tokens_everybody_is_somebody() -> None:
    """An open server asks for nothing."""
    assert Tokens(()).owner(None) == Tokens(()).owner("Bearer x") == ANYBODY


def test_owner_is_the_name_of_the_token() -> None:
    """A token with a name may be replaced by another one of that name."""
    old, new = Tokens([Secret("ann:old")]), Tokens([Secret("ann:new")])
    assert old.owner("Bearer old") == new.owner("bearer new") == "name-ann"


def test_bare_tokens_are_different_people() -> None:
    """Each bare token owns its uploads, and its owner's name does not give it away."""
    tokens = Tokens([Secret("first"), Secret("second")])
    one, two = tokens.owner("Bearer first"), tokens.owner("Bearer second")
    assert one != two
    assert "first" not in one


def test_bare_token_is_nobody_by_name() -> None:
    """No bare token can be made that owns what a name owns."""
    tokens = Tokens([Secret("ann:a"), Secret("name-ann")])
    assert tokens.owner("Bearer a") != tokens.owner("Bearer name-ann")


@pytest.mark.parametrize(
    "field",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic bWU6c2VjcmV0", "secret"],
)
def test_others_are_refused(field: str | None) -> None:
    """Without a known token nobody is anybody."""
    with pytest.raises(UploadProblem) as caught:
        Tokens([Secret("me:secret")]).owner(field)
    assert caught.value.type is ProblemType.UNAUTHORIZED
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["ann:", ""], ids=["named", "bare"])
def test_digest_stands_for_its_token(name: str) -> None:
    """Whoever reads the file of tokens learns none; the digest opens nothing."""
    digest = f"sha256={hashlib.sha256(b'hunter2').hexdigest()}"
    tokens = Tokens([Secret(f"{name}{digest}")])
    assert tokens.owner("Bearer hunter2") == Tokens([Secret(f"{name}hunter2")]).owner(
        "Bearer hunter2"
    )
    with pytest.raises(UploadProblem):
        tokens.owner(f"Bearer {digest}")


def test_tokens_are_kept_as_digests_only() -> None:
    """A server's memory, dumped or traced, gives no token away."""
    tokens = Tokens([Secret("ann:hunter2")])
    assert b"hunter2" not in pickle.dumps(vars(tokens))


def test_file_is_read_and_read_again(tmp_path: Path) -> None:
    """One token a line; blank lines and comments do not count."""
    file = tmp_path / "tokens"
    file.write_text("# who may\n\nann:one\n  two  \n")
    tokens = Tokens((), file)
    assert tokens.owner("Bearer one") == "name-ann"
    assert tokens.owner("Bearer two")
    file.write_text("bob:three\n")
    tokens.reload()
    assert tokens.owner("Bearer three") == "name-bob"
    with pytest.raises(UploadProblem):
        tokens.owner("Bearer one")


@pytest.mark.parametrize("content", ["", "# nobody\n", ":token\n", "name:\n"])
def test_bad_file_keeps_what_was_known(tmp_path: Path, content: str) -> None:
    """A file that is broken while the server runs locks nobody out, and nobody in."""
    file = tmp_path / "tokens"
    file.write_text("ann:one\n")
    tokens = Tokens((), file)
    file.write_text(content)
    with pytest.raises(ConfigurationError):
        tokens.reload()
    assert tokens.owner("Bearer one") == "name-ann"


def test_missing_file_is_told(tmp_path: Path) -> None:
    """A file that is not there must not mean that everybody may."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        Tokens((), tmp_path / "nowhere")
