"""What the campaigns found between our client and our server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers.tcp import TcpServer
from upload_kit.errors import RemoteRejected
from upload_kit.uploaders.chunked import ChunkedUploader

if TYPE_CHECKING:
    import asyncio

FACTS = {
    "protocol": "upload-kit/1",
    "min_chunk": 1,
    "max_chunk": 67108864,
    "max_chunks": 100000,
    "max_size": None,
    "checksums": ["sha-256"],
    "encodings": [],
    "expires_after": 172800.0,
}


class OneAnswer:
    """Answers every request with the same JSON."""

    def __init__(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self._answer = (
            b"HTTP/1.1 200 OK\r\nUpload-Kit-Version: 1\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._answer)
        await writer.drain()


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({**FACTS, "expires_after": "soon"}, id="type"),
        *(
            pytest.param({k: v for k, v in FACTS.items() if k != name}, id=name)
            for name in FACTS
        ),
        # These facts are whole: it is the answer to the next request that is not.
        pytest.param(FACTS, id="upload"),
        pytest.param([], id="list"),
    ],
)
@pytest.mark.parametrize("size", [10, 2_000_000], ids=["one-request", "chunks"])
async def test_answer_that_lacks_something(document: Any, size: int) -> None:
    """An answer with one bit turned over ends in an error of ours, not in KeyError."""
    async with TcpServer(OneAnswer(document)) as server:
        uploader = ChunkedUploader(
            f"http://127.0.0.1:{server.port}/", history=False, chunk_size=1_000_000
        )
        with pytest.raises(RemoteRejected):
            await uploader.upload_file(bytes(size), name="a.bin")
