"""
An S3 service that throws everything away, in a process of its own.

Real services spend five to thirteen seconds of CPU on a GiB: on a machine that they
share with their clients, nothing is seen of a client's speed. This one spends less than
one, so it shows what a client could do. It checks no signature and no digest, and it
says so: its ETags are no MD5 and it reports no checksum.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from aiohttp import web

from upload_kit.units import MIB

_XML: Final = '<?xml version="1.0" encoding="UTF-8"?>'


class S3Sink:
    """Takes objects whole or in parts; remembers how long they are, and no more."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, int]] = {}
        self._sizes: dict[str, int] = {}

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=0)
        app.router.add_put("/{bucket}/{key:.+}", self._put)
        app.router.add_post("/{bucket}/{key:.+}", self._post)
        app.router.add_delete("/{bucket}/{key:.+}", self._delete)
        # aiohttp answers HEAD where it answers GET.
        app.router.add_get("/{bucket}/{key:.+}", self._look)
        app.router.add_route("*", "/{bucket}", self._bucket)
        app.router.add_route("*", "/{bucket}/", self._bucket)
        return app

    async def _put(self, request: web.Request) -> web.Response:
        """Take an object, or a part of one."""
        size = int(request.headers.get("x-amz-decoded-content-length", 0))
        taken = 0
        async for piece in request.content.iter_any():
            taken += len(piece)
        number = request.query.get("partNumber")
        if number is None:
            self._sizes[request.path] = size or taken
        else:
            self._parts[request.query["uploadId"]][number] = size or taken
        return web.Response(headers={"ETag": f'"sink-{number or 0}"'})

    async def _post(self, request: web.Request) -> web.Response:
        """Begin an upload in parts, or put the parts together."""
        await request.content.read()
        upload = request.query.get("uploadId")
        if upload is None:
            upload = f"upload-{len(self._parts)}"
            self._parts[upload] = {}
            inner = f"<UploadId>{upload}</UploadId>"
            return _answer("InitiateMultipartUploadResult", request, inner)
        self._sizes[request.path] = sum(self._parts[upload].values())
        inner = '<ETag>"sink"</ETag>'
        return _answer("CompleteMultipartUploadResult", request, inner)

    async def _delete(self, request: web.Request) -> web.Response:
        self._sizes.pop(request.path, None)
        return web.Response(status=204)

    async def _look(self, request: web.Request) -> web.Response:
        size = self._sizes.get(request.path)
        if size is None:
            return web.Response(status=404)
        headers = {
            "Content-Length": str(size),
            "ETag": '"sink"',
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        }
        return web.Response(headers=headers)

    async def _bucket(self, request: web.Request) -> web.Response:
        """Every bucket is there, and empty."""
        if request.method != "GET":
            return web.Response()
        return _answer("ListBucketResult", request, "<KeyCount>0</KeyCount>")


def _answer(kind: str, request: web.Request, inner: str) -> web.Response:
    place = request.match_info
    where = f"<Bucket>{place['bucket']}</Bucket><Key>{place.get('key', '')}</Key>"
    return web.Response(
        text=f"{_XML}<{kind}>{where}{inner}</{kind}>", content_type="application/xml"
    )


async def _run() -> None:
    runner = web.AppRunner(
        S3Sink().app(), access_log=None, auto_decompress=False, read_bufsize=MIB
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    # It is killed in the end.
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run())
