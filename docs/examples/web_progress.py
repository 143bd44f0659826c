"""
A web application that uploads for its users, and shows them how it goes, live.

    python web_progress.py 8080 http://127.0.0.1:8000/
    curl -N 'http://127.0.0.1:8080/archive?name=notes.txt' -d 'some text'

The answer is a stream of server-sent events, which a page reads with `fetch`, or with
`EventSource` after a GET.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from aiohttp import web

from upload_kit import ParallelUploader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UPLOADER = web.AppKey("UPLOADER", ParallelUploader)


async def archive(request: web.Request) -> web.StreamResponse:
    """Pass the body on as it comes, and the progress back."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    body = request.content.iter_chunked(1 << 16)
    name = request.query.get("name", "unnamed")
    async for event in request.app[UPLOADER].upload_file_sse(body, name=name):
        await answer.write(event.encode())
    return answer


async def uploading(app: web.Application) -> AsyncIterator[None]:
    """Keep the uploader's connections open as long as the application runs."""
    async with app[UPLOADER]:
        yield


def make_app(destination: str) -> web.Application:
    """Build the application."""
    app = web.Application()
    app[UPLOADER] = ParallelUploader(destination)
    app.router.add_post("/archive", archive)
    app.cleanup_ctx.append(uploading)
    return app


if __name__ == "__main__":
    web.run_app(make_app(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]))
