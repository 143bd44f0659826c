"""The scripted Gemini service satisfies Google's own client, so ours may rely on it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import warnings
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from upload_kit.bench.peers.gemini_server import KEY, GeminiServer
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

genai = pytest.importorskip("google.genai", reason="google-genai is not installed")
genai_errors = pytest.importorskip("google.genai.errors")

# Google's client sends 8 MiB at a time: a whole chunk, a part of one, two and some.
SIZES = [8 * MIB, 100_000, 17 * MIB + 1]


@pytest.fixture(params=SIZES, ids=["one-chunk", "small", "three-chunks"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(random.Random(1).randbytes(request.param))
    return path


@pytest.fixture
async def server() -> AsyncIterator[GeminiServer]:
    async with GeminiServer(granularity=8 * MIB, processing=1) as server:
        yield server


def _client(server: GeminiServer, key: str = KEY) -> Any:
    return genai.Client(api_key=key, http_options={"base_url": server.url})


def _require_same(server: GeminiServer, file: Path, stored: Any) -> None:
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert server.contents[stored.name] == data
    assert base64.b64decode(stored.sha256_hash).decode() == digest
    assert stored.size_bytes == len(data)
    assert stored.mime_type == "video/mp4"
    assert server.keys_on_upload_urls == []


async def test_google_client_uploads(server: GeminiServer, file: Path) -> None:
    """Google's client, blocking, uploads, sees the file become active, deletes it."""

    def upload() -> None:
        with _client(server) as client:
            stored = client.files.upload(file=file, config={"display_name": "A clip"})
            _require_same(server, file, stored)
            assert stored.display_name == "A clip"
            assert stored.state.name == "PROCESSING"
            assert client.files.get(name=stored.name).state.name == "ACTIVE"
            client.files.delete(name=stored.name)

    await asyncio.to_thread(upload)
    assert server.files == {}


async def test_google_async_client_uploads(server: GeminiServer, file: Path) -> None:
    """Google's asynchronous client uploads, under a name that it chose."""
    with warnings.catch_warnings():
        # Google's client does with aiohttp what aiohttp advises against.
        warnings.filterwarnings("ignore", "Inheritance", DeprecationWarning)
        warnings.filterwarnings("ignore", "Sending a large body", ResourceWarning)
        async with aclosing(_client(server).aio) as client:
            stored = await client.files.upload(file=file, config={"name": "chosen"})
    assert stored.name == "files/chosen"
    _require_same(server, file, stored)


async def test_google_client_hears_of_a_wrong_key(
    server: GeminiServer, file: Path
) -> None:
    """A wrong key is a 400 that Google's client raises before a byte is sent."""

    def upload() -> None:
        with _client(server, "another-key") as client:
            client.files.upload(file=file)

    with pytest.raises(genai_errors.ClientError, match="API key not valid"):
        await asyncio.to_thread(upload)
    assert server.bytes_in == 0


async def test_google_client_resends_after_an_unavailable_service(
    server: GeminiServer, tmp_path: Path
) -> None:
    """An answer without a status is what Google's client sends its bytes again for."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(1000))
    server.faults.statuses = [503]

    def upload() -> None:
        with _client(server) as client:
            _require_same(server, path, client.files.upload(file=path))

    await asyncio.to_thread(upload)
    assert server.count("upload, finalize") == 2
