"""Digests: written into HTTP fields, and read from them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.checksums import format_digest, parse_digests

# Source: RFC 9530, appendix B.1, the digest of {"hello": "world"} and a line break.
EXAMPLE = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
EXAMPLE_BODY = b'{"hello": "world"}\n'


def test_field_is_written_as_the_standard_has_it() -> None:
    """The example of RFC 9530."""
    assert format_digest("sha256", hashlib.sha256(EXAMPLE_BODY).digest()) == EXAMPLE


def test_field_is_read_as_the_standard_has_it() -> None:
    """By its name in hashlib."""
    assert parse_digests(EXAMPLE) == {"sha256": hashlib.sha256(EXAMPLE_BODY).digest()}


@given(st.binary(), st.sampled_from(["sha256", "sha512"]))
def test_written_digest_is_read_back(data: bytes, algorithm: str) -> None:
    """For both algorithms that HTTP registers as fit."""
    digest = hashlib.new(algorithm, data).digest()
    assert parse_digests(format_digest(algorithm, digest)) == {algorithm: digest}


def test_several_digests_in_one_field() -> None:
    """Those that we do not know are left out."""
    sha512 = format_digest("sha512", hashlib.sha512(b"").digest())
    field = f"md5=:AAAA:, {EXAMPLE},\t{sha512}"
    assert set(parse_digests(field)) == {"sha256", "sha512"}


@pytest.mark.parametrize(
    "field",
    [
        "",
        ",",
        "sha-256",
        "sha-256=abc",
        "sha-256=:",
        "sha-256=::",
        "sha-256=:AAAA:",
        "sha-256=:!!!!:",
        EXAMPLE[:-1],
        EXAMPLE + ",",
        EXAMPLE.replace("=:", "="),
    ],
    ids=repr,
)
def test_what_is_no_digest_field_is_refused(field: str) -> None:
    """A digest that cannot be read is never taken for one that fits."""
    with pytest.raises(ValueError):
        parse_digests(field)


@given(st.text())
def test_any_field_is_read_or_refused(field: str) -> None:
    """Nothing but ValueError, whatever a client sends."""
    try:
        digests = parse_digests(field)
    except ValueError:
        return
    assert set(digests) <= {"sha256", "sha512"}
