"""A proxy before an S3 service: it writes down what is asked, and makes things fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from aiohttp import web

from tests.servers.http_proxy import HttpProxy

if TYPE_CHECKING:
    from collections.abc import Callable

_OPERATIONS: Final = {
    ("POST", "uploads"): "CreateMultipartUpload",
    ("GET", "uploads"): "ListMultipartUploads",
    ("PUT", "partNumber"): "UploadPart",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("GET", "uploadId"): "ListParts",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("PUT", ""): "PutObject",
    ("HEAD", ""): "HeadObject",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request that went through."""

    operation: str
    key: str
    part: int | None
    headers: dict[str, str]
    """By lower-case name."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """Something that goes wrong, a few times."""

    operation: str
    """Which requests it hits."""

    times: int = 1
    """How often."""

    after: int = 0
    """How many go well before."""

    hang: bool = False
    """The request is taken, and nothing more happens."""

    status: int | None = None
    """The answer; None to break the connection off."""

    code: str = "InternalError"
    """S3's name of the error."""

    headers: dict[str, str] | None = None
    """Of the answer."""

    arrives: bool = False
    """The service gets the request all the same; only its answer is lost."""

    body: Callable[[bytes], bytes] | None = None
    """Changes what the service gets; then its answer is not changed."""

    answer: Callable[[bytes], bytes] | None = None
    """Changes the body of the service's answer."""

    lie: str | None = None
    """Answer with this ETag as if the part had been stored."""


class S3Proxy(HttpProxy):
    """
    Stands before an S3 service, on a free port of loopback, in the running event loop.

    Args:
        upstream: URL of the service.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []

    @property
    def operations(self) -> list[str]:
        """What was asked, in order."""
        return [seen.operation for seen in self.seen]

    def count(self, operation: str) -> int:
        """Return how often this was asked."""
        return Counter(self.operations)[operation]

    def parts(self) -> list[int | None]:
        """Return the numbers of the parts that were sent, in order."""
        return [seen.part for seen in self.seen if seen.operation == "UploadPart"]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Write a request down, and let it meet its fault."""
        seen = _describe(request)
        self.seen.append(seen)
        body = await request.read()
        fault = self._fault(seen.operation)
        if fault is None:
            return await self.forward(request, body)
        if fault.hang:
            # Ends with the test.
            await asyncio.Event().wait()
        if fault.lie is not None:
            return web.Response(headers={"ETag": fault.lie})
        if fault.body is not None:
            return await self.forward(request, fault.body(body))
        if fault.answer is not None:
            answer = await self.forward(request, body)
            assert isinstance(answer.body, bytes)
            answer.body = fault.answer(answer.body)
            return answer
        if fault.arrives:
            await self.forward(request, body)
        return _fail(request, fault)

    def _fault(self, operation: str) -> Fault | None:
        for fault in self.faults:
            if fault.operation != operation or fault.times == 0:
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            fault.times -= 1
            return fault
        return None


def _describe(request: web.Request) -> Seen:
    query = request.query
    operations = [
        operation
        for (method, name), operation in _OPERATIONS.items()
        if request.method == method and (not name or name in query)
    ]
    number = query.get("partNumber")
    return Seen(
        operation=operations[0] if operations else "Other",
        key=unquote(request.raw_path.partition("?")[0]).partition("/")[2],
        part=None if number is None else int(number),
        headers={name.lower(): value for name, value in request.headers.items()},
    )


def _fail(request: web.Request, fault: Fault) -> web.Response:
    if fault.status is None:
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError
    if fault.status == 204:
        return web.Response(status=204)
    code = f"<Code>{fault.code}</Code><Message>Says the test.</Message>"
    return web.Response(
        status=fault.status,
        headers=fault.headers,
        text=f'<?xml version="1.0"?>\n   <Error>{code}</Error>',
        content_type="application/xml",
    )
