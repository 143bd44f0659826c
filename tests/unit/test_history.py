"""Every upload leaves a row, cheaply, and no trouble with the history fails one."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.errors import ConfigurationError, SessionCorrupt, SessionError
from upload_kit.models import Layer, UploadStatus, Verification
from upload_kit.sessions.database import migrate
from upload_kit.sessions.disk import locked
from upload_kit.sessions.history import FIELDS, History, HistoryRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def row_of(number: int = 0, **changes: Any) -> HistoryRow:
    row = HistoryRow(
        transfer_id=f"{number:016x}",
        started_at=1000.0 + number,
        finished_at=1001.5 + number,
        name=f"{number}.bin",
        source=f"/data/{number}.bin",
        destination="http://127.0.0.1:8000/",
        layer=Layer.FEATURE,
        status=UploadStatus.COMPLETE,
        size=number,
    )
    return replace(row, **changes)


FULL: Final = row_of(
    7,
    name="naïve 😀\n.bin",
    layer=Layer.POLISH,
    status=UploadStatus.FAILED,
    size=2**62,
    bytes_sent=3,
    bytes_resumed=2,
    seconds=1.25,
    rate=2.5e9,
    chunks=10_000,
    chunk_size=5_242_880,
    max_parallel=3,
    retries=2,
    retry_causes={"RemoteUnavailable": 2, "IntegrityError": 1},
    compression_ratio=0.317,
    sha256="0" * 64,
    verified=Verification.SHA256,
    error_type="RemoteUnavailable",
    error='It\'s "down".',
    session_id="1" * 32,
    rtt=0.0123,
)


TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]))
ROWS: Final = st.builds(
    row_of,
    size=st.none() | st.integers(-(2**63), 2**63 - 1),
    rate=st.floats(allow_nan=False),
    rtt=st.none() | st.floats(allow_nan=False),
    name=TEXTS,
    error=st.none() | TEXTS,
    retry_causes=st.dictionaries(TEXTS, st.integers(0, 2**53)),
)


def commits(path: Path) -> int:
    """Count the commits in a write-ahead log: frames that say how big the file is."""
    log = path.with_name(f"{path.name}-wal").read_bytes()
    page = int.from_bytes(log[8:12], "big")
    frames = range(32, len(log), 24 + page)
    return sum(log[start + 4 : start + 8] != bytes(4) for start in frames)


def wait_until_written(path: Path, names: set[str]) -> None:
    """Read until these uploads are there, and no others."""
    deadline = time.monotonic() + 10
    while names != (found := names_in(path)):
        assert time.monotonic() < deadline, found
        time.sleep(0.005)


def wreck(path: Path) -> None:
    """Put something that is no database in place of the file."""
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 1000)


def killed_after(lines: int, script: str, *arguments: str) -> list[str]:
    """Run a script, kill it -9 once it has said so much, and return all it said."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        said = [running.stdout.readline() for _ in range(lines)]
        running.send_signal(signal.SIGKILL)
        return [*said, *running.stdout]


def names_in(path: Path) -> set[str]:
    if not path.exists():
        return set()
    reader = sqlite3.connect(path)
    try:
        return {name for (name,) in reader.execute("SELECT name FROM uploads")}
    except sqlite3.OperationalError:
        return set()  # The table is not made yet.
    finally:
        reader.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


@pytest.fixture
async def history(path: Path) -> AsyncIterator[History]:
    history = History(path)
    yield history
    await history.aclose()


class TestRows:
    async def test_row_comes_back_whole(self, history: History) -> None:
        """Every field, in its type, for the emptiest and the fullest row."""
        history.add(row_of())
        history.add(FULL)
        assert await history.rows() == [row_of(), FULL]

    @given(row=ROWS)
    async def test_values_survive(
        self, tmp_path_factory: pytest.TempPathFactory, row: HistoryRow
    ) -> None:
        """Whatever the numbers and texts, a row that went in comes out."""
        history = History(tmp_path_factory.mktemp("history") / "history.db")
        history.add(row)
        assert await history.rows() == [row]
        await history.aclose()

    async def test_name_that_is_no_text(self, history: History) -> None:
        """Bytes of a file name that are no UTF-8 are shown, and hold up nobody."""
        history.add(row_of(1, name="x\udce9.bin"))
        assert [row.name for row in await history.rows()] == [r"x\udce9.bin"]

    async def test_empty_history(self, history: History) -> None:
        """No file yet is no error."""
        assert await history.rows() == []

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            pytest.param({}, [0, 1, 2, 3], id="all"),
            pytest.param({"since": 1002.0}, [2, 3], id="since"),
            pytest.param({"since": 0.0}, [0, 1, 2, 3], id="since-ever"),
            pytest.param({"status": UploadStatus.FAILED}, [1, 3], id="status"),
            pytest.param({"layer": Layer.POLISH}, [2, 3], id="layer"),
            pytest.param({"destination": "memory://"}, [3], id="destination"),
            pytest.param({"destination": "memory"}, [], id="no-part-of-it"),
            pytest.param({"limit": 2}, [2, 3], id="limit"),
            pytest.param({"limit": 0}, [], id="limit-0"),
            pytest.param({"limit": 99}, [0, 1, 2, 3], id="limit-beyond"),
            pytest.param(
                {"status": UploadStatus.FAILED, "limit": 1}, [3], id="status-and-limit"
            ),
            pytest.param(
                {"status": UploadStatus.FAILED, "layer": Layer.FEATURE, "since": 1.0},
                [1],
                id="three",
            ),
        ],
    )
    async def test_filters(
        self, history: History, filters: dict[str, Any], expected: list[int]
    ) -> None:
        """Rows that match every filter come oldest first; a limit keeps the newest."""
        rows = [
            row_of(0),
            row_of(1, status=UploadStatus.FAILED),
            row_of(2, layer=Layer.POLISH),
            row_of(
                3,
                status=UploadStatus.FAILED,
                layer=Layer.POLISH,
                destination="memory://",
            ),
        ]
        for row in (rows[2], rows[0], rows[3], rows[1]):
            history.add(row)
        assert await history.rows(**filters) == [rows[number] for number in expected]
        columns = await history.columns(["size"], **filters)
        assert columns == {"size": expected}

    async def test_columns_are_what_rows_are(self, history: History) -> None:
        """Both faces tell the same; a column keeps its order and its plain types."""
        rows = [row_of(0), FULL, row_of(8, compression_ratio=0.5)]
        for row in rows:
            history.add(row)
        columns = await history.columns()
        assert tuple(columns) == FIELDS
        assert columns == {
            name: [row.to_dict()[name] for row in rows] for name in FIELDS
        }
        assert list(await history.columns(["rtt", "name"])) == ["rtt", "name"]
        assert await history.columns([]) == {}

    @pytest.mark.parametrize(
        "wrong",
        [
            pytest.param({"names": ["name", "colour"]}, id="unknown-column"),
            pytest.param({"names": ["name FROM uploads --"]}, id="injection"),
            pytest.param({"limit": -1}, id="negative-limit"),
        ],
    )
    async def test_nonsense_is_refused(
        self, history: History, wrong: dict[str, Any]
    ) -> None:
        """A mistake is told, and never reaches the database."""
        with pytest.raises(ConfigurationError):
            await history.columns(**wrong)

    async def test_oldest_rows_go_when_there_are_enough(self, path: Path) -> None:
        """With `keep`, so many rows stay, across programs."""
        for start in (0, 10):
            history = History(path, keep=5)
            for number in range(start, start + 10):
                history.add(row_of(number))
                await history.flush()
            await history.aclose()
        history = History(path, keep=5)
        assert await history.columns(["size"]) == {"size": [15, 16, 17, 18, 19]}
        await history.aclose()

    def test_keeping_nothing_is_refused(self, path: Path) -> None:
        """None keeps everything; 0 is a mistake."""
        with pytest.raises(ConfigurationError):
            History(path, keep=0)

    async def test_unreadable_row_hides_no_other(
        self, history: History, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What a stranger wrote into the file is left out, with a warning."""
        for number in range(3):
            history.add(row_of(number))
        await history.flush()
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("UPDATE uploads SET layer = 'basement' WHERE size = 1")
        stranger.close()
        assert await history.rows() == [row_of(0), row_of(2)]
        assert "left out" in caplog.text


class TestWriting:
    async def test_rows_are_written_without_being_asked(
        self, history: History, path: Path
    ) -> None:
        """Whoever adds a row need not do anything else."""
        history.add(row_of(1))
        history.add(row_of(2))
        await asyncio.to_thread(wait_until_written, path, {"1.bin", "2.bin"})
        history.add(row_of(3))
        await asyncio.to_thread(wait_until_written, path, {"1.bin", "2.bin", "3.bin"})

    async def test_two_thousand_rows_are_few_commits(
        self, history: History, path: Path
    ) -> None:
        """A batch of small uploads costs a handful of commits, not one each."""
        await history.flush()
        for number in range(2000):
            history.add(row_of(number))
        await history.flush()
        assert len(names_in(path)) == 2000
        assert commits(path) <= 5

    async def test_each_flush_is_a_commit(self, history: History, path: Path) -> None:
        """The count above counts: rows that are flushed one by one are commits."""
        for number in range(20):
            history.add(row_of(number))
            await history.flush()
        assert commits(path) >= 20

    async def test_rows_from_many_threads(self, history: History) -> None:
        """Engines in several threads share one history."""

        def add_some(start: int) -> None:
            for number in range(start, start + 100):
                history.add(row_of(number))

        threads = [
            threading.Thread(target=add_some, args=(start,))
            for start in range(0, 800, 100)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        columns = await history.columns(["size"])
        assert columns["size"] == list(range(800))

    async def test_programs_share_the_file(self, path: Path) -> None:
        """Each sees what the others flushed."""
        one, two = History(path), History(path)
        one.add(row_of(1))
        two.add(row_of(2))
        await asyncio.gather(one.flush(), two.flush())
        assert await one.rows() == await two.rows() == [row_of(1), row_of(2)]
        await one.aclose()
        await two.aclose()

    async def test_close_writes_and_may_be_repeated(self, path: Path) -> None:
        """Nothing that was added is lost at the end."""
        history = History(path)
        history.add(row_of(1))
        await history.aclose()
        await history.aclose()
        assert names_in(path) == {"1.bin"}

    async def test_row_after_the_end_is_only_logged(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An upload that ends too late still ends well."""
        history = History(path)
        await history.aclose()
        history.add(row_of(1))
        assert "is lost" in caplog.text

    async def test_flushed_rows_survive_kill_9(self, path: Path) -> None:
        """What `flush` returned for is there, whatever happens to the process."""
        script = """
            import asyncio, itertools, sys
            from upload_kit.models import Layer, UploadStatus
            from upload_kit.sessions.history import History, HistoryRow

            async def main(path):
                history = History(path)
                for number in itertools.count():
                    history.add(HistoryRow(
                        transfer_id=str(number), started_at=0, finished_at=0,
                        name=str(number), source=None, destination="memory://",
                        layer=Layer.POLISH, status=UploadStatus.COMPLETE,
                    ))
                    await history.flush()
                    print(number, flush=True)

            asyncio.run(main(sys.argv[1]))
        """
        said = await asyncio.to_thread(killed_after, 40, script, str(path))
        assert len(said) >= 40
        assert {line.strip() for line in said} <= names_in(path)

    async def test_program_that_just_ends_loses_nothing(self, path: Path) -> None:
        """Rows that wait when a script falls off its end are written."""
        script = """
            import sys
            from upload_kit.models import Layer, UploadStatus
            from upload_kit.sessions.history import History, HistoryRow

            History(sys.argv[1]).add(HistoryRow(
                transfer_id="1", started_at=0, finished_at=0, name="last",
                source=None, destination="memory://", layer=Layer.POLISH,
                status=UploadStatus.COMPLETE,
            ))
        """
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", textwrap.dedent(script), str(path)],
            check=True,
            timeout=30,
        )
        assert (ended.returncode, names_in(path)) == (0, {"last"})


class TestTrouble:
    async def test_broken_file_costs_no_row(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is set aside, the row goes to a new file, and a reader is told once."""
        wreck(path)
        history = History(path)
        history.add(row_of(1))
        await history.flush()
        aside = path.parent / "corrupt" / path.name
        assert aside.read_bytes().startswith(b"no database")
        assert str(aside) in caplog.text
        with pytest.raises(SessionCorrupt, match="corrupt"):
            await history.rows()
        assert await history.rows() == [row_of(1)]
        await history.aclose()

    async def test_file_that_breaks_in_use(self, history: History, path: Path) -> None:
        """A reader that comes first is told, and everything goes on after it."""
        for number in range(1000):
            history.add(row_of(number))
        await history.aclose()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 100_000)
        again = History(path)
        with pytest.raises(SessionCorrupt):
            await again.rows()
        again.add(row_of(5))
        assert await again.rows() == [row_of(5)]
        await again.aclose()

    async def test_newer_schema_is_refused(
        self, history: History, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An older program leaves the file alone; uploads go on without a row."""
        history.add(row_of(1))
        await history.aclose()
        newer = sqlite3.connect(path, isolation_level=None)
        newer.execute("PRAGMA user_version = 99")
        newer.close()
        again = History(path)
        with pytest.raises(SessionError, match="newer"):
            await again.rows()
        again.add(row_of(2))
        await again.aclose()
        assert names_in(path) == {"1.bin"}
        assert "1 uploads are lost" in caplog.text

    async def test_rows_wait_while_nothing_can_be_written(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """When the disk can be written again, everything that waited is."""
        path.parent.mkdir()
        in_the_way = path.parent / f"{path.name}.lock"
        in_the_way.mkdir()
        history = History(path)
        history.add(row_of(1))
        with pytest.raises(SessionError, match="cannot be used"):
            await history.flush()
        history.add(row_of(2))
        with pytest.raises(SessionError):
            await history.rows()
        in_the_way.rmdir()
        history.add(row_of(3))
        await history.flush()
        assert await history.rows() == [row_of(1), row_of(2), row_of(3)]
        await history.aclose()
        assert "cannot be written now" in caplog.text

    async def test_row_that_cannot_be_stored_holds_up_no_other(
        self, history: History, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A row with a value that SQLite does not take is logged and left out."""
        history.add(row_of(1))
        history.add(row_of(2, size=2**80))
        history.add(row_of(3, source=Path("/a/path/object")))
        history.add(row_of(4, rate=float("nan")))
        history.add(row_of(5))
        assert await history.rows() == [row_of(1), row_of(5)]
        assert caplog.text.count("cannot go to the history") == 3


class TestSchema:
    def test_old_schema_is_brought_up_to_date(self, tmp_path: Path) -> None:
        """Each step runs once, in order, and what was stored stays."""
        path = tmp_path / "old.db"
        connection = sqlite3.connect(path, isolation_level=None)
        first = ("CREATE TABLE things (name TEXT)",)
        second = (
            "ALTER TABLE things ADD COLUMN size INTEGER",
            "UPDATE things SET size = length(name)",
        )
        migrate(connection, (first,), path)
        connection.execute("INSERT INTO things VALUES ('abc')")
        for _ in range(2):
            migrate(connection, (first, second), path)
        stored = connection.execute("SELECT name, size FROM things").fetchall()
        version = connection.execute("PRAGMA user_version").fetchone()
        connection.close()
        assert (stored, version) == ([("abc", 3)], (2,))

    def test_failed_step_changes_nothing(self, tmp_path: Path) -> None:
        """A migration happens whole or not at all."""
        path = tmp_path / "old.db"
        connection = sqlite3.connect(path, isolation_level=None)
        steps = (("CREATE TABLE a (x)",), ("CREATE TABLE b (x)", "NONSENSE"))
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection, steps, path)
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
        version = connection.execute("PRAGMA user_version").fetchone()
        connection.close()
        assert (tables, version) == ([], (0,))

    def test_lock_that_nobody_lets_go_is_told(self, tmp_path: Path) -> None:
        """A wait has a limit, and the error names the file."""
        path = tmp_path / "x.lock"
        with (
            locked(path),
            pytest.raises(SessionError, match=r"x\.lock"),
            locked(path, timeout=0.01),
        ):
            pytest.fail("locked twice")
