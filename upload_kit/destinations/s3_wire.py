"""Requests to one S3 bucket, signed and sent over our wire."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from upload_kit.destinations.s3_access import S3Access
from upload_kit.destinations.s3_xml import failure
from upload_kit.errors import ConfigurationError, RemoteUnavailable
from upload_kit.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upload_kit.bodies import ChunkBody
    from upload_kit.destinations.reply import Reply
    from upload_kit.destinations.s3_access import S3Settings
    from upload_kit.destinations.wire import Wire

_EMPTY: Final = hashlib.sha256(b"").hexdigest()
_SAFE: Final = "-_.~"
# Credentials may have to be fetched from the instance, or from a helper program.
_LOAD_SECONDS: Final = 60.0


class S3Wire:
    """
    Knows the address of a bucket and how to sign for it, once it was asked.

    Args:
        wire: Carries no credentials of its own.

        bucket: The bucket's name.

        settings: What the URL says of it.
    """

    def __init__(self, wire: Wire, bucket: str, settings: S3Settings) -> None:
        self.bucket = bucket
        self._wire = wire
        self._settings = settings
        self._access: S3Access | None = None
        self._loading = asyncio.Lock()

    @property
    def response_timeout(self) -> float:
        """Seconds to wait for an answer, unless a request says otherwise."""
        return self._wire.response_timeout

    async def access(self) -> S3Access:
        """
        Return address and signatures, found out once.

        Raises:
            ConfigurationError: The AWS configuration cannot work.
        """
        if self._access is not None:
            return self._access
        async with self._loading:
            if self._access is None:
                self._access = await self._load()
        return self._access

    async def _load(self) -> S3Access:
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                return await in_thread(S3Access.load, self.bucket, self._settings)
        except TimeoutError as error:
            raise ConfigurationError(
                f"No AWS credentials came within {_LOAD_SECONDS:.0f} s."
            ) from error

    async def send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        body: ChunkBody | bytes | None = None,
        sha256: str = _EMPTY,
        response_timeout: float | None = None,
    ) -> Reply:
        """
        Sign a request, send it, and return its answer.

        Args:
            method: In capitals.

            key: Which object; empty for the bucket itself.

            query: Parameters, not encoded yet.

            headers: Signed with the rest.

            body: Bytes, or those of a chunk.

            sha256: Digest of a chunk's bytes, in hexadecimal.

            response_timeout: Seconds to wait for the answer; None for as long as for
                any other.

        Raises:
            RemoteError: What the answer stands for, where it refuses.
            ConfigurationError: The AWS configuration cannot work.
        """
        access = await self.access()
        url = access.base + ("/" + quote(key, safe=_SAFE + "/") if key else "")
        if query:
            url += "?" + "&".join(
                f"{name}={quote(value, safe=_SAFE)}"
                for name, value in sorted(query.items())
            )
        if isinstance(body, bytes):
            sha256 = hashlib.sha256(body).hexdigest()
        signed = await access.sign(method, url, headers or {}, sha256=sha256)
        reply = await self._wire.request(
            method,
            url,
            headers=signed,
            body=body,
            response_timeout=response_timeout,
        )
        if error := failure(reply):
            await self._move_to(reply.headers.get("x-amz-bucket-region"))
            raise error
        return reply

    async def _move_to(self, region: str | None) -> None:
        """
        Go to the region that an answer names, if it is another one.

        Raises:
            RemoteUnavailable: It is; the request has to be made again there.
        """
        access = await self.access()
        if region in {None, "", access.region}:
            return
        self._settings = replace(self._settings, region=region)
        self._access = None
        raise RemoteUnavailable(f"The bucket {self.bucket} is in the region {region}.")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()
