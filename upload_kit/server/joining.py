"""
Uploads that are joined from parts, which came side by side. Knows no HTTP.

The parts may still be on their way when the joined upload is asked for: it waits, and
is made when the last of them is whole. They go once it is published, unless another
one waits for them too.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from upload_kit.server.fields import malformed
from upload_kit.server.growing import GrowingCore, end_of
from upload_kit.server.problems import UploadProblem
from upload_kit.server.receive import run
from upload_kit.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upload_kit.server.append import Checksum
    from upload_kit.server.documents import Snapshot
    from upload_kit.server.parts import Parts
    from upload_kit.server.receive import Body
    from upload_kit.server.rules import NewUpload
    from upload_kit.server.storage import StoredUpload

log: Final = logging.getLogger("upload_kit.server")

# Seconds that whoever asks for a joined upload is kept waiting for it.
_PATIENCE: Final = 20.0
# Bytes copied at a time: a server that stops waits for no more than that.
_STEP: Final = 64 * MIB
# Joined uploads that are not ready and can be found by what they are made of.
_MAX_PENDING: Final = 10_000


class JoiningCore(GrowingCore):
    """What may happen to parts, and to what is made of them; see `GrowingCore`."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._pending: OrderedDict[str, str] = OrderedDict()
        self._running: dict[str, asyncio.Task[Exception | None]] = {}

    async def join(self, owner: str, new: NewUpload) -> Snapshot:
        """
        Make an upload out of parts, now or when the last of them is whole.

        The same request again returns the same upload.

        Args:
            owner: Whose they are.

            new: What is said of the whole; `joins` names the parts.

        Raises:
            UploadProblem: One is not there or is no part, or the whole is too large.
        """
        key = _key(owner, new.joins, new.traits)
        made = await self._made_before(owner, key)
        if made is None:
            made = await self._begin_joined(owner, new, key)
        if made.is_complete:
            return made
        upload_id = made.info.upload_id
        task = self._start(owner, upload_id)
        await asyncio.wait([task], timeout=_PATIENCE)
        if not task.done():
            return made
        if (failure := task.result()) is not None:
            return await self._after_failure(owner, upload_id, key, failure)
        return await self.status(owner, upload_id)

    async def look(self, owner: str, upload_id: str) -> Snapshot:
        """Return how far an upload is; one that is being joined is not disturbed."""
        async with self._use(owner, upload_id, fresh=False) as upload:
            is_joined = bool(upload.info.joins)
        if not is_joined:
            return await super().look(owner, upload_id)
        snapshot = await self.status(owner, upload_id)
        if not snapshot.is_complete:
            # A server that was killed in the middle takes it up again here.
            self._start(owner, upload_id)
        return snapshot

    async def append(
        self,
        owner: str,
        upload_id: str,
        offset: int,
        *,
        body: Body,
        length: int | None = None,
        checksum: Checksum | None = None,
    ) -> Snapshot:
        """Add bytes to an upload; wake what waits for it when it is whole."""
        snapshot = await super().append(
            owner, upload_id, offset, body=body, length=length, checksum=checksum
        )
        if snapshot.info.is_part and _is_whole(snapshot):
            async with self._parts.uploads.use(upload_id) as part:
                waiters = await run(self._pool, part.waiters)
            for waiter in waiters:
                self._start(owner, waiter)
        return snapshot

    async def aclose(self) -> None:
        """Stop joining; it is taken up again when somebody asks."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _made_before(self, owner: str, key: str) -> Snapshot | None:
        """Return what the same request made before."""
        found = await run(self._pool, self._parts.storage.find, key)
        upload_id = found or self._pending.get(key)
        if upload_id is not None:
            with suppress(UploadProblem):
                return await self.status(owner, upload_id)
            self._pending.pop(key, None)
        return None

    async def _begin_joined(self, owner: str, new: NewUpload, key: str) -> Snapshot:
        """Begin a joined upload, and have every part know of it that is not whole."""
        parts = {one: await self.status(owner, one) for one in dict.fromkeys(new.joins)}
        if not parts or not all(part.info.is_part for part in parts.values()):
            raise malformed("Only partial uploads can be joined, and at least one.")
        sizes = [parts[one].info.size for one in new.joins]
        known = [size for size in sizes if size is not None]
        size = sum(known) if len(known) == len(sizes) else None
        made = await self.begin(owner, replace(new, size=size))
        self._pending[key] = made.info.upload_id
        if len(self._pending) > _MAX_PENDING:
            self._pending.popitem(last=False)
        for part_id, part in parts.items():
            if not _is_whole(part):
                async with self._use(owner, part_id) as upload:
                    await run(self._pool, upload.add_waiter, made.info.upload_id)
        return made

    async def _after_failure(
        self, owner: str, upload_id: str, key: str, failure: Exception
    ) -> Snapshot:
        """Return what another request made of the same parts; or tell the failure."""
        self._pending.pop(key, None)
        made = await self._made_before(owner, key)
        if made is None or made.info.upload_id != upload_id:
            with suppress(UploadProblem):
                await self.terminate(owner, upload_id)
        if made is None:
            raise failure
        return made

    def _start(self, owner: str, upload_id: str) -> asyncio.Task[Exception | None]:
        """Join an upload in a task of its own, unless that is under way."""
        task = self._running.get(upload_id)
        if task is None:
            task = asyncio.create_task(self._join(owner, upload_id))
            self._running[upload_id] = task
            task.add_done_callback(lambda _task: self._running.pop(upload_id))
        return task

    async def _join(self, owner: str, upload_id: str) -> Exception | None:
        """Join an upload if its parts are whole; return what went wrong."""
        try:
            await self._join_if_whole(owner, upload_id)
        except (UploadProblem, OSError) as error:
            log.warning("Upload %s cannot be joined now: %s", upload_id, error)
            return error
        return None

    async def _join_if_whole(self, owner: str, upload_id: str) -> None:
        whole = await self.status(owner, upload_id)
        if whole.is_complete:
            return
        for part_id in dict.fromkeys(whole.info.joins):
            if not _is_whole(await self.status(owner, part_id)):
                return
        async with AsyncExitStack() as stack:
            upload = await self._hold_fresh(stack, owner, upload_id)
            # Always in the same order: nobody waits for what waits for him.
            parts = {
                part_id: await self._hold_fresh(stack, owner, part_id)
                for part_id in sorted(set(upload.info.joins))
            }
            await self._copy(upload, parts)
            await self._publish_joined(upload)
            for part in parts.values():
                await self._let_go(part, upload_id)
        for ended in (upload_id, *parts):
            self._forget(ended)

    async def _hold_fresh(
        self, stack: AsyncExitStack, owner: str, upload_id: str
    ) -> StoredUpload:
        using = self._use(owner, upload_id, expired=True)
        upload = await stack.enter_async_context(using)
        await stack.enter_async_context(self._hold(upload, None))
        await run(self._pool, upload.refresh)
        return upload

    async def _copy(
        self, upload: StoredUpload, parts: Mapping[str, StoredUpload]
    ) -> None:
        sizes = [end_of(parts[one]) for one in upload.info.joins]
        await self._settle_size(upload, sum(sizes))
        position = 0
        for part_id, size in zip(upload.info.joins, sizes, strict=True):
            copy = partial(upload.copy, parts[part_id])
            for start in range(0, size, _STEP):
                step = min(_STEP, size - start)
                await run(self._pool, copy, position + start, start, step)
            position += size
        await run(self._pool, upload.extend, position)

    async def _settle_size(self, upload: StoredUpload, size: int) -> None:
        """Note the size of the whole, where it was not known when it began."""
        if upload.info.size is None:
            await self._declare(upload, 0, size)

    async def _publish_joined(self, upload: StoredUpload) -> None:
        info = upload.info
        key = _key(info.owner, info.joins, info.traits)
        await run(self._pool, self._parts.storage.remember, key, info.upload_id)
        await self._publish_whole(upload)
        self._pending.pop(key, None)

    async def _let_go(self, part: StoredUpload, upload_id: str) -> None:
        """Remove a part, unless another upload waits for it."""
        for waiter in await run(self._pool, part.waiters):
            if waiter != upload_id and await self._waits(part.info.owner, waiter):
                return
        await run(self._pool, self._discard, part)

    async def _waits(self, owner: str, upload_id: str) -> bool:
        try:
            return not (await self.status(owner, upload_id)).is_complete
        except UploadProblem:
            return False


def _is_whole(part: Snapshot) -> bool:
    return part.info.size == part.received_bytes


def _key(owner: str, joins: tuple[str, ...], traits: Mapping[str, str]) -> str:
    """Return what tells one joined upload from another before it has an ID."""
    facts = json.dumps([owner, joins, sorted(traits.items())])
    return hashlib.sha256(f"join\0{facts}".encode()).hexdigest()
