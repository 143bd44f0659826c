"""What comes in headers is read strictly: exactly right, or refused."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.server.fields import (
    parse_coding,
    parse_digest,
    parse_disposition,
    parse_key,
    parse_media_type,
    parse_metadata,
    parse_uint,
)
from upload_kit.server.problems import ProblemType, UploadProblem


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def metadata(text: str | None) -> dict[str, str]:
    return parse_metadata(text, max_keys=3, max_bytes=100)


@pytest.mark.parametrize("text", ["0", "7", "10", "5242880", str(2**63 - 1)])
def test_digits_are_a_number(text: str) -> None:
    """Plain decimal digits are what they say."""
    assert parse_uint(text, "A size") == int(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("+1", id="plus"),
        pytest.param("-1", id="minus"),
        pytest.param(" 1", id="blank-before"),
        pytest.param("1\n", id="line-end-behind"),
        pytest.param("1_000", id="underscore"),
        pytest.param("0x10", id="hexadecimal"),
        pytest.param("1e3", id="exponent"),
        pytest.param("1.0", id="fraction"),
        pytest.param("007", id="leading-zeros"),
        pytest.param("\u0661\u0662", id="arabic-digits"),
        pytest.param("\uff11", id="full-width-digit"),
        pytest.param("\u00b2", id="superscript"),
        pytest.param(str(2**63), id="beyond-63-bits"),
        pytest.param("9" * 5000, id="thousands-of-digits"),
    ],
)
def test_number_that_int_would_take_is_refused(text: str) -> None:
    """`int()` is lenient; lengths and indexes must not be."""
    with pytest.raises(UploadProblem) as caught:
        parse_uint(text, "A size")
    assert caught.value.type is ProblemType.MALFORMED


@given(st.text(max_size=25))
def test_only_digits_pass(text: str) -> None:
    """Nothing passes but ASCII digits without a leading zero."""
    try:
        number = parse_uint(text, "A size")
    except UploadProblem:
        return
    assert re.fullmatch(r"[0-9]+", text, re.ASCII)
    assert str(number) == text


def test_digest_is_found_among_others() -> None:
    """Of several digests the SHA-256 is taken."""
    digest = hashlib.sha256(b"x").digest()
    both = f"md5=:AAAA:, sha-256=:{base64.b64encode(digest).decode()}:"
    assert parse_digest(both, "Content-Digest") == digest
    assert parse_digest(None, "Content-Digest") is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("sha-256=abc", id="no-colons"),
        pytest.param("sha-256=:!!!!:", id="no-base64"),
        pytest.param("sha-256=:AAAA:", id="too-short"),
        pytest.param("md5=:AAAA:", id="another-algorithm-only"),
    ],
)
def test_broken_digest_is_refused(text: str) -> None:
    """A digest that cannot be compared must not pass for none."""
    with pytest.raises(UploadProblem):
        parse_digest(text, "Content-Digest")


@pytest.mark.parametrize("key", ["k" * 16, "A-z_09" * 3, "x" * 64])
def test_key_is_taken_as_it_is(key: str) -> None:
    """16 to 64 harmless characters make a key."""
    assert parse_key(key) == key


@pytest.mark.parametrize("key", ["", "k" * 15, "k" * 65, "k" * 15 + "/", "ü" * 16])
def test_other_key_is_refused(key: str) -> None:
    """A key becomes a file name, by way of a digest; it is still checked."""
    with pytest.raises(UploadProblem):
        parse_key(key)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("attachment", None, id="no-name"),
        pytest.param('form-data; name="f"; filename="a b.txt"', "a b.txt", id="quoted"),
        pytest.param("attachment; filename=plain.txt", "plain.txt", id="token"),
        pytest.param("attachment; filename=a\udcff.txt", "a?.txt", id="no-utf-8"),
        pytest.param(r'attachment; filename="a\"b.txt"', 'a"b.txt', id="escaped"),
        pytest.param("attachment; filename*=UTF-8''%C3%BC.txt", "ü.txt", id="extended"),
        pytest.param(
            "attachment; filename=u.txt; filename*=utf-8'de'%C3%BC.txt",
            "ü.txt",
            id="extended-wins",
        ),
    ],
)
def test_disposition_names(text: str | None, expected: str | None) -> None:
    """The file name is read in each form of RFC 6266."""
    assert parse_disposition(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text/CSV; charset=utf-8", "text/csv"),
        (None, "application/octet-stream"),
        ("nonsense", "application/octet-stream"),
        ("a/b\r\nX-Evil: 1", "application/octet-stream"),
        ("a/" + "b" * 300, "application/octet-stream"),
    ],
)
def test_media_type_is_one_or_the_default(text: str | None, expected: str) -> None:
    """What is kept as a type is a type, and nothing else."""
    assert parse_media_type(text) == expected


def test_coding_is_known_or_refused() -> None:
    """Codings that nobody here can undo are 415."""
    assert parse_coding(None) is None
    assert parse_coding("identity") is None
    assert parse_coding(" GZip ") == "gzip"
    with pytest.raises(UploadProblem) as caught:
        parse_coding("br")
    assert caught.value.type is ProblemType.UNSUPPORTED_MEDIA


def test_metadata_is_read() -> None:
    """Pairs of a key and a base64 value; the value may be missing."""
    text = f"name {encoded('Größe')}, flag"
    assert metadata(text) == {"name": "Größe", "flag": ""}
    assert metadata(None) == metadata("") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("a YQ==,a YQ==", ProblemType.MALFORMED, id="repeated-key"),
        pytest.param(",", ProblemType.MALFORMED, id="empty-key"),
        pytest.param("a !!!!", ProblemType.MALFORMED, id="no-base64"),
        pytest.param("a /w==", ProblemType.MALFORMED, id="no-text"),
        pytest.param("a \u00fc", ProblemType.MALFORMED, id="value-beyond-ascii"),
        pytest.param("ü YQ==", ProblemType.MALFORMED, id="key-beyond-ascii"),
        pytest.param("a,b,c,d", ProblemType.TOO_LARGE, id="too-many-keys"),
        pytest.param(f"a {encoded('x' * 100)}", ProblemType.TOO_LARGE, id="too-large"),
    ],
)
def test_metadata_is_refused(text: str, problem: ProblemType) -> None:
    """Metadata is bounded in keys and bytes, and text only."""
    with pytest.raises(UploadProblem) as caught:
        metadata(text)
    assert caught.value.type is problem
