"""Who may go on with which session, until when, and what is removed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from upload_kit.errors import (
    ConfigurationError,
    SessionConflict,
    SessionError,
    SessionExpired,
    SessionNotFound,
    UploadCancelled,
)
from upload_kit.models import (
    Receipt,
    SourceIdentity,
    UploadSession,
    UploadSpec,
    UploadStatus,
)
from upload_kit.sessions.json_files import JsonFileStore
from upload_kit.sessions.manager import (
    CleanupReport,
    SessionManager,
    default_session_dir,
    open_store,
)
from upload_kit.sessions.memory import MemoryStore
from upload_kit.sessions.owners import new_owner
from upload_kit.sessions.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from upload_kit.sessions.base import Checkpoint, SessionStore

HOUR: Final = 3600.0
SPEC: Final = UploadSpec(name="big.bin", size=10, content_type="text/csv", metadata={})
IDENTITY: Final = SourceIdentity(size=10, mtime_ns=1, inode=2)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class WatchedStore(MemoryStore):
    """A real store that tells of every write, and can hold or refuse some."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: asyncio.Queue[UploadSession] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()
        self.full = False

    async def put(
        self,
        session: UploadSession,
        *,
        expected: int | None,
        keep_receipts: bool = True,
    ) -> int:
        self.writes.put_nowait(session)
        await self.gate.wait()
        if self.full:
            raise SessionError("The disk is full.")
        return await super().put(
            session, expected=expected, keep_receipts=keep_receipts
        )

    async def next_write(self) -> UploadSession:
        """Wait for a write that nobody looked at yet."""
        return await asyncio.wait_for(self.writes.get(), 10)


class UnreadableStore(MemoryStore):
    """A real store that cannot be scanned before it is told to be readable."""

    def __init__(self) -> None:
        super().__init__()
        self.readable = False
        self.tried = asyncio.Semaphore(0)
        self.deleted = asyncio.Event()

    async def delete(self, session_id: str, *, expected: int | None = None) -> None:
        await super().delete(session_id, expected=expected)
        self.deleted.set()

    def scan(
        self,
        *,
        on_corrupt: Callable[[SessionError], None] | None = None,
        **where: str,
    ) -> AsyncIterator[UploadSession]:
        self.tried.release()
        if not self.readable:
            raise SessionError("The folder cannot be read now.")
        return super().scan(on_corrupt=on_corrupt, **where)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "json", "sqlite"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[SessionStore]:
    places = {
        "memory": "memory:",
        "json": str(tmp_path / "sessions"),
        "sqlite": str(tmp_path / "sessions.db"),
    }
    store = open_store(places[request.param])
    yield store
    await store.aclose()


@pytest.fixture
def manager(store: SessionStore, clock: Clock) -> SessionManager:
    return SessionManager(store, ttl=48 * HOUR, clock=clock)


async def make(manager: SessionManager, **changes: object) -> UploadSession:
    """Make a session like any other, but for the changes."""
    wanted: dict[str, object] = {
        "source": "/data/big.bin",
        "destination": "memory://here",
        "identity": IDENTITY,
        **changes,
    }
    return await manager.create(SPEC, chunk_size=5, total_chunks=2, **wanted)  # type: ignore[arg-type] # Tests pass what `create` takes.


def dead_process() -> int:
    """Return the number of a process that ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    assert ended.wait(20) == 0
    return ended.pid


def receipt_of(index: int) -> Receipt:
    return Receipt(index=index, size=5)


class TestCreateAndGet:
    async def test_create_stores_everything(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """A new session is stored whole, with a random ID and its time to live."""
        session = await make(manager)
        assert await manager.get(session.session_id) == session
        assert len(session.session_id) == 32
        assert session.status is UploadStatus.PENDING
        assert session.created_at == session.updated_at == clock.now
        assert session.expires_at == clock.now + 48 * HOUR
        assert session.content_type == "text/csv"

    async def test_ids_differ(self, manager: SessionManager) -> None:
        """Two sessions of the same upload are two sessions."""
        one, two = await make(manager), await make(manager)
        assert one.session_id != two.session_id

    async def test_get_of_unknown(self, manager: SessionManager) -> None:
        """An ID that nobody has is told so, with the likely reasons."""
        with pytest.raises(SessionNotFound, match="completed, removed"):
            await manager.get("0" * 32)

    async def test_get_of_no_id(self, manager: SessionManager) -> None:
        """Something that is no ID is the caller's mistake."""
        with pytest.raises(ConfigurationError, match="32 lower-case"):
            await manager.get("../secrets")

    async def test_get_of_expired(self, manager: SessionManager, clock: Clock) -> None:
        """A session is there until its time is over, and not a moment longer."""
        session = await make(manager)
        clock.now += 48 * HOUR - 0.001
        await manager.get(session.session_id)
        clock.now += 0.001
        with pytest.raises(SessionExpired, match="again"):
            await manager.get(session.session_id)

    async def test_without_ttl_nothing_expires(
        self, store: SessionStore, clock: Clock
    ) -> None:
        """None means never."""
        manager = SessionManager(store, ttl=None, clock=clock)
        session = await make(manager)
        clock.now += 1e9
        assert (await manager.get(session.session_id)).expires_at is None

    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({"ttl": 0}, id="ttl-0"),
            pytest.param({"ttl": -1.0}, id="ttl-negative"),
            pytest.param({"lease_seconds": 0}, id="lease-0"),
            pytest.param({"lease_seconds": float("nan")}, id="lease-nan"),
        ],
    )
    def test_nonsense_is_refused(self, options: dict[str, float]) -> None:
        """Durations are above zero."""
        with pytest.raises(ConfigurationError, match="above 0"):
            SessionManager(MemoryStore(), **options)  # type: ignore[arg-type] # A table.

    async def test_delete(self, manager: SessionManager) -> None:
        """A deleted session is gone; deleting it again changes nothing."""
        session = await make(manager)
        await manager.delete(session.session_id)
        await manager.delete(session.session_id)
        with pytest.raises(SessionNotFound):
            await manager.get(session.session_id)


class TestFind:
    async def find(self, manager: SessionManager) -> UploadSession | None:
        return await manager.find(
            source="/data/big.bin",
            name="big.bin",
            destination="memory://here",
            identity=IDENTITY,
        )

    async def test_newest_match_is_found(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """Of several that could go on, the one made last does."""
        await make(manager)
        clock.now += 1
        newest = await make(manager)
        assert await self.find(manager) == newest

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"source": "/data/other.bin"}, id="source"),
            pytest.param({"source": None}, id="no-source"),
            pytest.param({"destination": "memory://there"}, id="destination"),
            pytest.param({"identity": replace(IDENTITY, size=11)}, id="size"),
            pytest.param({"identity": replace(IDENTITY, mtime_ns=2)}, id="mtime"),
            pytest.param({"identity": replace(IDENTITY, inode=3)}, id="inode"),
            pytest.param({"identity": None}, id="no-identity"),
        ],
    )
    async def test_other_uploads_are_not_found(
        self, manager: SessionManager, changes: dict[str, object]
    ) -> None:
        """Bytes of another source, or of a changed one, are never continued."""
        await make(manager, **changes)
        assert await self.find(manager) is None

    async def test_expired_is_not_found(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """What waits for its cleanup cannot be continued."""
        await make(manager)
        clock.now += 48 * HOUR
        assert await self.find(manager) is None

    @pytest.mark.parametrize("status", [UploadStatus.FAILED, UploadStatus.CANCELLED])
    async def test_what_ended_badly_is_found(
        self, manager: SessionManager, status: UploadStatus
    ) -> None:
        """A failed or cancelled upload is what resuming is for."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            lease.finish(status, "why")
        found = await self.find(manager)
        assert found is not None
        assert (found.session_id, found.error) == (session.session_id, "why")

    async def test_completed_is_not_found(
        self, store: SessionStore, clock: Clock
    ) -> None:
        """A kept record of a completed upload does not swallow the next one."""
        manager = SessionManager(store, clock=clock, keep_completed=True)
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            lease.finish(UploadStatus.COMPLETE)
        assert await self.find(manager) is None

    async def test_list_filters_and_leaves_out_the_expired(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """What can be continued is listed, oldest first; the rest on request."""
        old = await make(manager)
        clock.now += 24 * HOUR
        young = await make(manager, source="/data/young.bin")
        assert await manager.list() == [old, young]
        assert await manager.list(source="/data/young.bin") == [young]
        clock.now += 24 * HOUR
        assert await manager.list() == [young]
        assert await manager.list(expired=True) == [old, young]


class TestLease:
    async def test_a_held_session_says_who_holds_it(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """Others see the process and the time; afterwards it is free again."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            held = await manager.get(session.session_id)
            assert held == lease.session
        free = await manager.get(session.session_id)
        assert f":{os.getpid()}:" in str(held.lease_owner)
        assert held.lease_until == clock.now + 60
        assert (held.status, held.fence) == (UploadStatus.UPLOADING, 1)
        assert (free.lease_owner, free.lease_until) == (None, 0.0)
        assert (free.status, free.fence) == (UploadStatus.PAUSED, 1)

    async def test_second_lease_conflicts(self, manager: SessionManager) -> None:
        """A session is held once, even in one process; the message says by whom."""
        session = await make(manager)
        async with manager.lease(session.session_id):
            with pytest.raises(SessionConflict, match=rf"process {os.getpid()} .*60 s"):
                async with manager.lease(session.session_id):
                    pytest.fail("held twice")
        async with manager.lease(session.session_id):
            pass

    async def test_lease_of_unknown(self, manager: SessionManager) -> None:
        """There is nothing to hold."""
        with pytest.raises(SessionNotFound):
            async with manager.lease("0" * 32):
                pytest.fail("held nothing")

    async def test_lease_of_expired(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """What expired stays expired."""
        session = await make(manager)
        clock.now += 48 * HOUR
        with pytest.raises(SessionExpired):
            async with manager.lease(session.session_id):
                pytest.fail("held what expired")

    async def test_silent_owner_loses_the_session(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """After its term another takes over, and the old one cannot spoil anything."""
        session = await make(manager)
        old = manager.lease(session.session_id)
        lost = await old.__aenter__()
        clock.now += 60
        async with manager.lease(session.session_id) as lease:
            await lease.opened("new")
            with pytest.raises(SessionConflict, match="took session"):
                await lost.record(receipt_of(0))
            with pytest.raises(SessionConflict, match="no longer holds"):
                await lost.opened("old")
            with pytest.raises(SessionConflict):
                await lost.record(receipt_of(0))
            lost.finish(UploadStatus.COMPLETE)
            await old.__aexit__(None, None, None)
            assert lost.is_lost
            await lease.record(receipt_of(1))
            held = await manager.get(session.session_id)
        assert held.receipts == (receipt_of(1),)
        assert (held.remote_token, held.fence) == ("new", 2)
        assert held.status is UploadStatus.UPLOADING

    async def test_owner_elsewhere_is_waited_for(
        self, manager: SessionManager, store: SessionStore, clock: Clock
    ) -> None:
        """Whether a process on another machine lives cannot be known; its term can."""
        session = await make(manager)
        pid = await asyncio.to_thread(dead_process)
        theirs = replace(
            session, lease_owner=f"far/1:{pid}:abc", lease_until=clock.now + 30, fence=1
        )
        await store.put(theirs, expected=session.version)
        told = rf"process {pid} on far until .*30 s"
        with pytest.raises(SessionConflict, match=told):
            async with manager.lease(session.session_id):
                pytest.fail("held twice")
        clock.now += 30
        async with manager.lease(session.session_id) as lease:
            assert lease.session.fence == 2

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tell")
    async def test_owner_that_nobody_waited_for_keeps_nobody_out(
        self, manager: SessionManager, store: SessionStore, clock: Clock
    ) -> None:
        """A process that ended holds nothing, though its parent did not ask how yet."""
        session = await make(manager)
        with process("input()") as owner:
            host = new_owner().partition(":")[0]
            theirs = replace(
                session,
                lease_owner=f"{host}:{owner.pid}:abc",
                lease_until=clock.now + 30,
            )
            await store.put(theirs, expected=session.version)
            with pytest.raises(SessionConflict, match=f"process {owner.pid} "):
                async with manager.lease(session.session_id):
                    pytest.fail("held twice")
            owner.kill()
            ended = os.WEXITED | os.WNOWAIT
            await asyncio.to_thread(os.waitid, os.P_PID, owner.pid, ended)
            async with manager.lease(session.session_id) as lease:
                assert lease.session.session_id == session.session_id

    async def test_receipts_and_token_are_kept(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """What the engine tells its checkpoint is there for the next process."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            checkpoint: Checkpoint = lease
            await checkpoint.opened("token")
            clock.now += 5
            await checkpoint.record(receipt_of(1))
            await checkpoint.record(receipt_of(0))
            assert checkpoint.session.receipts == (receipt_of(0), receipt_of(1))
            assert checkpoint.session.updated_at == clock.now
        found = await manager.get(session.session_id)
        assert found.receipts == (receipt_of(0), receipt_of(1))
        assert (found.remote_token, found.updated_at) == ("token", clock.now)

    async def test_reopening_forgets_receipts(self, manager: SessionManager) -> None:
        """Receipts of a remote upload that is gone do not count for the next one."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            await lease.opened("old")
            await lease.record(receipt_of(0))
            await lease.opened("new")
            assert lease.session.receipts == ()
            await lease.record(receipt_of(1))
        found = await manager.get(session.session_id)
        assert (found.remote_token, found.receipts) == ("new", (receipt_of(1),))

    async def test_use_puts_the_expiry_off(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """Only a session that nobody goes on with expires."""
        session = await make(manager)
        clock.now += 47 * HOUR
        async with manager.lease(session.session_id):
            pass
        clock.now += 47 * HOUR
        found = await manager.get(session.session_id)
        assert found.expires_at == clock.now + HOUR

    async def test_held_session_does_not_expire(
        self, store: SessionStore, clock: Clock
    ) -> None:
        """A ttl shorter than a lease takes nothing away from who works on it."""
        manager = SessionManager(store, ttl=10, clock=clock)
        session = await make(manager)
        async with manager.lease(session.session_id):
            clock.now += 20
            await manager.get(session.session_id)
            assert await manager.cleanup() == CleanupReport()
        await manager.get(session.session_id)

    async def test_completed_session_is_removed(self, manager: SessionManager) -> None:
        """The history keeps the record; nothing is left to resume."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            lease.finish(UploadStatus.COMPLETE)
        assert await manager.list(expired=True) == []

    async def test_completed_session_can_be_kept(
        self, store: SessionStore, clock: Clock
    ) -> None:
        """Who wants to see it, may, until it expires."""
        manager = SessionManager(store, clock=clock, keep_completed=True)
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            lease.finish(UploadStatus.COMPLETE)
        found = await manager.get(session.session_id)
        assert found.status is UploadStatus.COMPLETE

    @pytest.mark.parametrize(
        ("error", "status", "text"),
        [
            pytest.param(
                OSError("disk on fire"),
                UploadStatus.FAILED,
                "disk on fire",
                id="failure",
            ),
            pytest.param(ValueError(), UploadStatus.FAILED, "ValueError", id="mute"),
            pytest.param(
                UploadCancelled("stop"), UploadStatus.CANCELLED, None, id="cancelled"
            ),
        ],
    )
    async def test_failure_gives_the_session_back(
        self,
        manager: SessionManager,
        error: Exception,
        status: UploadStatus,
        text: str | None,
    ) -> None:
        """The error comes through as it is, and the session says why."""
        session = await make(manager)
        with pytest.raises(type(error)) as caught:
            async with manager.lease(session.session_id):
                raise error
        assert caught.value is error
        found = await manager.get(session.session_id)
        assert (found.status, found.error, found.lease_owner) == (status, text, None)

    async def test_resuming_clears_the_old_error(self, manager: SessionManager) -> None:
        """What went wrong last time is not shown for this time."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            lease.finish(UploadStatus.FAILED, "why")
        async with manager.lease(session.session_id) as lease:
            assert lease.session.error is None

    async def test_cancelling_gives_the_session_back(
        self, manager: SessionManager
    ) -> None:
        """An interrupted upload can be resumed at once, in this process too."""
        session = await make(manager)
        holding = asyncio.Event()

        async def work() -> None:
            async with manager.lease(session.session_id):
                holding.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await holding.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        found = await manager.get(session.session_id)
        assert (found.status, found.lease_owner) == (UploadStatus.CANCELLED, None)

    async def test_deleting_stops_the_owner(self, manager: SessionManager) -> None:
        """Who works on a session that was removed is told at the next chunk."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            await manager.delete(session.session_id)
            with pytest.raises(SessionConflict, match="no longer holds"):
                await lease.record(receipt_of(0))
        assert await manager.list() == []


class TestInterruptedWrites:
    """Nobody who is cancelled in mid-write leaves a session locked."""

    @pytest.fixture
    def store(self) -> WatchedStore:
        return WatchedStore()

    async def test_cancel_while_taking(
        self, manager: SessionManager, store: WatchedStore
    ) -> None:
        """A lease that was written for somebody who is gone is given back."""
        session = await make(manager)
        await store.next_write()
        store.gate.clear()

        async def work() -> None:
            async with manager.lease(session.session_id):
                pytest.fail("cancelled before")

        task = asyncio.create_task(work())
        await store.next_write()
        task.cancel()
        store.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        found = await manager.get(session.session_id)
        assert (found.lease_owner, found.fence) == (None, 1)

    async def test_cancel_while_saving_a_token(
        self, manager: SessionManager, store: WatchedStore
    ) -> None:
        """The token was written, so it is remembered, and the lease is given back."""
        session = await make(manager)
        ready = asyncio.Event()

        async def work() -> None:
            async with manager.lease(session.session_id) as lease:
                store.gate.clear()
                ready.set()
                await lease.opened("token")

        task = asyncio.create_task(work())
        await ready.wait()
        for _ in range(3):
            await store.next_write()
        task.cancel()
        store.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        found = await manager.get(session.session_id)
        assert (found.lease_owner, found.remote_token) == (None, "token")


class TestRenewal:
    """A lease lasts as long as its owner lives, however long that is."""

    @pytest.fixture
    def store(self) -> WatchedStore:
        return WatchedStore()

    @pytest.fixture
    def manager(self, store: WatchedStore, clock: Clock) -> SessionManager:
        return SessionManager(store, lease_seconds=0.05, clock=clock)

    async def test_held_lease_is_renewed(
        self, manager: SessionManager, store: WatchedStore, clock: Clock
    ) -> None:
        """Again and again, each time for a full term; receipts stay."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            await lease.record(receipt_of(0))
            for _ in range(2):
                await store.next_write()
            for _ in range(3):
                clock.now += 100
                written = await store.next_write()
                assert written.lease_until == clock.now + 0.05
            assert (await manager.get(session.session_id)).fence == 1
            assert lease.session.receipts == (receipt_of(0),)

    async def test_refused_renewal_stops_the_owner(
        self, manager: SessionManager, store: WatchedStore
    ) -> None:
        """Whoever finds the session changed has lost it, before any receipt does."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            held = lease.session
            await store.put(replace(held, lease_owner="x:1:y"), expected=held.version)
            async with asyncio.timeout(10):
                while not lease.is_lost:
                    await store.next_write()
            with pytest.raises(SessionConflict, match="no longer holds"):
                await lease.record(receipt_of(0))
        assert (await manager.get(session.session_id)).lease_owner == "x:1:y"

    async def test_disk_that_is_full_for_a_while_costs_nothing(
        self,
        manager: SessionManager,
        store: WatchedStore,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A renewal that fails is tried again while the term lasts."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            for _ in range(2):
                await store.next_write()
            store.full = True
            for _ in range(2):
                await store.next_write()
            store.full = False
            await store.next_write()
            await store.next_write()
            await lease.record(receipt_of(0))
        assert "could not be renewed" in caplog.text
        found = await manager.get(session.session_id)
        assert (found.receipts, found.lease_owner) == ((receipt_of(0),), None)

    async def test_disk_that_stays_full_ends_the_lease(
        self, manager: SessionManager, store: WatchedStore, clock: Clock
    ) -> None:
        """When the term is over without a renewal, the owner must stop."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            store.full = True
            clock.now += 1
            async with asyncio.timeout(10):
                while not lease.is_lost:
                    await store.next_write()
                    await asyncio.sleep(0)
            with pytest.raises(SessionConflict, match="disk is full"):
                await lease.record(receipt_of(0))

    async def test_release_that_fails_does_not_hide_the_result(
        self,
        manager: SessionManager,
        store: WatchedStore,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The upload counts; the lease runs out by itself."""
        session = await make(manager)

        async def work() -> None:
            async with manager.lease(session.session_id):
                store.full = True
                raise ValueError("the real one")

        with pytest.raises(ValueError, match="the real one"):
            await work()
        assert "could not be given back" in caplog.text


class TestCleanup:
    async def test_only_what_expired_is_removed(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """The report names what is gone; the rest can still be resumed."""
        old = await make(manager)
        clock.now += HOUR
        young = await make(manager)
        assert await manager.cleanup() == CleanupReport()
        clock.now += 47 * HOUR
        assert await manager.cleanup() == CleanupReport(removed=(old.session_id,))
        assert await manager.list(expired=True) == [young]

    async def test_corrupt_sessions_are_reported_once(
        self, tmp_path: Path, clock: Clock
    ) -> None:
        """Whoever comes across them first, the next report has them."""
        store = JsonFileStore(tmp_path)
        manager = SessionManager(store, clock=clock)
        one, two = await make(manager), await make(manager)
        (tmp_path / f"{one.session_id}.json").write_text("{")
        assert await manager.list() == [two]
        first, second = await manager.cleanup(), await manager.cleanup()
        await store.aclose()
        (told,) = first.corrupt
        assert str(tmp_path / "corrupt" / f"{one.session_id}.json") in told
        assert second.corrupt == ()

    async def test_remote_side_is_told_first(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """The caller gets each session, with its token, while it is still there."""
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            await lease.opened("token")
        clock.now += 48 * HOUR
        told = []

        async def abort(expired: UploadSession) -> None:
            told.append((expired.remote_token, len(await manager.list(expired=True))))

        await manager.cleanup(on_expired=abort)
        assert told == [("token", 1)]
        assert await manager.list(expired=True) == []

    async def test_completed_uploads_are_not_aborted(
        self, store: SessionStore, clock: Clock
    ) -> None:
        """Cleaning up a kept record must not touch what was published."""
        manager = SessionManager(store, clock=clock, keep_completed=True)
        session = await make(manager)
        async with manager.lease(session.session_id) as lease:
            lease.finish(UploadStatus.COMPLETE)
        clock.now += 48 * HOUR

        async def abort(expired: UploadSession) -> None:
            pytest.fail(f"aborted {expired.session_id}")

        report = await manager.cleanup(on_expired=abort)
        assert report.removed == (session.session_id,)

    async def test_remote_that_cannot_be_told_is_tried_again(
        self, manager: SessionManager, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A failing abort keeps its session for later, not for ever, and no other."""
        broken = await make(manager)
        fine = await make(manager)

        async def abort(expired: UploadSession) -> None:
            if expired.session_id == broken.session_id:
                raise ConnectionError("unreachable")

        clock.now += 48 * HOUR
        first = await manager.cleanup(on_expired=abort)
        clock.now += 48 * HOUR
        second = await manager.cleanup(on_expired=abort)
        assert first.removed == (fine.session_id,)
        assert second.removed == (broken.session_id,)
        assert "unreachable" in caplog.text

    async def test_session_that_came_back_to_life_stays(
        self, manager: SessionManager, store: SessionStore, clock: Clock
    ) -> None:
        """A session that changed between the look and the removal is not removed."""
        session = await make(manager)
        clock.now += 48 * HOUR

        async def revive(expired: UploadSession) -> None:
            later = replace(expired, expires_at=clock.now + 1)
            await store.put(later, expected=expired.version)

        assert await manager.cleanup(on_expired=revive) == CleanupReport()
        await manager.get(session.session_id)

    async def test_cleanups_do_not_disturb_one_another(
        self, manager: SessionManager, clock: Clock
    ) -> None:
        """Two at once remove everything and fail nothing."""
        sessions = [await make(manager) for _ in range(10)]
        clock.now += 48 * HOUR
        reports = await asyncio.gather(manager.cleanup(), manager.cleanup())
        removed = {session_id for report in reports for session_id in report.removed}
        assert removed == {session.session_id for session in sessions}
        assert await manager.list(expired=True) == []

    async def test_task_goes_on_after_a_failure(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A store that cannot be read is logged; the next cleanup works."""
        store = UnreadableStore()
        manager = SessionManager(store, clock=clock)
        await make(manager)
        clock.now += 48 * HOUR
        task = asyncio.create_task(manager.run_cleanup(0.001))
        async with asyncio.timeout(10):
            for _ in range(3):
                await store.tried.acquire()
            store.readable = True
            await store.deleted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "A cleanup of sessions failed." in caplog.text
        assert "cannot be read now" in caplog.text


@contextmanager
def process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a Python of its own, and end it in any case."""
    running = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with running:
        try:
            yield running
        finally:
            running.kill()


async def heard(running: subprocess.Popen[str]) -> str:
    """Return the next line that the process says."""
    assert running.stdout is not None
    return (await asyncio.to_thread(running.stdout.readline)).strip()


def tell(running: subprocess.Popen[str]) -> None:
    """Let the process go on."""
    assert running.stdin is not None
    running.stdin.write("\n")
    running.stdin.flush()


HOLDER: Final = """
    import asyncio, sys
    from upload_kit.errors import SessionConflict
    from upload_kit.models import Receipt
    from upload_kit.sessions.manager import SessionManager, open_store

    async def main(place, session_id):
        manager = SessionManager(open_store(place))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        try:
            async with manager.lease(session_id) as lease:
                await lease.opened("token")
                await lease.record(Receipt(index=0, size=5))
                print("held", flush=True)
                await asyncio.to_thread(sys.stdin.readline)
        except SessionConflict as error:
            print("refused", flush=True)
        await manager.aclose()

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["sessions", "sessions.db"], ids=["json", "sqlite"])
class TestTwoProcesses:
    @pytest.fixture
    def place(self, tmp_path: Path, name: str) -> str:
        return str(tmp_path / name)

    @pytest.fixture
    async def manager(self, place: str) -> AsyncIterator[SessionManager]:
        manager = SessionManager(open_store(place))
        yield manager
        await manager.aclose()

    async def test_living_owner_keeps_others_out(
        self, manager: SessionManager, place: str
    ) -> None:
        """While a process works on a session no other can, and both are told."""
        session = await make(manager)
        with process(HOLDER, place, session.session_id) as other:
            assert await heard(other) == "ready"
            tell(other)
            assert await heard(other) == "held"
            with pytest.raises(SessionConflict, match=f"process {other.pid} "):
                async with manager.lease(session.session_id):
                    pytest.fail("held twice")
            tell(other)
            assert await asyncio.to_thread(other.wait, 20) == 0
        async with manager.lease(session.session_id) as lease:
            assert lease.session.receipts == (receipt_of(0),)

    async def test_dead_owner_keeps_nobody_out(
        self, manager: SessionManager, place: str
    ) -> None:
        """After kill -9 the session is taken over at once, with all it remembers."""
        session = await make(manager)
        with process(HOLDER, place, session.session_id) as other:
            assert await heard(other) == "ready"
            tell(other)
            assert await heard(other) == "held"
            other.send_signal(signal.SIGKILL)
            await asyncio.to_thread(other.wait, 20)
        async with manager.lease(session.session_id) as lease:
            assert lease.session.fence == 2
            assert lease.session.remote_token == "token"
            assert lease.session.receipts == (receipt_of(0),)

    async def test_one_of_two_gets_the_session(
        self, manager: SessionManager, place: str
    ) -> None:
        """Two processes that grab at the same moment do not both hold it."""
        session = await make(manager)
        with (
            process(HOLDER, place, session.session_id) as one,
            process(HOLDER, place, session.session_id) as two,
        ):
            both = (one, two)
            assert [await heard(other) for other in both] == ["ready", "ready"]
            for other in both:
                tell(other)
            assert sorted([await heard(other) for other in both]) == ["held", "refused"]


class TestPlaces:
    @pytest.mark.parametrize(
        ("place", "kind", "path"),
        [
            pytest.param("memory:", MemoryStore, None, id="memory"),
            pytest.param("some/folder", JsonFileStore, "some/folder", id="folder"),
            pytest.param(".uploads", JsonFileStore, ".uploads", id="dot-folder"),
            pytest.param(Path("a:b"), JsonFileStore, "a:b", id="path-with-colon"),
            pytest.param("x/y.db", SqliteStore, "x/y.db", id="db"),
            pytest.param(Path("y.db"), SqliteStore, "y.db", id="db-path"),
            pytest.param("sqlite:///x/y", SqliteStore, "x/y", id="url-relative"),
            pytest.param("sqlite:////x/y", SqliteStore, "/x/y", id="url-absolute"),
        ],
    )
    def test_open_store(
        self, place: str | Path, kind: type[object], path: str | None
    ) -> None:
        """What people write says which store they mean."""
        store = open_store(place)
        assert type(store) is kind
        found = getattr(store, "folder", getattr(store, "path", None))
        assert found == (None if path is None else Path(path))

    @pytest.mark.parametrize(
        "place", ["", "sqlite:///", "redis://x", "postgres://u:p@h"]
    )
    def test_open_store_refuses(self, place: str) -> None:
        """A store that there is not is a mistake, told without its password."""
        with pytest.raises(ConfigurationError) as caught:
            open_store(place)
        assert "u:p" not in str(caught.value)

    def test_default_folder_is_named_by_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One variable moves everything that is remembered."""
        monkeypatch.setenv("UPLOAD_KIT_SESSION_DIR", "~/mine")
        assert default_session_dir() == Path.home() / "mine"
        monkeypatch.delenv("UPLOAD_KIT_SESSION_DIR")
        assert default_session_dir().is_absolute()
        assert default_session_dir().name == "upload_kit"
