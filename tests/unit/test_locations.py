"""URLs of destinations: parsed once, and shown without their secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.config import Secret
from upload_kit.errors import ConfigurationError
from upload_kit.locations import parse_location, redact, safe_relative_name

HIDDEN = "s3cr3t"


def test_parts_of_a_url() -> None:
    """Scheme and host in lower case, path and query decoded."""
    location = parse_location("TUS+HTTPS://user:p%40ss@Host:8443/a%20b/?x=1&y=%2F&z=")
    assert location.scheme == "tus+https"
    assert (location.host, location.port) == ("host", 8443)
    assert location.path == "/a b/"
    assert location.parameters == (("x", "1"), ("y", "/"), ("z", ""))
    assert location.username == "user"
    assert location.password == Secret("p@ss")


def test_parts_that_are_missing() -> None:
    """No port, no user, no query: None and nothing, not an error."""
    location = parse_location("file:///srv/store")
    assert (location.host, location.port, location.path) == ("", None, "/srv/store")
    assert (location.username, location.password) == (None, None)
    assert location.parameters == ()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "store",
        "/srv/store",
        "http:/host",
        "://host",
        "1http://host",
        "ht tp://host",
        "http://host:port/",
        "http://host:99999/",
        "http://[::1/",
        "memory://x/\0",
        "memory://x/%00",
    ],
    ids=repr,
)
def test_what_is_no_url_is_refused(url: str) -> None:
    """A path without a scheme, a port that is none, a NUL: a typed error."""
    with pytest.raises(ConfigurationError):
        parse_location(url)


@given(st.text())
def test_any_text_is_parsed_or_refused(url: str) -> None:
    """Nothing else is raised, and what is shown still has its scheme."""
    try:
        location = parse_location(url)
    except ConfigurationError:
        return
    assert str(location).lower().startswith(location.scheme)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{HIDDEN}@host/path",
        f"https://{HIDDEN}@host/path",
        f"https://host/path?X-Amz-Signature={HIDDEN}&x=1",
        f"https://host/path?x-amz-credential={HIDDEN}",
        f"https://host/path?X-Goog-Signature={HIDDEN}",
        f"https://host/path?sig={HIDDEN}",
        f"https://host/path?upload_id={HIDDEN}",
        f"https://host/path?uploadId={HIDDEN}",
        f"https://host/path?token={HIDDEN}",
        f"https://host/path?access_token={HIDDEN}",
        f"https://host/path?accessToken={HIDDEN}",
        f"https://host/path?api_key={HIDDEN}",
        f"https://host/path?apikey={HIDDEN}",
        f"https://host/path?api%5Fkey={HIDDEN}",
        f"https://host/path?AWSAccessKeyId={HIDDEN}",
        f"https://host/path?client-secret={HIDDEN}",
        f"https://host/path?password={HIDDEN}",
        f"https://host/path?pwd={HIDDEN}",
        f"https://host/path?auth={HIDDEN}",
        f"https://host/path?x=1;token={HIDDEN}",
        f"https://host/path#{HIDDEN}",
    ],
)
def test_secret_in_a_url_is_not_shown(url: str) -> None:
    """Passwords, signatures, keys and tokens, in whatever spelling."""
    assert HIDDEN not in redact(url)
    assert HIDDEN not in repr(parse_location(url))
    assert HIDDEN not in str(parse_location(url))


@pytest.mark.parametrize("place", ["host:port", "[::1", "host/%00"])
def test_secret_in_a_broken_url_is_not_shown(place: str) -> None:
    """Nor is it in the error that refuses it."""
    with pytest.raises(ConfigurationError) as refused:
        parse_location(f"https://user:{HIDDEN}@{place}/?sig={HIDDEN}")
    assert HIDDEN not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://host:8000/path?part=3&partNumber=2",
        "file:///srv/store",
        "s3://bucket/models/",
        "gemini://",
        "gemini://?base_url=http://127.0.0.1:8000",
        "https://host/monkey?keyboard=us&tokens=5&author=me",
    ],
)
def test_url_without_secrets_is_shown_as_it_is(url: str) -> None:
    """Whoever reads a log can tell where a file went."""
    assert redact(url) == url


@pytest.mark.parametrize("name", ["a", "a.bin", "folder/a.bin", "ünï 😀", "...", "..a"])
def test_name_below_a_folder_is_taken(name: str) -> None:
    """Folders are part of a name."""
    assert safe_relative_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/a", "a/", "a//b", "../a", "a/../b", "a/..", "./a", "a\0b", "/"],
    ids=repr,
)
def test_name_that_climbs_out_is_refused(name: str) -> None:
    """A hostile name never becomes a path."""
    with pytest.raises(ConfigurationError, match="Not a file name"):
        safe_relative_name(name)


def test_endless_name_is_not_repeated() -> None:
    """The message stays readable."""
    with pytest.raises(ConfigurationError) as refused:
        safe_relative_name("../" * 2000)
    assert len(str(refused.value)) < 400
