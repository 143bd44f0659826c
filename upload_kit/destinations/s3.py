"""
`s3://bucket/prefix/`: Amazon S3, and whatever speaks its language.

Endpoint, region and credentials are those of the AWS tools; the URL may name others. A
file of one chunk goes in one request, any other one in parts, in any order.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from upload_kit.destinations.s3_access import STYLES, S3Settings
from upload_kit.destinations.s3_bucket import S3Bucket
from upload_kit.destinations.s3_multipart import MAX_PARTS, MultipartUpload
from upload_kit.destinations.s3_uploads import (
    PublishedUpload,
    SinglePut,
    Token,
    read_token,
)
from upload_kit.destinations.s3_wire import S3Wire
from upload_kit.destinations.wire import Wire
from upload_kit.errors import (
    AuthenticationFailed,
    ConfigurationError,
    RemoteGone,
    RemoteRejected,
)
from upload_kit.locations import safe_relative_name
from upload_kit.planning import Capabilities
from upload_kit.units import GIB, MIB, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upload_kit.config import ConnectionOptions
    from upload_kit.locations import Location
    from upload_kit.models import UploadSpec
    from upload_kit.planning import Plan

# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_LIMITS: Final = Capabilities(
    min_chunk=5 * MIB,
    max_chunk=5 * GIB,
    max_chunks=MAX_PARTS,
    max_size=MAX_PARTS * 5 * GIB,
    unknown_length=True,
    checksums=frozenset({"sha256"}),
    # Each request is signed together with the digest of its body.
    digest_first=True,
)
_SETTINGS: Final = ("endpoint_url", "region", "profile", "addressing_style")
_PARAMETERS: Final = (*_SETTINGS, "md5", "min_part")
# Control characters cannot stand in XML, nor lone surrogates in UTF-8.
_NO_KEY: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# What cannot stand in a header's name, and what can stand in its value.
_UNFIT: Final = re.compile(r"[^!#$%&'*+.^_`|~0-9A-Za-z-]", re.ASCII)
_PLAIN: Final = re.compile(r"[!-~]([ -~]*[!-~])?", re.ASCII)


class S3Destination:
    """The keys of a bucket that begin with a prefix."""

    def __init__(self, location: Location, options: ConnectionOptions) -> None:
        settings = _settings(location, options)
        if not location.host:
            raise ConfigurationError(
                "An s3:// URL needs a bucket.", hint="Write s3://bucket/prefix/."
            )
        signed = {
            name.lower(): value.reveal()
            for name, value in options.headers
            if name.lower().startswith("x-amz-")
        }
        others = tuple(
            (name, value)
            for name, value in options.headers
            if name.lower() not in signed
        )
        prefix = location.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        md5 = settings.get("md5") != "off"
        self._limits = replace(
            _LIMITS,
            min_chunk=parse_size(settings.get("min_part", _LIMITS.min_chunk)),
            # With no digest to compare nothing is known of what the service checked.
            checksums=_LIMITS.checksums if md5 else frozenset(),
        )
        self._wire = S3Wire(
            Wire(replace(options, token=None, headers=others)),
            location.host,
            S3Settings(**{name: settings.get(name) for name in _SETTINGS}),
        )
        self._bucket = S3Bucket(self._wire, extra=signed, md5=md5)

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        """Look for credentials, and tell the limits of S3."""
        self._key(spec)
        await self._wire.access()
        return self._limits

    def _key(self, spec: UploadSpec) -> str:
        key = self._prefix + safe_relative_name(spec.name)
        if _NO_KEY.search(key):
            raise ConfigurationError(
                f"Not a key of S3: {key[:200]!r}.",
                hint="Give another one with name=...",
            )
        return key

    async def open(self, spec: UploadSpec, plan: Plan) -> SinglePut | MultipartUpload:
        """Begin an upload; a file of one chunk needs no request for that."""
        key = self._key(spec)
        metadata = _readable(spec.metadata)
        spec = replace(spec, metadata=metadata)
        if not spec.overwrite:
            await self._refuse_to_overwrite(key)
        if plan.total_chunks == 1:
            return SinglePut(self._bucket, spec, Token(key=key))
        upload_id = await self._bucket.create(key, spec.content_type, metadata)
        token = Token(key=key, upload_id=upload_id)
        return MultipartUpload(self._bucket, spec, plan, token, parts=[])

    async def _refuse_to_overwrite(self, key: str) -> None:
        """Look before the bytes go; some services do not know `If-None-Match`."""
        try:
            await self._bucket.head(key)
        except (RemoteGone, AuthenticationFailed):
            # Whoever may write but not read is told at the end.
            return
        raise RemoteRejected(
            f"s3://{self._bucket.name}/{key} exists already.",
            hint="Allow to overwrite it.",
        )

    async def reopen(
        self, spec: UploadSpec, plan: Plan, token: str
    ) -> SinglePut | MultipartUpload | PublishedUpload:
        """Go on with an upload, if the service still knows it, or has its object."""
        read = read_token(token, self._key(spec))
        spec = replace(spec, metadata=_readable(spec.metadata))
        if read.upload_id is None:
            return SinglePut(self._bucket, spec, read)
        try:
            parts = await self._bucket.parts(read.key, read.upload_id)
        except RemoteGone:
            return await PublishedUpload(self._bucket, spec, plan, read).find()
        return MultipartUpload(self._bucket, spec, plan, read, parts=parts, tried=True)

    async def clean_up(self, *, older_than: float) -> tuple[str, ...]:
        """
        Abort the multipart uploads below the prefix that were begun long ago.

        A process that was killed without a session leaves one behind, whose parts cost
        money until somebody aborts it. Uploads of other programs are aborted too.

        Args:
            older_than: Seconds since it was begun.

        Returns:
            The keys whose uploads were aborted.
        """
        aborted = []
        for upload in await self._bucket.unfinished(self._prefix):
            if time.time() - upload.initiated >= older_than:
                await self._bucket.abort(upload.key, upload.upload_id)
                aborted.append(upload.key)
        return tuple(aborted)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()


def _settings(location: Location, options: ConnectionOptions) -> Mapping[str, str]:
    """Return what the URL and the options say; the options win."""
    if location.username or location.password or options.token:
        raise ConfigurationError(
            "S3 takes no credentials in a URL, and no token.",
            hint="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    settings = {**dict(location.parameters), **dict(options.options)}
    for name in settings:
        if name not in _PARAMETERS:
            raise ConfigurationError(
                f"s3:// does not know {name!r}.",
                hint=f"Known are {', '.join(_PARAMETERS)}.",
            )
    if settings.get("addressing_style", "auto") not in STYLES:
        raise ConfigurationError(
            f"No addressing style: {settings['addressing_style']!r}.",
            hint=f"Known are {', '.join(STYLES)}.",
        )
    return settings


def _readable(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata as headers can hold it. Source: RFC 2047, as S3 reads it."""
    return {_UNFIT.sub("-", name): _encoded(text) for name, text in metadata.items()}


def _encoded(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    encoded = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
    return f"=?UTF-8?B?{encoded}?="
