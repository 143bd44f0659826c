"""Where a tus server takes new uploads."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING

from upload_kit.config import Secret
from upload_kit.destinations.tus_fields import (
    format_metadata,
    read_size,
    resolve,
    same_origin,
)
from upload_kit.destinations.tus_resource import TUS, TusResource, refusal
from upload_kit.destinations.wire import Wire
from upload_kit.errors import RemoteRejected
from upload_kit.via import format_via

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upload_kit.bodies import ChunkBody
    from upload_kit.config import ConnectionOptions
    from upload_kit.destinations.reply import Reply
    from upload_kit.locations import Location
    from upload_kit.models import UploadSpec


class TusCollection:
    """
    Makes upload resources, and finds them again.

    Args:
        url: Where new uploads go.

        options: Token, headers, limits. Only the origin of `url` gets to see
            credentials; an upload that stands elsewhere is its own capability.
    """

    def __init__(self, url: str, options: ConnectionOptions) -> None:
        self.url = url
        self.wire = Wire(options)
        self._bare = Wire(replace(options, token=None, headers=()))

    async def create(
        self,
        spec: UploadSpec | None,
        fields: Mapping[str, str],
        *,
        start: int = 0,
        size: int | None = None,
        checksum: str | None = None,
        body: ChunkBody | None = None,
        response_timeout: float | None = None,
    ) -> TusResource:
        """
        Make an upload resource.

        Args:
            spec: What it is to be told of the file; None for a part of one.

            fields: Header fields that say which kind of upload it is.

            start: Offset in the source of its first byte.

            size: Bytes it will have; None where that is not known.

            checksum: Digest that each request to it carries.

            body: Its first bytes.

            response_timeout: Seconds to wait for the answer; None for the usual ones.

        Raises:
            RemoteUnavailable: Worth another try.
            RemoteRejected: The server will never take this upload.
            IntegrityError: The body arrived as another one.
        """
        headers = {**TUS, **fields}
        if spec is not None:
            headers["Upload-Metadata"] = format_metadata(spec)
            headers |= format_via(spec.via)
            if spec.whole_digest:
                headers["Want-Repr-Digest"] = "sha-256=10"
        reply = await self.wire.request(
            "POST",
            self.url,
            headers=headers,
            body=body or b"",
            response_timeout=response_timeout,
        )
        if reply.status != 201:
            raise _rejection(reply)
        # A body that a server does not take is no error: it says what it holds.
        offset = (read_size(reply, "Upload-Offset") or 0) if body else 0
        resource = self.find(
            resolve(self.url, reply),
            start=start,
            size=size,
            checksum=checksum,
            offset=offset,
        )
        resource.learn(reply)
        return resource

    def find(
        self,
        url: str,
        *,
        start: int = 0,
        size: int | None,
        checksum: str | None,
        offset: int | None = None,
    ) -> TusResource:
        """Return a resource whose address is known; see `TusResource`."""
        return TusResource(
            self.wire if same_origin(self.url, url) else self._bare,
            url,
            start=start,
            size=size,
            checksum=checksum,
            offset=offset,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self.wire.aclose()
        await self._bare.aclose()


def _rejection(reply: Reply) -> Exception:
    if reply.status in {404, 405, 410}:
        return RemoteRejected(
            f"POST {reply.url} answered {reply.status}: no uploads begin there.",
            status=reply.status,
            hint="Check that the URL is where the server takes new uploads.",
        )
    return refusal(reply)


def with_credentials(
    options: ConnectionOptions, location: Location
) -> ConnectionOptions:
    """Return the options with the user and password of a URL in them."""
    if location.username is None:
        return options
    password = "" if location.password is None else location.password.reveal()
    pair = f"{location.username}:{password}".encode()
    basic = Secret(f"Basic {base64.b64encode(pair).decode()}")
    return replace(options, headers=(("Authorization", basic), *options.headers))
