"""One upload resource of a tus server: bytes in order, its offset the truth."""

from __future__ import annotations

import email.utils
import time
from typing import TYPE_CHECKING, Final

from upload_kit.destinations.tus_fields import (
    BYTES,
    VERSION,
    format_checksum,
    read_sha256,
    read_size,
    wrong_version,
)
from upload_kit.errors import (
    IntegrityError,
    OffsetConflict,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
)
from upload_kit.locations import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upload_kit.bodies import ChunkBody
    from upload_kit.destinations.reply import Reply
    from upload_kit.destinations.wire import Wire
    from upload_kit.models import ChunkMetadata

TUS: Final = {"Tus-Resumable": VERSION}


class TusResource:
    """
    What the server holds of a source, from `start` on.

    What it holds is asked for after every failure, and never guessed.

    Args:
        wire: Carries the requests.

        url: The resource's own address.

        start: Offset in the source of the resource's first byte.

        size: Bytes it will have; None when that shows only at the end.

        checksum: Digest that each request carries; None for none.

        offset: Bytes it holds; None when that has to be asked.
    """

    def __init__(
        self,
        wire: Wire,
        url: str,
        *,
        start: int = 0,
        size: int | None,
        checksum: str | None,
        offset: int | None = None,
    ) -> None:
        self.url = url
        self.shown = redact(url)
        self.sha256: str | None = None
        """Digest of the whole upload, once the server said it."""
        self._wire = wire
        self._start = start
        self.size = size
        self._declared = size
        self._checksum = checksum
        self._offset = offset
        self._expires: str | None = None

    async def offset(self) -> int:
        """
        Return how many bytes the server holds, as far as we know, or as it says.

        Raises:
            RemoteGone: The upload expired or was removed.
            RemoteUnavailable: Worth another try.
        """
        if self._offset is None:
            await self.ask()
        assert self._offset is not None
        return self._offset

    async def ask(self) -> int | None:
        """
        Ask how many bytes the server holds.

        Returns:
            The bytes; None for a joined upload that is not joined yet.

        Raises:
            RemoteGone: The upload expired or was removed, or is another one now.
            RemoteUnavailable: Worth another try.
        """
        reply = await self._wire.request("HEAD", self.url, headers=TUS)
        if reply.status not in {200, 204}:
            # The text allows 403 for what is not there.
            raise self._gone(reply) if reply.status == 403 else self._refusal(reply)
        self.learn(reply)
        offset = read_size(reply, "Upload-Offset")
        length = read_size(reply, "Upload-Length")
        if length is not None:
            if self.size not in {None, length}:
                raise RemoteGone(
                    f"{self.shown} is an upload of {length} bytes now,"
                    f" not of {self.size}."
                )
            self._declared = length
            if offset is not None and offset > length:
                raise self._impossible(reply, offset, length)
        self._offset = offset
        return offset

    def learn(self, reply: Reply) -> None:
        """Note what an answer says besides the offset."""
        self._expires = reply.headers.get("Upload-Expires", self._expires)
        self.sha256 = read_sha256(reply) or self.sha256

    def doubt(self) -> None:
        """Have the server asked before the next byte is sent."""
        self._offset = None

    async def put(
        self, chunk: ChunkMetadata, body: ChunkBody, *, length: int | None = None
    ) -> None:
        """
        Send what the server does not hold of a chunk.

        Args:
            chunk: Which bytes of the source.

            body: Those bytes.

            length: Bytes of the whole resource, if the chunk shows that only now.

        Raises:
            OffsetConflict: The server holds another amount; worth another try.
            RemoteGone: The upload expired, or the server lost what it had.
            IntegrityError: The bytes arrived as others.
            RemoteRejected: It will never take this chunk.
            RemoteUnavailable: Worth another try.
        """
        first, end = chunk.start - self._start, chunk.end - self._start
        offset = await self.offset()
        if offset < first:
            raise RemoteGone(
                f"{self.shown} holds {offset} bytes of the {first} it acknowledged."
            )
        while offset < end:
            held = await self._patch(
                offset,
                limit=end,
                headers=await self._digest_field(body, offset - first),
                body=body,
                skip=offset - first,
                length=length,
            )
            if held <= offset:
                raise OffsetConflict(
                    f"{self.shown} took none of the bytes it was sent."
                )
            offset = held
        if length is not None:
            await self.declare(length)

    async def _digest_field(self, body: ChunkBody, skip: int) -> dict[str, str]:
        if self._checksum is None:
            return {}
        digest = await body.digest(self._checksum, skip)
        return {"Upload-Checksum": format_checksum(self._checksum, digest)}

    async def declare(self, length: int) -> None:
        """Tell the server how long the upload is, unless it knows."""
        offset = await self.offset()
        if self._declared is not None:
            return
        try:
            await self._patch(offset, limit=offset, length=length)
        except OffsetConflict as error:
            # No bytes were to be sent, so none are missing: asking again will do.
            raise RemoteUnavailable(error.message, status=error.status) from error

    async def _patch(
        self,
        offset: int,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        body: ChunkBody | bytes = b"",
        skip: int = 0,
        length: int | None = None,
    ) -> int:
        """Append bytes; return how many the server holds then."""
        fields = {**TUS, "Content-Type": BYTES, "Upload-Offset": str(offset)}
        if length is not None and self._declared is None:
            fields["Upload-Length"] = str(length)
        # Until the answer is here, nobody knows what arrived.
        self._offset = None
        reply = await self._wire.request(
            "PATCH",
            self.url,
            headers={**fields, **(headers or {})},
            body=body,
            skip=skip,
        )
        if not 200 <= reply.status < 300:
            raise self._refusal(reply)
        self.learn(reply)
        held = read_size(reply, "Upload-Offset")
        if held is None or held > limit:
            raise self._impossible(reply, held, limit)
        if "Upload-Length" in fields:
            self._declared = length
        self._offset = held
        return held

    async def remove(self) -> None:
        """Have the upload thrown away; nothing happens when it is not there."""
        self.doubt()
        reply = await self._wire.request("DELETE", self.url, headers=TUS)
        if not 200 <= reply.status < 300 and reply.status not in {403, 404, 410}:
            raise self._refusal(reply)

    def _impossible(
        self, reply: Reply, offset: int | None, limit: int
    ) -> RemoteRejected:
        return RemoteRejected(
            f"{reply.method} {self.shown} was answered with the offset {offset}, when"
            f" there are {limit} bytes to be held.",
            status=reply.status,
        )

    def _refusal(self, reply: Reply) -> Exception:
        if reply.status in {404, 410}:
            return self._gone(reply)
        return refusal(reply)

    def _gone(self, reply: Reply) -> RemoteGone:
        moment = email.utils.parsedate_tz(self._expires or "")
        expired = moment is not None and email.utils.mktime_tz(moment) < time.time()
        why = f"it expired on {self._expires}" if expired else "nothing says why"
        return RemoteGone(
            f"{self.shown} is gone ({reply.status}): {why}.", status=reply.status
        )


def refusal(reply: Reply) -> Exception:
    """Return the error that a status stands for in tus."""
    if reply.status == 409:
        return OffsetConflict(
            f"{reply.url} holds another amount than we thought.", status=reply.status
        )
    if reply.status == 460:
        return IntegrityError(f"{reply.url} got other bytes than were sent.")
    if reply.status == 412:
        return wrong_version(reply)
    if reply.status == 413:
        return RemoteRejected(
            f"{reply.method} {reply.url}: too large for this server.",
            status=reply.status,
            hint="Take a smaller chunk_size if it is the request that is too large.",
        )
    return reply.error()
