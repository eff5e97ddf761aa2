"""`inmail up`: its output, its data, and how it ends."""

import asyncio
import io
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Event
from time import monotonic
from unittest.mock import Mock

import psutil
import pytest
from rich.console import Console

from infra.kafka.clients import admin_client
from infra.local.errors import StartInterruptedError
from infra.local.progress import Progress
from infra.local.stack import LocalStack
from infra.settings import Settings
from infra.terminal import Reporter
from tests.workers.local.conftest import Up
from tests.workers.local.running_up import READY, SECONDS, read_to, wait_for_end
from tests.workers.wire import eventually
from workers.commands.running import Exit
from workers.local import demo
from workers.local.processes import WorkerProcesses
from workers.local.up import prepare_stack, stack_settings, start_stack

ADDRESSES = r"^(?:Kafka|Postgres) +\S+$"


@pytest.mark.whole
def test_up_keeps_its_ports_and_ends_when_the_broker_dies(up: Up) -> None:
    """Exported addresses stay valid, and a server that died is named soon, with its log."""
    first = up()
    addresses = re.findall(ADDRESSES, read_to(first, READY), re.MULTILINE)
    first.terminate()
    assert Exit.DONE == wait_for_end(first)[0]
    second = up()

    assert 2 == len(addresses)
    assert addresses == re.findall(ADDRESSES, read_to(second, READY), re.MULTILINE)
    (broker,) = [p for p in psutil.Process(second.pid).children(recursive=True) if "kafka.Kafka" in p.cmdline()]
    broker.kill()
    code, said, seconds = wait_for_end(second)
    assert Exit.UNREACHABLE == code
    assert re.search(r"inmail: Kafka ended with code -9. Log: \S+/kafka.log\n  .*INFO", said)
    assert "Traceback" not in said
    assert seconds < 20


@pytest.mark.whole
def test_an_interrupt_during_startup_ends_up_at_once(up: Up) -> None:
    """Starting servers end too, and the next start succeeds."""
    process = up()
    read_to(process, "Starting")
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()

    code, said, seconds = wait_for_end(process)

    assert (Exit.DONE, "stopped before the stack was up") == (code, said.splitlines()[-1])
    assert seconds < 10
    assert not any(child.is_running() for child in children)


@pytest.fixture
def starting() -> Iterator[Mock]:
    """A stack whose start begins, and then waits until it is interrupted."""
    interrupted = Event()
    stack = Mock(begun=Event(), interrupt=Mock(side_effect=interrupted.set))

    def start() -> None:
        stack.begun.set()
        interrupted.wait(SECONDS)
        if stack.notices:
            raise StartInterruptedError("planted")

    stack.start = start
    yield stack
    interrupted.set()


@pytest.mark.parametrize("notices", [True, False])
async def test_a_start_that_is_cancelled_leaves_no_stack(notices: bool, starting: Mock) -> None:  # noqa: FBT001
    """Also where the stack was up before it noticed."""
    starting.notices = notices
    task = asyncio.create_task(start_stack(starting))
    await asyncio.to_thread(starting.begun.wait, SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (not notices) == starting.stop.called


async def test_ctrl_c_interrupts_the_start_of_the_demo(starting: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C cancels the task, which waited for the end of the start all the same: it may be a download."""
    monkeypatch.setattr(demo, "LocalStack", lambda **_: starting)
    task = asyncio.create_task(demo.run_demo())
    await asyncio.to_thread(starting.begun.wait, SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    starting.interrupt.assert_called_once()


@pytest.fixture
async def own_workers(tmp_path: Path) -> AsyncIterator[tuple[LocalStack, Settings, WorkerProcesses]]:
    """Workers on a stack that the test may break."""
    with LocalStack() as stack:
        settings = stack_settings(
            stack, topic_partitions=2, session_seconds=6, transaction_seconds=5, tick_seconds=1, log_format="json",
            drain_seconds=5,
        )  # fmt: skip
        await prepare_stack(settings)
        # Without the expiry worker: a tick that it holds may take all the time that a drain has.
        workers = WorkerProcesses(settings, tmp_path, ("send", "billing", "ticker"))
        workers.start()
        try:
            for name in ("send", "billing"):
                await _said(workers, name, '"event": "lanes_open"')
            await _said(workers, "ticker", '"event": "ticker_started"')
            yield stack, settings, workers
        finally:
            await asyncio.to_thread(workers.stop, 5)


async def _said(workers: WorkerProcesses, name: str, what: str, times: int = 1) -> None:
    async def said() -> bool:
        workers.check()
        return workers.log_path(name).read_text().count(what) >= times

    await eventually(said, f"{name}: {what}")


@pytest.mark.whole
async def test_workers_without_a_broker_drain_on_request(
    own_workers: tuple[LocalStack, Settings, WorkerProcesses],
) -> None:
    """They end soon with code 0, and no cancellation inside a client becomes an error."""
    stack, _, workers = own_workers
    stack.kill_kafka()
    await _said(workers, "ticker", "Unable connect to node")  # a tick waits for the broker
    began = monotonic()

    codes = await asyncio.to_thread(workers.stop)

    assert monotonic() - began < 15
    assert {"send": 0, "billing": 0, "ticker": 0} == codes


@pytest.mark.whole
async def test_workers_whose_broker_hangs_report_it_and_end_in_time(
    own_workers: tuple[LocalStack, Settings, WorkerProcesses],
) -> None:
    """Workers wait for a frozen broker no longer than the time to drain."""
    stack, settings, workers = own_workers
    os.kill(stack.kafka_pid, signal.SIGSTOP)
    began = monotonic()
    try:
        codes = await asyncio.to_thread(workers.stop)
    finally:
        os.kill(stack.kafka_pid, signal.SIGCONT)

    assert monotonic() - began < settings.drain_seconds + 10
    assert (Exit.BROKEN, 0) == (codes["send"], codes["ticker"])
    said = workers.log_path("send").read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("inmail: drained, but Kafka did not let the worker leave group inmail-send")


@pytest.mark.whole
async def test_a_worker_without_its_topic_names_the_command_to_run(
    own_workers: tuple[LocalStack, Settings, WorkerProcesses],
) -> None:
    """The log names the command whether the topic is deleted under a worker or missing at its start."""
    _, settings, workers = own_workers
    async with admin_client(settings) as admin:
        await admin.delete_topics(["inmail.send-requests"])

    for _ in range(2):
        assert Exit.UNREACHABLE == await asyncio.to_thread(workers.running["send"].wait, SECONDS)
        said = workers.log_path("send").read_text().splitlines()[-1]
        assert said == "inmail: Kafka has no topic inmail.send-requests: run `inmail topics apply`"
        workers.log_path("send").write_text("")
        workers.kill_and_restart("send")


def test_workers_stopped_before_they_start_end_with_code_0(tmp_path: Path) -> None:
    """They have nothing to drain, so the signal that ends them is no failure."""
    workers = WorkerProcesses(Settings(), tmp_path, ("ticker",))
    workers.start()

    assert {"ticker": 0} == workers.stop()


STEPS = [Progress(f"{number} of 46", number, 46) for number in range(1, 47)]


def test_a_pipe_gets_a_few_progress_lines_of_a_long_task() -> None:
    """A pipe gets a line for some steps; other messages are always written."""
    out = io.StringIO()
    report = Reporter(Console(file=out, width=80))
    for line in ["begun", *STEPS, "done"]:
        report(line)

    assert ["begun", "12 of 46", "23 of 46", "35 of 46", "46 of 46", "done"] == out.getvalue().splitlines()


def test_on_a_terminal_the_steps_of_a_long_task_share_a_line() -> None:
    """Each step replaces the line of the previous step, and no other line."""
    out = io.StringIO()
    report = Reporter(Console(file=out, width=80, force_terminal=True))
    for line in ["begun", *STEPS[:3], "done"]:
        report(line)

    back = "\x1b[1A\x1b[2K"
    assert f"begun\n1 of 46\n{back}2 of 46\n{back}3 of 46\ndone\n" == out.getvalue()
