"""
`gemini://`: the Gemini Files API, where models read what they are asked about.

A file of up to 2 GB goes in order, one chunk after another, and lives for 48 hours. It
is whole once its last chunk arrived, and useful once the service has processed it.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from upload_kit.config import Secret
from upload_kit.destinations.gemini_api import GeminiApi, Ticket, decode_sha256
from upload_kit.destinations.wire import Wire
from upload_kit.errors import (
    ConfigurationError,
    IntegrityError,
    OffsetConflict,
    RemoteGone,
    RemoteRejected,
    UploadKitError,
)
from upload_kit.models import Receipt, RemoteObject
from upload_kit.planning import Capabilities
from upload_kit.units import GB, parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.config import ConnectionOptions
    from upload_kit.destinations.gemini_api import Standing
    from upload_kit.locations import Location
    from upload_kit.models import ChunkMetadata, UploadSpec
    from upload_kit.planning import Plan

SERVICE: Final = "https://generativelanguage.googleapis.com"
MAX_SIZE: Final = 2 * GB
"""Bytes of a file. Source: https://ai.google.dev/gemini-api/docs/files."""

# As Google's own client: the first one that is set counts.
_KEYS: Final = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
_BASE: Final = "GOOGLE_GEMINI_BASE_URL"
_PARAMETERS: Final = ("base_url", "processing_timeout")
# Long videos take minutes.
_PROCESSING: Final = 900.0
_FIRST_LOOK, _LAST_LOOK = 0.25, 10.0
# After so many refusals in a row at the same offset, asking again is pointless.
_STUCK: Final = 3


class GeminiDestination:
    """The files of one API key."""

    def __init__(self, location: Location, options: ConnectionOptions) -> None:
        settings = _settings(location, options)
        base = settings.get("base_url") or os.environ.get(_BASE) or SERVICE
        if not base.startswith(("http://", "https://")):
            raise ConfigurationError(f"Not the URL of a Gemini service: {base!r}.")
        self._patience = _PROCESSING
        if "processing_timeout" in settings:
            self._patience = parse_duration(settings["processing_timeout"])
        # Upload URLs give access by themselves, and lead wherever the service says.
        wire = Wire(replace(options, token=None))
        self._api = GeminiApi(wire, base.rstrip("/"), options.token or _key())
        self._granularity: int | None = None
        self._spare: tuple[UploadSpec, Ticket] | None = None
        self._asking = asyncio.Lock()

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        """
        Tell the limits; see `Destination.negotiate`.

        Only an upload that was started says what its chunks must be multiples of, so
        the first one is started here, and `open` goes on with it.
        """
        limits = Capabilities(
            lanes=1, max_size=MAX_SIZE, whole_checksums=frozenset({"sha256"})
        )
        if spec.size is None or spec.size > MAX_SIZE:
            return limits
        async with self._asking:
            if self._granularity is None:
                ticket = await self._api.start(spec)
                self._granularity, self._spare = ticket.granularity, (spec, ticket)
        return replace(limits, chunk_multiple=self._granularity)

    async def open(self, spec: UploadSpec, plan: Plan) -> GeminiUpload:
        """Start an upload, or go on with the one that `negotiate` started."""
        spare, self._spare = self._spare, None
        # Whether there is a session came out after `negotiate`, and changes nothing.
        if (
            spare is not None
            and replace(spare[0], has_session=spec.has_session) == spec
        ):
            ticket = spare[1]
        else:
            await self._drop(spare)
            ticket = await self._api.start(spec)
        self._granularity = ticket.granularity
        if plan.total_chunks != 1 and plan.chunk_size % ticket.granularity:
            await self._api.cancel(ticket)
            raise RemoteRejected(
                f"The Gemini API takes multiples of {ticket.granularity} bytes now, but"
                f" the chunks of {spec.name} have {plan.chunk_size}.",
                hint="Start a new upload.",
            )
        return GeminiUpload(self._api, spec, plan, ticket, patience=self._patience)

    async def reopen(self, spec: UploadSpec, plan: Plan, token: str) -> GeminiUpload:
        """Go on with an upload, if the service still knows it."""
        try:
            ticket = Ticket.from_json(token)
        except ConfigurationError as error:
            raise RemoteGone("Not a half-done upload to the Gemini API.") from error
        upload = GeminiUpload(self._api, spec, plan, ticket, patience=self._patience)
        await upload.ask()
        return upload

    async def _drop(self, spare: tuple[UploadSpec, Ticket] | None) -> None:
        if spare is not None:
            await self._api.cancel(spare[1])

    async def aclose(self) -> None:
        """Cancel what was started for nothing, and close the connections."""
        spare, self._spare = self._spare, None
        try:
            await self._drop(spare)
        except UploadKitError:
            # Nothing was sent to it, and it expires by itself.
            pass
        finally:
            await self._api.aclose()


def _settings(location: Location, options: ConnectionOptions) -> Mapping[str, str]:
    """Return what the URL and the options say; the options win."""
    if location.host or location.path.strip("/") or location.username:
        raise ConfigurationError(
            "The Gemini Files API has no folders and no names.",
            hint="Write gemini:// alone.",
        )
    settings = {**dict(location.parameters), **dict(options.options)}
    for name in settings:
        if name not in _PARAMETERS:
            raise ConfigurationError(
                f"gemini:// does not know {name!r}.",
                hint=f"Known are {' and '.join(_PARAMETERS)}; the key goes in api_key.",
            )
    return settings


def _key() -> Secret:
    for name in _KEYS:
        if key := os.environ.get(name):
            return Secret(key)
    raise ConfigurationError(
        "The Gemini Files API needs an API key.",
        hint=f"Give api_key=..., or set {_KEYS[0]} or {_KEYS[1]}.",
    )


class GeminiUpload:
    """One file on its way; its chunks must come in order."""

    def __init__(
        self,
        api: GeminiApi,
        spec: UploadSpec,
        plan: Plan,
        ticket: Ticket,
        *,
        patience: float,
    ) -> None:
        self._api = api
        self._spec = spec
        self._plan = plan
        self._ticket = ticket
        self._patience = patience
        # None: a request broke off, so that only the service knows.
        self._received: int | None = 0
        self._file: dict[str, Any] | None = None
        self._conflicts = (0, 0)
        self._spoilt: UploadKitError | None = None
        self.token = ticket.to_json()

    async def ask(self) -> None:
        """
        Ask what the service has.

        Raises:
            RemoteGone: It has lost the upload, or says what cannot be.
        """
        standing = await self._api.query(self._ticket)
        size = self._spec.size or 0
        if standing.file is None and standing.received > size:
            raise RemoteGone(
                f"The Gemini API says it has {standing.received} of {size} bytes of"
                f" {self._spec.name}."
            )
        self._learn(standing)

    def _learn(self, standing: Standing) -> None:
        self._file = standing.file
        self._received = standing.received
        if standing.file is not None:
            self._received = self._spec.size

    async def held(self) -> Sequence[Receipt]:
        """
        Return the chunks that arrived whole.

        The last one counts only once the service has taken it for the end.
        """
        if self._received is None:
            await self.ask()
        receipts = []
        for chunk in self._plan.chunks():
            if self._file is None and self._is_ahead(chunk):
                break
            receipts.append(Receipt(index=chunk.index, size=chunk.size))
        return receipts

    def _is_ahead(self, chunk: ChunkMetadata) -> bool:
        """Whether the service still waits for some of this chunk, or for its end."""
        received = self._received or 0
        return chunk.end > received or chunk.end == self._spec.size

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Send what the service does not have of a chunk; see `RemoteUpload.put`."""
        if self._received is None:
            await self.ask()
        if self._file is None and self._is_ahead(chunk):
            await self._send(chunk, body)
        return Receipt(index=chunk.index, size=chunk.size)

    async def _send(self, chunk: ChunkMetadata, body: ChunkBody) -> None:
        received, self._received = self._received or 0, None
        skip = received - chunk.start
        if skip < 0:
            raise RemoteGone(
                f"The Gemini API has {received} bytes of {self._spec.name}, fewer than"
                " it had acknowledged."
            )
        try:
            standing = await self._api.send(
                self._ticket,
                body,
                skip=skip,
                offset=received,
                finalize=chunk.end == self._spec.size,
            )
        except OffsetConflict as error:
            self._count_conflict(received, error)
            raise
        self._learn(standing)
        if standing.file is None and chunk.end == self._spec.size:
            raise OffsetConflict(
                f"The Gemini API did not take {self._spec.name} for complete."
            )

    def _count_conflict(self, offset: int, error: OffsetConflict) -> None:
        """Give up where the service refuses the very bytes that it asked for."""
        before, count = self._conflicts
        self._conflicts = (offset, count + 1 if offset == before else 1)
        if self._conflicts[1] >= _STUCK:
            raise RemoteRejected(error.message, status=error.status) from error

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """
        Compare the whole file, and wait until the service has processed it.

        A file that differs, or that the service could not process, is deleted.

        Raises:
            IntegrityError: The service has other bytes.
            RemoteRejected: It could not process them, or not in time.
        """
        if self._spoilt is not None:
            raise self._spoilt
        if self._file is None:
            await self.ask()
        if self._file is None:
            raise OffsetConflict(f"The Gemini API waits for more of {self._spec.name}.")
        file = self._file
        theirs = decode_sha256(file.get("sha256Hash"))
        if None not in {theirs, sha256} and theirs != sha256:
            await self._spoil(
                IntegrityError(
                    f"The Gemini API stored {self._spec.name} with the digest {theirs},"
                    f" but it has {sha256}."
                )
            )
        file = await self._processed()
        size = file.get("sizeBytes")
        return RemoteObject(
            location=str(file.get("uri") or self._name),
            size=None if size is None else int(size),
            sha256=theirs or decode_sha256(file.get("sha256Hash")),
        )

    @property
    def _name(self) -> str:
        """The file's name, which the service may have changed."""
        return str((self._file or {}).get("name") or self._ticket.name)

    async def _spoil(self, error: UploadKitError) -> None:
        """Delete a file that nobody can use, so that a resume begins anew."""
        self._spoilt = error
        await self._api.delete(self._name)
        self._forget()
        raise error

    def _forget(self) -> None:
        """Believe nothing any more: the service is to be asked."""
        self._file = self._received = None

    async def _processed(self) -> dict[str, Any]:
        """Return the file once it is active."""
        give_up = time.monotonic() + self._patience
        wait = _FIRST_LOOK
        file = self._file or {}
        while (state := file.get("state", "ACTIVE")) != "ACTIVE":
            if state == "FAILED":
                await self._spoil(RemoteRejected(self._failure(file)))
            if time.monotonic() + wait > give_up:
                raise RemoteRejected(
                    f"The Gemini API still processes {self._spec.name} ({self._name})"
                    f" after {self._patience:.0f} s.",
                    hint="Allow more time with gemini://?processing_timeout=30m.",
                )
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LAST_LOOK)
            file = self._file = await self._api.file(self._name)
        return file

    def _failure(self, file: dict[str, Any]) -> str:
        problem = file.get("error")
        words = problem.get("message") if isinstance(problem, dict) else None
        why = str(words or "it does not say why").rstrip(".")
        return f"The Gemini API could not process {self._spec.name}: {why}."

    async def abort(self) -> None:
        """Cancel the upload, or delete the file; see `RemoteUpload.abort`."""
        if self._file is not None or await self._api.cancel(self._ticket):
            await self._api.delete(self._name)
        self._forget()
