"""
One suite for every session store.

A new store is a subclass of `SessionStoreSuite` (or of `DurableStoreSuite`, if it
outlives the process) and a `place` fixture.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    rule,
    run_state_machine_as_test,
)

from tests.unit.test_docs_snippets import ROOT, snippets
from upload_kit.errors import (
    ConfigurationError,
    SessionConflict,
    SessionCorrupt,
    SessionError,
    SessionNotFound,
)
from upload_kit.models import (
    Receipt,
    SourceIdentity,
    UploadSession,
    UploadStatus,
)
from upload_kit.sessions.places import open_store, register_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from upload_kit.sessions.base import SessionStore

GUIDE: Final = ROOT / "docs" / "extending.md"

FIRST: Final = "0" * 31 + "1"
SECOND: Final = "0" * 31 + "2"
THIRD: Final = "0" * 31 + "3"


def session_of(session_id: str = FIRST, **changes: object) -> UploadSession:
    session = UploadSession(
        session_id=session_id,
        name="big.bin",
        source="/data/big.bin",
        destination="memory://here",
        size=10,
        chunk_size=5,
        total_chunks=2,
    )
    return replace(session, **changes)  # type: ignore[arg-type] # Checked by the record.


def receipt_of(index: int, tag: str = "") -> Receipt:
    return Receipt(index=index, size=5, sha256=f"{index:064x}", tag=tag or None)


def folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


async def all_of(store: SessionStore, **where: str) -> list[UploadSession]:
    return [session async for session in store.scan(on_corrupt=None, **where)]


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


class SessionStoreSuite(ABC):
    """What every session store promises; the fixture `place` says where it is."""

    @pytest.fixture
    async def store(self, place: str) -> AsyncIterator[SessionStore]:
        store = open_store(place)
        yield store
        await store.aclose()

    async def test_get_returns_every_field(self, store: SessionStore) -> None:
        """What was put comes back, whatever the names are made of."""
        session = session_of(
            name="naïve 😀 \udcff\n.bin",
            source="/data/\udcff/\x00",
            identity=SourceIdentity(size=10, mtime_ns=2**62, inode=2**63),
            metadata={"kéy": "välue", "": ""},
            remote_token="https://host/capability?signature=x",
            status=UploadStatus.PAUSED,
            created_at=1_700_000_000.25,
            updated_at=1_700_000_001.5,
            expires_at=1_700_172_800.125,
            lease_owner="host:1:abc",
            lease_until=3.5,
            fence=7,
            error='"quoted" \\ error',
        )
        version = await store.put(session, expected=None)
        assert await store.get(FIRST) == replace(session, version=version)

    async def test_get_of_unknown_is_none(self, store: SessionStore) -> None:
        """A session that was never made is no error."""
        assert await store.get(SECOND) is None

    @pytest.mark.parametrize(
        "session_id",
        [
            pytest.param("", id="empty"),
            pytest.param("../../etc/passwd", id="path"),
            pytest.param("0" * 31, id="short"),
            pytest.param("0" * 33, id="long"),
            pytest.param("A" * 32, id="upper-case"),
            pytest.param("0" * 32 + "\n", id="newline"),
            pytest.param("\u0660" * 32, id="other-digits"),
            pytest.param("0" * 31 + "\x00", id="nul"),
        ],
    )
    async def test_hostile_id_is_refused(
        self, store: SessionStore, session_id: str
    ) -> None:
        """Nothing but 32 hexadecimal digits gets near a path or a query."""
        with pytest.raises(ConfigurationError):
            await store.get(session_id)
        with pytest.raises(ConfigurationError):
            await store.put(session_of(session_id), expected=None)
        with pytest.raises(ConfigurationError):
            await store.record(session_id, receipt_of(0), fence=0)
        with pytest.raises(ConfigurationError):
            await store.delete(session_id)

    async def test_put_counts_versions(self, store: SessionStore) -> None:
        """Each write has a greater version, whatever the session says."""
        first = await store.put(session_of(version=99), expected=None)
        second = await store.put(session_of(name="new"), expected=first)
        found = await store.get(FIRST)
        assert found is not None
        assert (found.version, found.name) == (second, "new")
        assert second > first

    async def test_put_of_existing_as_new_conflicts(self, store: SessionStore) -> None:
        """Nobody makes a session over another one."""
        await store.put(session_of(name="old"), expected=None)
        with pytest.raises(SessionConflict):
            await store.put(session_of(name="new"), expected=None)
        found = await store.get(FIRST)
        assert found is not None
        assert found.name == "old"

    async def test_put_of_missing_as_existing_conflicts(
        self, store: SessionStore
    ) -> None:
        """A session that was removed meanwhile does not come back."""
        with pytest.raises(SessionConflict):
            await store.put(session_of(), expected=1)
        assert await store.get(FIRST) is None

    async def test_put_of_stale_version_conflicts(self, store: SessionStore) -> None:
        """A write that has not seen the last one is refused."""
        first = await store.put(session_of(), expected=None)
        await store.put(session_of(name="mine"), expected=first)
        with pytest.raises(SessionConflict):
            await store.put(session_of(name="theirs"), expected=first)
        found = await store.get(FIRST)
        assert found is not None
        assert found.name == "mine"

    async def test_one_of_many_writers_wins(
        self, store: SessionStore, place: str
    ) -> None:
        """Of writers that read the same version, exactly one gets through."""
        version = await store.put(session_of(), expected=None)
        other = store if place == "memory:" else open_store(place)
        results = await asyncio.gather(
            *(
                (store, other)[number % 2].put(
                    session_of(name=str(number)), expected=version
                )
                for number in range(10)
            ),
            return_exceptions=True,
        )
        await other.aclose()
        won = [n for n, result in enumerate(results) if isinstance(result, int)]
        lost = [r for r in results if isinstance(r, SessionConflict)]
        found = await store.get(FIRST)
        assert (len(won), len(lost)) == (1, 9)
        assert found is not None
        assert found.name == str(won[0])

    async def test_put_ignores_receipts(self, store: SessionStore) -> None:
        """Receipts come from `record` alone, so that no writer can lose one."""
        version = await store.put(session_of(receipts=(receipt_of(1),)), expected=None)
        await store.record(FIRST, receipt_of(0), fence=0)
        await store.put(session_of(receipts=(receipt_of(1),)), expected=version)
        found = await store.get(FIRST)
        assert found is not None
        assert found.receipts == (receipt_of(0),)

    async def test_record_replaces_a_receipt(self, store: SessionStore) -> None:
        """A chunk has one receipt, the last one, in whatever order they came."""
        await store.put(session_of(), expected=None)
        for receipt in (receipt_of(1, "old"), receipt_of(0), receipt_of(1, "new")):
            await store.record(FIRST, receipt, fence=0)
        found = await store.get(FIRST)
        assert found is not None
        assert found.receipts == (receipt_of(0), receipt_of(1, "new"))

    async def test_put_can_forget_receipts(self, store: SessionStore) -> None:
        """A new remote upload starts without receipts, and gets its own."""
        version = await store.put(session_of(), expected=None)
        await store.record(FIRST, receipt_of(0), fence=0)
        await store.put(session_of(), expected=version, keep_receipts=False)
        await store.record(FIRST, receipt_of(1), fence=0)
        found = await store.get(FIRST)
        assert found is not None
        assert found.receipts == (receipt_of(1),)

    async def test_conflicting_put_forgets_nothing(self, store: SessionStore) -> None:
        """A write that is refused has no effect at all."""
        await store.put(session_of(), expected=None)
        await store.record(FIRST, receipt_of(0), fence=0)
        with pytest.raises(SessionConflict):
            await store.put(session_of(), expected=77, keep_receipts=False)
        found = await store.get(FIRST)
        assert found is not None
        assert found.receipts == (receipt_of(0),)

    async def test_record_with_an_old_fence_conflicts(
        self, store: SessionStore
    ) -> None:
        """Who lost the session cannot add to it; who has it can."""
        await store.put(session_of(fence=2), expected=None)
        with pytest.raises(SessionConflict):
            await store.record(FIRST, receipt_of(0), fence=1)
        await store.record(FIRST, receipt_of(1), fence=2)
        found = await store.get(FIRST)
        assert found is not None
        assert found.receipts == (receipt_of(1),)

    async def test_record_of_unknown_is_not_found(self, store: SessionStore) -> None:
        """A receipt never makes a session."""
        with pytest.raises(SessionNotFound):
            await store.record(FIRST, receipt_of(0), fence=0)
        assert await all_of(store) == []

    async def test_delete_removes_receipts_too(self, store: SessionStore) -> None:
        """A session with the same ID would start empty."""
        await store.put(session_of(), expected=None)
        await store.record(FIRST, receipt_of(0), fence=0)
        await store.delete(FIRST)
        assert await store.get(FIRST) is None
        await store.put(session_of(), expected=None)
        found = await store.get(FIRST)
        assert found is not None
        assert found.receipts == ()

    async def test_delete_of_unknown_does_nothing(self, store: SessionStore) -> None:
        """Deleting twice is deleting once, with or without a version."""
        await store.delete(FIRST)
        await store.delete(FIRST, expected=3)

    async def test_delete_of_a_changed_session_conflicts(
        self, store: SessionStore
    ) -> None:
        """A cleanup cannot remove what somebody just went on with."""
        version = await store.put(session_of(), expected=None)
        newer = await store.put(session_of(), expected=version)
        with pytest.raises(SessionConflict):
            await store.delete(FIRST, expected=version)
        assert await store.get(FIRST) is not None
        await store.delete(FIRST, expected=newer)
        assert await store.get(FIRST) is None

    async def test_scan_is_oldest_first(self, store: SessionStore) -> None:
        """Sessions come in the order they were made in, with their receipts."""
        for session_id, created_at in ((FIRST, 3.0), (SECOND, 1.0), (THIRD, 2.0)):
            session = session_of(session_id, created_at=created_at)
            await store.put(session, expected=None)
        await store.record(THIRD, receipt_of(0), fence=0)
        found = await all_of(store)
        assert [s.session_id for s in found] == [SECOND, THIRD, FIRST]
        assert [s.chunks_completed for s in found] == [0, 1, 0]

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            pytest.param({}, {FIRST, SECOND, THIRD}, id="everything"),
            pytest.param({"status": "failed"}, {SECOND, THIRD}, id="status"),
            pytest.param({"destination": "file:///srv"}, {THIRD}, id="destination"),
            pytest.param({"source": "/data/b"}, {SECOND, THIRD}, id="source"),
            pytest.param({"session_id": FIRST}, {FIRST}, id="id"),
            pytest.param(
                {"source": "/data/b", "destination": "memory://here"},
                {SECOND},
                id="two-fields",
            ),
            pytest.param({"name": "%"}, set(), id="no-wildcards"),
        ],
    )
    async def test_scan_filters(
        self, store: SessionStore, where: dict[str, str], expected: set[str]
    ) -> None:
        """Only sessions whose fields equal every value come back."""
        failed = {"source": "/data/b", "status": UploadStatus.FAILED}
        for session in (
            session_of(FIRST),
            session_of(SECOND, **failed),
            session_of(THIRD, destination="file:///srv", **failed),
        ):
            await store.put(session, expected=None)
        assert {s.session_id for s in await all_of(store, **where)} == expected

    async def test_scan_by_an_unknown_field_is_refused(
        self, store: SessionStore
    ) -> None:
        """A misspelt filter is an error, not an empty list."""
        with pytest.raises(ConfigurationError, match="colour"):
            await all_of(store, colour="memory://here")

    async def test_scan_passes_over_what_is_deleted_meanwhile(
        self, store: SessionStore
    ) -> None:
        """A long scan yields what is there when its turn comes."""
        for session_id in (FIRST, SECOND, THIRD):
            await store.put(session_of(session_id), expected=None)
        seen = []
        async for session in store.scan():
            seen.append(session.session_id)
            await store.delete(SECOND)
        assert seen == [FIRST, THIRD]

    async def test_store_is_shared_by_event_loops(self, store: SessionStore) -> None:
        """The engine's own thread and the kernel's may use one store."""
        version = await store.put(session_of(), expected=None)

        def elsewhere() -> int:
            return asyncio.run(store.put(session_of(name="b"), expected=version))

        newer = await asyncio.to_thread(elsewhere)
        found = await store.get(FIRST)
        assert found is not None
        assert (found.version, found.name) == (newer, "b")

    async def test_aclose_may_be_called_again(self, store: SessionStore) -> None:
        """Closing is safe, used or not, once or twice."""
        await store.put(session_of(), expected=None)
        await store.aclose()
        await store.aclose()

    def test_store_behaves_like_a_dict(self, tmp_path: Path) -> None:
        """Whatever is done in whatever order, a store agrees with the model."""
        numbers = iter(range(10**6))

        class Machine(StoreModel):
            place = self.new_place(tmp_path, numbers)

        run_state_machine_as_test(
            Machine, settings=settings(max_examples=25, stateful_step_count=20)
        )

    @abstractmethod
    def new_place(self, folder: Path, numbers: Iterator[int]) -> Iterator[str]:
        """Return places that were never used."""


class StoreModel(RuleBasedStateMachine):
    """Drives a store and a dict through the same steps, and compares them."""

    place: Iterator[str]
    ids = Bundle("ids")
    _fences = st.integers(0, 3)
    _receipts = st.builds(receipt_of, st.integers(0, 3), st.text("ab", max_size=2))

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.here = next(self.place)
        self.store = open_store(self.here)
        self.model: dict[str, tuple[UploadSession, dict[int, Receipt]]] = {}

    def teardown(self) -> None:
        self.runner.run(self.store.aclose())
        self.runner.close()

    @rule(target=ids, number=st.integers(0, 3))
    def name(self, number: int) -> str:
        return f"{number:032x}"

    @rule(session_id=ids, lag=st.integers(-1, 1), fence=_fences, keep=st.booleans())
    def put(self, session_id: str, lag: int, fence: int, *, keep: bool) -> None:
        stored = self.model.get(session_id)
        right = stored[0].version if stored else None
        expected = right if lag == 0 else (right or 0) + lag
        session = session_of(session_id, fence=fence)
        write = self.store.put(session, expected=expected, keep_receipts=keep)
        if lag != 0:
            with pytest.raises(SessionConflict):
                self.runner.run(write)
            return
        version = self.runner.run(write)
        assert version > (right or 0)
        receipts = dict(stored[1]) if stored and keep else {}
        self.model[session_id] = replace(session, version=version), receipts

    @rule(session_id=ids, receipt=_receipts, fence=_fences)
    def record(self, session_id: str, receipt: Receipt, fence: int) -> None:
        stored = self.model.get(session_id)
        write = self.store.record(session_id, receipt, fence=fence)
        if stored is None:
            with pytest.raises(SessionNotFound):
                self.runner.run(write)
        elif fence < stored[0].fence:
            with pytest.raises(SessionConflict):
                self.runner.run(write)
        else:
            self.runner.run(write)
            stored[1][receipt.index] = receipt

    @rule(session_id=consumes(ids), careful=st.booleans())
    def delete(self, session_id: str, *, careful: bool) -> None:
        stored = self.model.pop(session_id, None)
        expected = stored[0].version if stored and careful else None
        self.runner.run(self.store.delete(session_id, expected=expected))

    @rule()
    def reopen(self) -> None:
        if self.here != "memory:":
            self.runner.run(self.store.aclose())
            self.store = open_store(self.here)

    @rule(session_id=ids)
    def get(self, session_id: str) -> None:
        assert self.runner.run(self.store.get(session_id)) == self.whole(session_id)

    @rule()
    def scan(self) -> None:
        found = self.runner.run(all_of(self.store))
        assert found == [self.whole(session_id) for session_id in sorted(self.model)]

    def whole(self, session_id: str) -> UploadSession | None:
        if session_id not in self.model:
            return None
        session, receipts = self.model[session_id]
        return replace(session, receipts=tuple(receipts[i] for i in sorted(receipts)))


class DurableStoreSuite(SessionStoreSuite):
    """What a store promises that outlives the process."""

    @abstractmethod
    def damage(self, place: str, session_id: str) -> None:
        """Break the record of one session."""

    def modes(self, place: Path) -> tuple[Path, dict[str, int]]:
        """Return the store's folder, and the mode of everything in it."""
        folder = place if place.is_dir() else place.parent
        return folder, {file.name: file.stat().st_mode for file in folder.rglob("*")}

    async def test_sessions_survive_the_store(
        self, store: SessionStore, place: str
    ) -> None:
        """Another store at the same place, as in another process, has everything."""
        version = await store.put(session_of(), expected=None)
        await store.record(FIRST, receipt_of(0), fence=0)
        await store.aclose()
        again = open_store(place)
        found = await again.get(FIRST)
        await again.aclose()
        assert found == session_of(version=version, receipts=(receipt_of(0),))

    async def test_closed_store_says_so(self, store: SessionStore) -> None:
        """A store that is used after its end raises a typed error."""
        await store.aclose()
        with pytest.raises(SessionError, match="closed"):
            await store.get(FIRST)

    async def test_no_update_of_two_processes_is_lost(
        self, store: SessionStore, place: str
    ) -> None:
        """Two processes that count in a session by compare-and-swap never miscount."""
        await store.put(session_of(size=0), expected=None)
        script = """
            import asyncio, sys
            from dataclasses import replace
            from upload_kit.errors import SessionConflict
            from upload_kit.sessions.places import open_store

            async def main(place, session_id, times):
                store = open_store(place)
                await store.get(session_id)
                print("ready", flush=True)
                sys.stdin.readline()
                conflicts = 0
                while times:
                    session = await store.get(session_id)
                    more = replace(session, size=session.size + 1)
                    try:
                        await store.put(more, expected=session.version)
                        times -= 1
                    except SessionConflict:
                        conflicts += 1
                await store.aclose()
                print(conflicts, flush=True)

            asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
        """
        with (
            process(script, place, FIRST, "50") as one,
            process(script, place, FIRST, "50") as two,
        ):
            for running in (one, two):
                assert running.stdout is not None
                assert running.stdin is not None
                assert await asyncio.to_thread(running.stdout.readline) == "ready\n"
            for running in (one, two):
                running.stdin.write("go\n")  # type: ignore[union-attr] # A pipe.
                running.stdin.flush()  # type: ignore[union-attr] # A pipe.
            for running in (one, two):
                assert await asyncio.to_thread(running.wait, 30) == 0
        found = await store.get(FIRST)
        assert found is not None
        assert (found.size, found.version) == (100, 101)

    async def test_recorded_receipts_survive_kill_9(
        self, store: SessionStore, place: str
    ) -> None:
        """Whatever `record` returned for is there after the process was killed."""
        await store.put(session_of(), expected=None)
        script = """
            import asyncio, itertools, sys
            from upload_kit.models import Receipt
            from upload_kit.sessions.places import open_store

            async def main(place, session_id):
                store = open_store(place)
                for index in itertools.count():
                    receipt = Receipt(index=index, size=5)
                    await store.record(session_id, receipt, fence=0)
                    print(index, flush=True)

            asyncio.run(main(*sys.argv[1:]))
        """
        with process(script, place, FIRST) as running:
            assert running.stdout is not None
            said = [await asyncio.to_thread(running.stdout.readline) for _ in range(60)]
            running.send_signal(signal.SIGKILL)
            said += (await asyncio.to_thread(running.stdout.read)).splitlines()
        acknowledged = {int(line) for line in said}
        found = await store.get(FIRST)
        assert found is not None
        assert len(acknowledged) >= 60
        assert acknowledged <= {receipt.index for receipt in found.receipts}
        await store.record(FIRST, receipt_of(10**6), fence=0)

    async def test_corrupt_session_is_set_aside(
        self, store: SessionStore, place: str
    ) -> None:
        """It is reported once, with where it went, and is then no more."""
        await store.put(session_of(), expected=None)
        await store.aclose()
        self.damage(place, FIRST)
        again = open_store(place)
        with pytest.raises(SessionCorrupt, match="corrupt"):
            await again.get(FIRST)
        assert await again.get(FIRST) is None
        await again.put(session_of(name="new"), expected=None)
        await again.aclose()

    async def test_corrupt_session_hides_no_other(
        self, store: SessionStore, place: str
    ) -> None:
        """A scan yields the others, and tells of what it could not read."""
        for session_id in (FIRST, SECOND, THIRD):
            await store.put(session_of(session_id), expected=None)
        await store.aclose()
        self.damage(place, SECOND)
        again = open_store(place)
        told: list[SessionError] = []
        found = [s.session_id async for s in again.scan(on_corrupt=told.append)]
        assert found == [FIRST, THIRD]
        assert [error.session_id for error in told] == [SECOND]
        assert isinstance(told[0], SessionCorrupt)
        assert [s.session_id async for s in again.scan(on_corrupt=told.append)] == found
        assert len(told) == 1
        await again.aclose()

    async def test_scan_without_a_listener_logs_what_is_corrupt(
        self, store: SessionStore, place: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing is set aside in silence."""
        await store.put(session_of(), expected=None)
        await store.aclose()
        self.damage(place, FIRST)
        again = open_store(place)
        with caplog.at_level(logging.WARNING, "upload_kit.sessions"):
            assert await all_of(again) == []
        await again.aclose()
        assert FIRST in caplog.text

    async def test_nobody_else_may_read(self, place: str) -> None:
        """Files hold capabilities: they and their folder are this user's alone."""
        before = os.umask(0)
        try:
            store = open_store(place)
            version = await store.put(session_of(remote_token="x"), expected=None)
            await store.record(FIRST, receipt_of(0), fence=0)
            await store.put(session_of(), expected=version)
            folder, modes = self.modes(Path(place))
            await store.aclose()
        finally:
            os.umask(before)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(modes) >= 2
        assert {name for name, mode in modes.items() if mode & 0o077} == set()

    @pytest.mark.skipif(
        not hasattr(psutil.Process(), "io_counters"), reason="counts bytes by /proc"
    )
    async def test_checkpoint_costs_the_same_after_10000_chunks(
        self, store: SessionStore
    ) -> None:
        """The bytes written for a receipt do not grow with the number of chunks."""
        await store.put(session_of(size=50_000, total_chunks=10_000), expected=None)
        this = psutil.Process()
        written = [this.io_counters().write_chars]
        for thousand in range(10):
            for index in range(1000 * thousand, 1000 * (thousand + 1)):
                await store.record(FIRST, receipt_of(index), fence=0)
            written.append(this.io_counters().write_chars)
        cost = [after - before for before, after in itertools.pairwise(written)]
        found = await store.get(FIRST)
        assert found is not None
        assert found.chunks_completed == 10_000
        # The first thousand may be cheaper while a database is still small.
        assert cost[-1] < 1.5 * cost[1], cost


class TestMemoryStore(SessionStoreSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return "memory:"

    def new_place(self, folder: Path, numbers: Iterator[int]) -> Iterator[str]:
        return ("memory:" for _ in numbers)


class TestStoreOfTheGuide(SessionStoreSuite):
    """The store that docs/extending.md shows keeps what every store promises."""

    @pytest.fixture(autouse=True)
    def installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shown = (s for s in snippets(GUIDE, "python") if s.title == "my_store.py")
        (tmp_path / "store_of_the_guide.py").write_text(next(shown).code)
        monkeypatch.syspath_prepend(str(tmp_path))
        register_store("guide", "store_of_the_guide:TableStore")

    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return f"guide:{tmp_path / 'state'}"

    def new_place(self, folder: Path, numbers: Iterator[int]) -> Iterator[str]:
        return (f"guide:{folder / str(number)}" for number in numbers)

    @pytest.fixture
    async def store(self, place: str) -> AsyncIterator[SessionStore]:
        # Importing it reads a file.
        store = await asyncio.to_thread(open_store, place)
        yield store
        await store.aclose()


class TestJsonFileStore(DurableStoreSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return str(tmp_path / "state" / "sessions")

    def new_place(self, folder: Path, numbers: Iterator[int]) -> Iterator[str]:
        return (str(folder / str(number)) for number in numbers)

    def damage(self, place: str, session_id: str) -> None:
        head = Path(place) / f"{session_id}.json"
        head.write_bytes(head.read_bytes()[:40])

    def lose_head(self, place: str) -> None:
        """Leave receipts alone, as a kill in the middle of a delete does."""
        (Path(place) / f"{FIRST}.json").unlink()

    async def test_torn_line_is_ignored_and_repaired(
        self, store: SessionStore, place: str
    ) -> None:
        """Half a line, as a crash leaves it, costs that receipt and no other."""
        await store.put(session_of(), expected=None)
        await store.record(FIRST, receipt_of(0), fence=0)
        receipts = Path(place) / f"{FIRST}.receipts"
        with receipts.open("ab") as file:
            file.write(b'[1,{"index":1,"si')
        found = await store.get(FIRST)
        assert found is not None
        assert found.receipts == (receipt_of(0),)
        await store.record(FIRST, receipt_of(1), fence=0)
        found = await store.get(FIRST)
        assert found is not None
        assert found.receipts == (receipt_of(0), receipt_of(1))
        assert len(receipts.read_bytes().splitlines()) == 2

    async def test_full_disk_loses_no_receipt(
        self, store: SessionStore, place: str
    ) -> None:
        """A line that does not fit is an error; the next one that fits is not lost."""
        await store.put(session_of(), expected=None)
        script = """
            import asyncio, resource, sys
            from upload_kit.errors import SessionError
            from upload_kit.models import Receipt
            from upload_kit.sessions.places import open_store

            async def main(place, session_id):
                store = open_store(place)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
                index = 0
                try:
                    while True:
                        receipt = Receipt(index=index, size=5)
                        await store.record(session_id, receipt, fence=0)
                        index += 1
                except SessionError:
                    print(index)
                resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
                await store.record(session_id, Receipt(index=999, size=5), fence=0)
                await store.aclose()

            asyncio.run(main(*sys.argv[1:]))
        """
        with process(script, place, FIRST) as running:
            said, _ = await asyncio.to_thread(running.communicate, timeout=30)
            assert running.returncode == 0
        found = await store.get(FIRST)
        assert found is not None
        assert int(said) > 10
        kept = [receipt.index for receipt in found.receipts]
        assert kept == [*range(int(said)), 999]

    async def test_lines_of_a_forgotten_upload_do_not_count(
        self, store: SessionStore, place: str
    ) -> None:
        """A kill between the new head and the emptying forgets them all the same."""
        version = await store.put(session_of(), expected=None)
        await store.record(FIRST, receipt_of(0), fence=0)
        receipts = Path(place) / f"{FIRST}.receipts"
        old = receipts.read_bytes()
        await store.put(session_of(), expected=version, keep_receipts=False)
        receipts.write_bytes(old)
        await store.record(FIRST, receipt_of(1), fence=0)
        found = await store.get(FIRST)
        assert found is not None
        assert found.receipts == (receipt_of(1),)

    async def test_broken_receipts_cost_the_receipts_only(
        self, store: SessionStore, place: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The session can be resumed: the remote says what it has."""
        await store.put(session_of(remote_token="token"), expected=None)
        await store.record(FIRST, receipt_of(0), fence=0)
        receipts = Path(place) / f"{FIRST}.receipts"
        receipts.write_bytes(b"\0\0\0\n" + receipts.read_bytes())
        found = await store.get(FIRST)
        assert found is not None
        assert (found.remote_token, found.receipts) == ("token", ())
        assert (Path(place) / "corrupt" / receipts.name).exists()
        assert "corrupt" in caplog.text
        await store.record(FIRST, receipt_of(1), fence=0)

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\x00" * 500, id="zeros"),
            pytest.param(b"\xff\xfe", id="no-text"),
            pytest.param(b"[]", id="list"),
            pytest.param(b"[" * 10**5, id="deep"),
            pytest.param(b'{"format":1}', id="nothing-inside"),
            pytest.param(b'{"format":"1","since":1,"session":{}}', id="wrong-type"),
        ],
    )
    async def test_broken_head_is_set_aside(
        self, store: SessionStore, place: str, content: bytes
    ) -> None:
        """Whatever is wrong with a file, it is kept, unchanged, out of the way."""
        await store.put(session_of(), expected=None)
        (Path(place) / f"{FIRST}.json").write_bytes(content)
        with pytest.raises(SessionCorrupt, match=r"corrupt/0+1\.json"):
            await store.get(FIRST)
        assert (Path(place) / "corrupt" / f"{FIRST}.json").read_bytes() == content

    async def test_second_corrupt_file_does_not_replace_the_first(
        self, store: SessionStore, place: str
    ) -> None:
        """Evidence is never overwritten."""
        for content in (b"one", b"two"):
            await store.put(session_of(), expected=None)
            (Path(place) / f"{FIRST}.json").write_bytes(content)
            with pytest.raises(SessionCorrupt):
                await store.get(FIRST)
        aside = sorted((Path(place) / "corrupt").iterdir())
        assert [file.read_bytes() for file in aside] == [b"one", b"two"]

    async def test_head_under_a_wrong_name_is_corrupt(
        self, store: SessionStore, place: str
    ) -> None:
        """A copied file is not taken for another session."""
        await store.put(session_of(), expected=None)
        head = Path(place) / f"{FIRST}.json"
        head.with_name(f"{SECOND}.json").write_bytes(head.read_bytes())
        with pytest.raises(SessionCorrupt):
            await store.get(SECOND)
        assert await store.get(FIRST) is not None

    async def test_newer_format_is_left_alone(
        self, store: SessionStore, place: str
    ) -> None:
        """An older program neither reads nor moves what a newer one wrote."""
        await store.put(session_of(FIRST), expected=None)
        await store.put(session_of(SECOND), expected=None)
        head = Path(place) / f"{FIRST}.json"
        content = json.dumps({"format": 2, "session": "something else"}).encode()
        head.write_bytes(content)
        with pytest.raises(SessionError, match="newer"):
            await store.get(FIRST)
        told: list[SessionError] = []
        found = [s.session_id async for s in store.scan(on_corrupt=told.append)]
        assert (found, len(told)) == ([SECOND], 1)
        assert head.read_bytes() == content

    async def test_receipts_without_a_session_are_swept(
        self, store: SessionStore, place: str
    ) -> None:
        """What a kill in the middle of a delete leaves goes with the next scan."""
        await store.put(session_of(FIRST), expected=None)
        orphan = Path(place) / f"{SECOND}.receipts"
        other = Path(place) / "mine.receipts"
        for file in (orphan, other):
            file.write_bytes(b"x")
        await all_of(store)
        assert (orphan.exists(), other.exists()) == (False, True)

    async def test_receipts_without_a_session_are_nobodys(
        self, store: SessionStore, place: str
    ) -> None:
        """A session that is made where such a file lies starts empty."""
        await store.put(session_of(), expected=None)
        await store.record(FIRST, receipt_of(0), fence=0)
        self.lose_head(place)
        await store.put(session_of(), expected=None)
        found = await store.get(FIRST)
        assert found is not None
        assert found.receipts == ()

    async def test_link_in_place_of_a_file_is_not_followed(
        self, store: SessionStore, place: str, tmp_path: Path
    ) -> None:
        """Nobody can make the store write somewhere else."""
        await store.put(session_of(), expected=None)
        target = tmp_path / "target"
        target.write_bytes(b"precious")
        (Path(place) / f"{FIRST}.receipts").symlink_to(target)
        with pytest.raises(SessionError):
            await store.record(FIRST, receipt_of(0), fence=0)
        assert target.read_bytes() == b"precious"

    async def test_folder_that_cannot_be_used_is_a_session_error(
        self, tmp_path: Path
    ) -> None:
        """A file in the way is told as what it is, with what to do."""
        (tmp_path / "file").write_bytes(b"")
        store = open_store(tmp_path / "file" / "sessions")
        with pytest.raises(SessionError, match="another folder"):
            await store.put(session_of(), expected=None)
        await store.aclose()

    async def test_bytes_on_disk_grow_in_step_with_chunks(
        self, store: SessionStore, place: str
    ) -> None:
        """Ten times the chunks are ten times the bytes, not a hundred times."""
        await store.put(session_of(), expected=None)
        sizes = []
        for index in range(2000):
            await store.record(FIRST, receipt_of(10_000 + index), fence=0)
            if index + 1 in {200, 2000}:
                sizes.append(folder_size(Path(place)))
        assert sizes[1] < 10 * sizes[0]


class TestSqliteStore(DurableStoreSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return str(tmp_path / "state" / "sessions.db")

    def new_place(self, folder: Path, numbers: Iterator[int]) -> Iterator[str]:
        return (f"sqlite:///{folder / str(number)}.sqlite" for number in numbers)

    def execute(self, place: str, statement: str) -> list[tuple[object, ...]]:
        """Do what a stranger with the same file could."""
        connection = sqlite3.connect(place, isolation_level=None)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def damage(self, place: str, session_id: str) -> None:
        self.execute(
            place,
            "UPDATE sessions SET head = substr(head, 1, 40) "
            f"WHERE session_id = '{session_id}'",
        )

    def wreck(self, place: str) -> None:
        """Put something that is no database in place of the file."""
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_bytes(b"no database at all" * 1000)

    def replace(self, place: str) -> None:
        """Move the file away, as another process does that finds it broken."""
        for suffix in ("", "-wal", "-shm"):
            file = Path(place + suffix)
            file.rename(file.with_name(f"old{suffix}"))

    async def test_broken_file_is_set_aside(
        self, store: SessionStore, place: str
    ) -> None:
        """A file that is no database is kept, and a new one begun."""
        await store.put(session_of(), expected=None)
        await store.aclose()
        self.wreck(place)
        again = open_store(place)
        with pytest.raises(SessionCorrupt, match=r"corrupt/sessions\.db"):
            await again.get(FIRST)
        aside = Path(place).parent / "corrupt" / "sessions.db"
        assert aside.read_bytes().startswith(b"no database")
        await again.put(session_of(), expected=None)
        assert await again.get(FIRST) is not None
        await again.aclose()

    async def test_broken_file_is_reported_by_a_scan(
        self, store: SessionStore, place: str
    ) -> None:
        """A scan of a broken file is empty, and says so."""
        await store.aclose()
        self.wreck(place)
        again = open_store(place)
        told: list[SessionError] = []
        assert [s async for s in again.scan(on_corrupt=told.append)] == []
        await again.aclose()
        assert len(told) == 1

    async def test_store_follows_when_the_file_is_replaced(
        self, store: SessionStore, place: str
    ) -> None:
        """When another process sets the file aside, nothing goes to the old one."""
        await store.put(session_of(), expected=None)
        self.replace(place)
        await store.put(session_of(name="new"), expected=None)
        other = open_store(place)
        found = await other.get(FIRST)
        await other.aclose()
        assert found is not None
        assert found.name == "new"

    async def test_newer_schema_is_refused(
        self, store: SessionStore, place: str
    ) -> None:
        """An older program does not touch what a newer one wrote."""
        await store.put(session_of(), expected=None)
        await store.aclose()
        self.execute(place, "PRAGMA user_version = 99")
        again = open_store(place)
        with pytest.raises(SessionError, match="newer"):
            await again.get(FIRST)
        await again.aclose()
        assert not (Path(place).parent / "corrupt").exists()

    @pytest.mark.parametrize(
        "statement",
        [
            pytest.param(
                """UPDATE sessions SET head = replace(head, ':5,', ':0,')""",
                id="impossible-chunk-size",
            ),
            pytest.param("UPDATE sessions SET head = x'ff'", id="head-no-text"),
            pytest.param("UPDATE receipts SET receipt = '{'", id="receipt"),
        ],
    )
    async def test_broken_row_is_set_aside(
        self, store: SessionStore, place: str, statement: str
    ) -> None:
        """Whatever is wrong with a row, a scan tells of it, and it is not lost."""
        await store.put(session_of(), expected=None)
        await store.record(FIRST, receipt_of(0), fence=0)
        self.execute(place, statement)
        told: list[SessionError] = []
        assert [s async for s in store.scan(on_corrupt=told.append)] == []
        assert [error.session_id for error in told] == [FIRST]
        assert self.execute(place, "SELECT session_id FROM corrupt") == [(FIRST,)]
        assert await store.get(FIRST) is None

    async def test_foreign_database_is_left_alone(
        self, store: SessionStore, place: str
    ) -> None:
        """A file that is a database, but not ours, is an error and stays in place."""
        await store.put(session_of(), expected=None)
        self.execute(place, "DROP TABLE receipts")
        with pytest.raises(SessionError, match="no such table"):
            await store.get(FIRST)
        assert self.execute(place, "SELECT count(*) FROM sessions") == [(1,)]
