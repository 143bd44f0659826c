"""`memory://name/`: kept in this process, for trying things out and for tests."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from upload_kit.errors import (
    IntegrityError,
    OffsetConflict,
    RemoteGone,
    RemoteRejected,
)
from upload_kit.models import Receipt, RemoteObject
from upload_kit.planning import Capabilities
from upload_kit.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upload_kit.bodies import ChunkBody
    from upload_kit.config import ConnectionOptions
    from upload_kit.locations import Location
    from upload_kit.models import ChunkMetadata, UploadSpec
    from upload_kit.planning import Plan


@dataclass(slots=True)
class MemoryFolder:
    """What stands under one name: published objects, and uploads that are half done."""

    name: str
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    published: dict[str, RemoteObject] = field(default_factory=dict)
    """What uploads became, by their tokens; the newest, for those who ask again."""


_REMEMBERED: Final = 1000
_FOLDERS: Final[dict[str, MemoryFolder]] = {}


def memory_folder(name: str) -> MemoryFolder:
    """Return the folder behind `memory://name/`; every use of it sees the same one."""
    return _FOLDERS.setdefault(name, MemoryFolder(name))


class MemoryDestination:
    """The folder `memory://name/`."""

    def __init__(self, location: Location, options: ConnectionOptions) -> None:
        self._url = str(location).rstrip("/") + "/"
        self._folder = memory_folder(location.host)
        self._prefix = location.path.strip("/")

    async def negotiate(self, spec: UploadSpec) -> Capabilities:
        """Take anything."""
        return Capabilities(
            unknown_length=True,
            checksums=frozenset({"sha256"}),
            whole_checksums=frozenset({"sha256"}),
        )

    async def open(self, spec: UploadSpec, plan: Plan) -> MemoryUpload:
        """Begin with nothing."""
        token = secrets.token_hex(16)
        self._folder.parts[token] = {}
        return self._upload(spec, token)

    async def reopen(self, spec: UploadSpec, plan: Plan, token: str) -> MemoryUpload:
        """Go on with what another transfer of this process began."""
        if token not in self._folder.parts:
            raise RemoteGone(f"Nothing half done at {self._url} has this token.")
        return self._upload(spec, token)

    def _upload(self, spec: UploadSpec, token: str) -> MemoryUpload:
        return MemoryUpload(
            self._folder, f"{self._prefix}/{spec.name}".lstrip("/"), spec, token
        )

    async def aclose(self) -> None:
        """Keep everything: other uses of the folder see it."""


class MemoryUpload:
    """One upload into memory."""

    def __init__(
        self, folder: MemoryFolder, key: str, spec: UploadSpec, token: str
    ) -> None:
        self._folder = folder
        self._location = f"memory://{folder.name}/{key}"
        self._key = key
        self._spec = spec
        self.token = token

    @property
    def _parts(self) -> dict[int, bytes]:
        try:
            return self._folder.parts[self.token]
        except KeyError as error:
            raise RemoteGone(f"The upload to {self._location} is gone.") from error

    async def held(self) -> Sequence[Receipt]:
        """Return what is there; see `RemoteUpload.held`."""
        return [
            Receipt(
                index=index, size=len(part), sha256=hashlib.sha256(part).hexdigest()
            )
            for index, part in sorted(self._parts.items())
        ]

    async def put(self, chunk: ChunkMetadata, body: ChunkBody) -> Receipt:
        """Copy the pieces; see `RemoteUpload.put`."""
        parts = self._parts
        data = b"".join([bytes(piece) async for piece in body.stream()])
        digest = (await in_thread(hashlib.sha256, data)).digest()
        if digest != await body.digest("sha256"):
            raise IntegrityError(f"Chunk {chunk.index} changed on its way to memory.")
        parts[chunk.index] = data
        return Receipt(index=chunk.index, size=len(data), sha256=digest.hex())

    async def complete(
        self, receipts: Sequence[Receipt], *, sha256: str | None = None
    ) -> RemoteObject:
        """Join the parts; see `RemoteUpload.complete`."""
        published = self._folder.published.get(self.token)
        if published is not None:
            return published
        if not self._spec.overwrite and self._key in self._folder.objects:
            raise RemoteRejected(
                f"{self._location} exists already.", hint="Allow to overwrite it."
            )
        parts = self._parts
        if missing := [each.index for each in receipts if each.index not in parts]:
            raise OffsetConflict(f"{self._location} misses the chunks {missing}.")
        whole = b"".join(parts[receipt.index] for receipt in receipts)
        actual = (await in_thread(hashlib.sha256, whole)).hexdigest()
        if sha256 not in {None, actual}:
            raise IntegrityError(f"{self._location} differs from what was sent.")
        self._folder.objects[self._key] = whole
        self._folder.parts.pop(self.token, None)
        return self._remember(
            RemoteObject(location=self._location, size=len(whole), sha256=actual)
        )

    def _remember(self, published: RemoteObject) -> RemoteObject:
        done = self._folder.published
        done[self.token] = published
        if len(done) > _REMEMBERED:
            del done[next(iter(done))]
        return published

    async def abort(self) -> None:
        """Drop the parts; see `RemoteUpload.abort`."""
        self._folder.parts.pop(self.token, None)
