"""What happens in a real kernel: several cells queued, clicks, interrupts, restarts."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.notebooks.kernel import Kernel, open_kernel
from upload_kit.api.serving import EmbeddedServer, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "planted-9f1c-token"
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "big.bin").write_bytes(os.urandom(12_000_000))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedServer]:
    with serve(folder / "store", token=TOKEN) as server:
        yield server


@pytest.fixture(scope="module")
def shared(folder: Path, server: EmbeddedServer) -> Iterator[Kernel]:
    """Return one kernel for the tests that leave it as it was."""
    with open_kernel({"UPLOAD_KIT_SESSION_DIR": str(folder / "state")}) as kernel:
        prepare(kernel, folder, server)
        yield kernel


@pytest.fixture
def fresh(tmp_path: Path, folder: Path, server: EmbeddedServer) -> Iterator[Kernel]:
    """Return a kernel for one test, which may break it."""
    with open_kernel({"UPLOAD_KIT_SESSION_DIR": str(tmp_path / "state")}) as kernel:
        prepare(kernel, folder, server)
        yield kernel


def prepare(kernel: Kernel, folder: Path, server: EmbeddedServer) -> None:
    (folder / "token").write_text(TOKEN)
    kernel.cell(
        f"""
import asyncio, time, os
from pathlib import Path
import upload_kit as uk
folder = Path({str(folder)!r})
big, url = folder / "big.bin", {server.url!r}
token = (folder / "token").read_text()
def until(happened, seconds=20):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
"""
    )


def test_cells_that_were_queued_all_run(shared: Kernel) -> None:
    """Run All: each upload's card stands in its own cell, and none is lost."""
    cells = shared.run(
        *(
            f"uk.upload(big, url, token=token, name='{index}.bin').name"
            for index in range(4)
        )
    )
    for index, cell in enumerate(cells):
        assert cell.error is None
        assert f"'{index}.bin'" in cell.text
        [card] = cell.of("update_display_data")[-1:]
        assert f"{index}.bin" in card["data"]["text/html"]
        assert WIDGET not in card["data"]


def test_cells_that_were_queued_all_run_with_nested_loops(fresh: Kernel) -> None:
    """`asyncio.run` in a cell loses none of the cells that wait behind it."""
    code = """
async def nested():
    result = await uk.start(big, url, token=token, name='{0}', progress=None)
    async with asyncio.timeout(5):
        await asyncio.sleep(0.3)
    return result.name
print(asyncio.run(nested()))
"""
    cells = fresh.run(
        "print(uk.allow_nested())", *(code.format(name) for name in "abcd")
    )
    assert [cell.text.strip() for cell in cells] == ["nest-asyncio2", *"abcd"]


def test_a_patch_that_loses_cells_is_refused(fresh: Kernel) -> None:
    """Who patched with nest-asyncio 1 is told, by allow_nested and by the doctor."""
    fresh.cell("import nest_asyncio; nest_asyncio.apply()")
    [refused, doctor] = fresh.run("uk.allow_nested()", "print(uk.doctor())")
    assert refused.error == "ConfigurationError"
    assert "loses cells" in doctor.text


def test_an_upload_goes_on_while_another_cell_sleeps(shared: Kernel) -> None:
    """It goes on beside a cell that sleeps, and beside one that works."""
    cell = shared.cell(
        """
job = uk.start(big, url, token=token, limit="4MB/s", chunk_size="100kB")
until(lambda: job.progress.confirmed >= 200_000)
before = job.progress.sent; time.sleep(1); slept = job.progress.sent - before
before = job.progress.sent; end = time.monotonic() + 1
while time.monotonic() < end: sum(range(1000))
computed = job.progress.sent - before
job.cancel(); job.wait()
print(slept, computed)
"""
    )
    slept, computed = map(int, cell.text.split()[:2])
    # How much, `upload-kit bench notebook` says, on a machine that does nothing else.
    assert slept > 1_000_000
    assert computed > 500_000


def test_paints_are_few_and_stand_in_their_own_cell(shared: Kernel) -> None:
    """At most five a second, each on the comm of its cell; a final one always."""
    started, slept = shared.run(
        "job = uk.start(big, url, token=token, limit='6MB/s', chunk_size='100kB')",
        "time.sleep(1.5)",
    )
    shared.cell("job.wait()")
    shared.drain(1.5)
    comms = {one["comm_id"] for one in started.of("comm_open")}
    assert comms
    paints = [
        message
        for message in shared.all
        if message["msg_type"] == "comm_msg"
        and message["content"]["comm_id"] in comms
        and "uk-live" in str(message["content"]["data"])
    ]
    times = [message["header"]["date"].timestamp() for message in paints]
    assert len(paints) >= 5
    for first, sixth in zip(times, times[6:], strict=False):
        assert sixth - first > 0.9
    assert not slept.of("stream")
    assert 'aria-valuenow="100"' in str(paints[-1]["content"])
    assert "complete" in last_card(shared)


def last_card(kernel: Kernel) -> str:
    cards = [
        message["content"]["data"]
        for message in kernel.all
        if message["msg_type"] == "update_display_data"
    ]
    assert WIDGET not in cards[-1]
    return str(cards[-1]["text/html"])


def test_buttons_pause_resume_and_cancel(shared: Kernel) -> None:
    """A click does what the verb does, while the kernel is free."""
    cell = shared.cell(
        "job = uk.start(big, url, token=token, limit='3MB/s', chunk_size='100kB')"
    )
    buttons = shared.buttons(cell)
    shared.click(buttons["Pause"])
    wait = "for _ in range(500):\n  await asyncio.sleep(0.01)\n  if {}: break\n"
    state = "print(job.progress.status.value)"
    paused = shared.cell(wait.format("job.progress.status == 'paused'") + state)
    assert paused.text.strip() == "paused"
    shared.click(buttons["Pause"])
    going = shared.cell(wait.format("job.progress.status == 'uploading'") + state)
    assert going.text.strip() == "uploading"
    shared.click(buttons["Cancel"])
    ended = shared.cell(wait.format("job.done()") + state)
    assert ended.text.strip() == "cancelled"
    shared.drain(1.2)
    assert "upload_kit.resume(" in last_card(shared)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("job.result()", id="result"),
        pytest.param("await job", id="await"),
    ],
)
def test_an_interrupt_ends_the_waiting_only(shared: Kernel, code: str) -> None:
    """The stop button works at once, and the upload goes on."""
    [waiting] = shared.queue(
        "job = uk.start(big, url, token=token, limit='8MB/s')\n"
        f"print('waits', flush=True)\n{code}"
    )
    shared.until(waiting, "waits")
    shared.interrupt()
    shared.finish(waiting, timeout=5)
    assert waiting.error in {"WaitInterrupted", "CancelledError", "KeyboardInterrupt"}
    done = shared.cell("print(job.result().success)")
    assert "True" in done.text


def test_an_interrupted_upload_says_how_to_end_it(shared: Kernel) -> None:
    """The blocking call's panel goes on to work, and one line says what to do."""
    [waiting] = shared.queue(
        "print('begins', flush=True)\nuk.upload(big, url, token=token, limit='6MB/s')"
    )
    shared.until(waiting, "begins")
    shared.drain(0.5)
    shared.interrupt()
    shared.finish(waiting, timeout=5)
    [error] = waiting.of("error")
    assert len(error["traceback"]) == 1
    assert "upload_kit.jobs()[-1].cancel()" in error["traceback"][0]
    ended = shared.cell("print(uk.jobs()[-1].result().success)")
    assert ended.text.startswith("True\n")


@pytest.mark.parametrize("how", ["kill", "restart"])
def test_a_new_kernel_goes_on(
    fresh: Kernel, folder: Path, server: EmbeddedServer, how: str
) -> None:
    """After a crash sessions() says what is there, and resume() goes on, shown."""
    fresh.cell(
        """
job = uk.start(big, url, token=token, limit="6MB/s", chunk_size="250kB", name=None)
until(lambda: job.progress.confirmed >= 2_000_000)
"""
    )
    getattr(fresh, how)()
    prepare(fresh, folder, server)
    seen = fresh.cell(
        "frame = uk.sessions()\n"
        "print(len(frame), frame.bytes_confirmed[0] >= 2_000_000, frame.resumable[0])"
    )
    assert seen.text.strip() == "1 True True"
    panel = fresh.cell("job = uk.resume(token=token)")
    assert WIDGET in panel.of("display_data")[0]["data"]
    ended = fresh.cell(
        "import hashlib\n[result] = job.result()\n"
        "print(result.bytes_resumed >= 2_000_000,"
        " result.sha256 == hashlib.sha256(big.read_bytes()).hexdigest(),"
        " len(uk.sessions()))"
    )
    assert ended.text.split("\n")[0] == "True True 0"


def test_mistakes_are_one_red_line(shared: Kernel) -> None:
    """A missing file fails the panel and the call; no traceback of our insides."""
    started, blocked, again = shared.run(
        "bad = uk.start('/no/such/one', url, token=token)",
        "uk.upload('/no/such/file', url, token=token)",
        "bad.wait(); print(bad.progress.status.value)",
    )
    assert started.error is None
    [error] = blocked.of("error")
    assert len(error["traceback"]) == 1
    assert "There is no file /no/such/file. Check the path." in error["traceback"][0]
    assert "failed" in again.text
    assert "Traceback" not in str([m for m in shared.all if m["msg_type"] == "stream"])


def test_a_second_start_says_so(shared: Kernel) -> None:
    """The same file to the same place at the same time: one of them fails, and says."""
    shared.cell(
        "first = uk.start(big, url, token=token, limit='6MB/s')\n"
        "second = uk.start(big, url, token=token)\nsecond.wait()"
    )
    ended = shared.cell("print(first.result().success, second.results[0].error)")
    assert ended.text.startswith("True big.bin is on its way")


def test_a_server_that_dies(fresh: Kernel, tmp_path: Path) -> None:
    """The panel ends with a red line; no bar stands still for ever."""
    fresh.cell(f"server = uk.serve({str(tmp_path / 'store')!r})")
    fresh.cell(
        """
from upload_kit import RetryPolicy
job = uk.start(big, server.url, limit="4MB/s", chunk_size="250kB",
               retry=RetryPolicy(attempts=3, base_delay=0.1))
until(lambda: job.progress.confirmed >= 500_000)
server.close()
job.wait(20)
"""
    )
    fresh.drain(1.5)
    card = last_card(fresh)
    assert "failed" in card
    assert "upload_kit.resume(" in card
    assert not [m for m in fresh.all if m["msg_type"] in {"stream", "error"}]


def test_without_widgets_a_card_is_written_anew(fresh: Kernel) -> None:
    """Where ipywidgets is missing, HTML takes its place."""
    fresh.cell("import sys; sys.modules['ipywidgets'] = None")
    cell = fresh.cell("job = uk.start(big, url, token=token, limit='8MB/s')")
    fresh.cell("job.wait()")
    fresh.drain(1)
    assert not cell.of("comm_open")
    updates = [m for m in fresh.all if m["msg_type"] == "update_display_data"]
    assert len(updates) >= 2
    assert "complete" in last_card(fresh)


@pytest.mark.parametrize("kind", ["static", "text", "tqdm", "none"])
def test_the_other_displays(shared: Kernel, kind: str) -> None:
    """Each display can be asked for, and says how it ended in the waiting cell."""
    cell = shared.cell(
        f"r = uk.upload(big, url, token=token, name='x.bin', progress={kind!r})"
    )
    if kind == "none":
        assert cell.text == ""
    else:
        assert "x.bin" in cell.text
    assert not cell.of("comm_open")


def test_the_environment_is_above_the_call(
    tmp_path: Path, folder: Path, server: EmbeddedServer
) -> None:
    """UPLOAD_KIT_PROGRESS=static: nothing moves, and the card comes when waited for."""
    environment = {
        "UPLOAD_KIT_PROGRESS": "static",
        "UPLOAD_KIT_SESSION_DIR": str(tmp_path / "state"),
    }
    with open_kernel(environment) as kernel:
        prepare(kernel, folder, server)
        cells = kernel.run(
            "job = uk.start(big, url, token=token, progress='widget')",
            "result = await job",
            "result = job.result()",
        )
    assert [len(cell.of("display_data")) for cell in cells] == [0, 1, 0]
    assert not kernel_updates(kernel)


def kernel_updates(kernel: Kernel) -> list[Any]:
    return [m for m in kernel.all if m["msg_type"] == "update_display_data"]


def test_magics(shared: Kernel) -> None:
    """A line uploads a file or a variable, a cell the files it lists."""
    cells = shared.run(
        "%load_ext upload_kit",
        "server2 = uk.serve(folder / 's2')",
        "%upload {big} {server2.url} --layer feature --chunk-size 1MB",
        "import pandas as pd; df = pd.DataFrame({'a': [1, 2]})\n"
        "%upload df {server2.url} --name table.csv",
        "%%upload memory://cell/\n# comment\n/no/such/*.csv",
        "%upload onlyone",
        "%upload a b --layer best",
        "server2.close()",
    )
    assert [cell.error for cell in cells] == [None] * 8
    assert "success=True" in cells[2].text
    assert "name='table.csv'" in cells[3].text
    assert "success=False" in cells[4].text
    assert "UsageError: the following arguments are required: dest" in cells[5].text
    assert "invalid choice: 'best'" in cells[6].text


def test_a_job_as_a_value(shared: Kernel) -> None:
    """In its own cell the panel stands for the job; later one line does."""
    first, later = shared.run(
        "job = uk.start(big, url, token=token)\njob", "job.wait()\njob"
    )
    assert len(first.of("display_data")) == 1
    assert re.search(r"<Job big\.bin: complete", later.text)


def test_no_secret_in_any_output(shared: Kernel) -> None:
    """Reprs, frames, attributes and errors do not hold the token."""
    cells = shared.run(
        "job = uk.start(big, url, token=token, name='s.bin'); job.wait(); job",
        "uk.history().to_string(), uk.history().attrs",
        "uk.sessions().to_string(), uk.sessions().attrs",
        "uk.upload(big, url, token=token + 'wrong')",
        "uk.upload(big, url.replace('://', f'://user:{token}@'), token=token)",
        "uk.history().to_string(), job.samples().attrs, uk.doctor()",
        "uk.upload(big, url + '?token=' + token)",
        "vars(uk.history())",
        "uploader = uk.ResumableUploader(url, token=token); uploader, vars(job)",
        "result = await uploader.upload_file(big); result, result.to_json()",
        "events = [one async for one in uk.start(big, url, token=token)]; events",
        "lost = uk.start(big, f'http://user:{token}@127.0.0.1:9/')",
        "until(lambda: lost.progress.retries)",
        "print(lost.progress.retries); lost.cancel(); lost.wait(); lost",
        "assert 'completed' in str(events) and result.success; print('all seen')",
    )
    shared.drain(1.2)
    assert cells[-1].text.startswith("all seen\n")
    assert TOKEN not in str(shared.all)


def test_a_paused_upload_shows_signs_of_life(shared: Kernel) -> None:
    """Servers end kernels that seem idle: a panel paints now and then regardless."""
    cell = shared.cell(
        """
from upload_kit.api.starting import prepare
from upload_kit.bridge import bridge
from upload_kit.notebook.panel import Panel
from upload_kit.terminal import follow
job = prepare(big, url, token=token, limit="2MB/s", name="beats.bin")
feed, panel = job.subscribe(), Panel(job, heartbeat=0.5)
panel.display()
drawn = bridge.submit(follow(feed, panel))
job.begin(); job.pause()
"""
    )
    shared.drain(1)
    before = len(shared.all)
    shared.drain(3)
    comms = {one["comm_id"] for one in cell.of("comm_open")}
    beats = [
        message
        for message in shared.all[before:]
        if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] in comms
    ]
    shared.cell("job.cancel(); job.wait(); drawn.result(5)")
    assert 2 <= len(beats) <= 6


def test_the_demonstration_runs_in_a_cell(fresh: Kernel) -> None:
    """It uploads, kills, resumes and compares, in the cell that called it."""
    cell = fresh.cell("uk.demo(size='4MiB')")
    assert "Every copy is identical to the file." in cell.text
    assert "Traceback" not in cell.text
