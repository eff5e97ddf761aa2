"""`inmail up`: its output, its data, and how it ends."""

import asyncio
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from unittest.mock import Mock
from urllib.request import urlopen

import psutil
import pytest
from rich.console import Console

from infra.kafka.clients import admin_client
from infra.local.errors import StartInterruptedError
from infra.local.progress import Progress
from infra.local.stack import LocalStack
from infra.settings import Settings
from infra.terminal import Reporter
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from tests.workers.wire import eventually
from workers.commands.running import Exit
from workers.local import demo
from workers.local.processes import WORKERS, WorkerProcesses
from workers.local.up import prepare_stack, stack_settings, start_stack
from workers.ops.topics.record_lines import parse_line

Up = Callable[[], subprocess.Popen[str]]

READY = "Ctrl-C drains"
ADDRESSES = r"^(?:Kafka|Postgres) +\S+$"
SECONDS = 60


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Return a function that starts `inmail up` on the test's own data directory."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("INMAIL_")}
    with ExitStack() as running:

        def start() -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", "up", "--data", str(tmp_path / "data")],
                env=variables | {"INMAIL_TOPIC_PARTITIONS": "2"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            running.enter_context(process)
            running.callback(process.kill)
            return process

        yield start


def _read_to(process: subprocess.Popen[str], start: str) -> str:
    """Return the output of a process up to and including the line with that start."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith(start):
            return said
    raise AssertionError(f"it ended without {start!r}:\n{said}")


def _wait_for_end(process: subprocess.Popen[str]) -> tuple[int, str, float]:
    """Return a process's exit code, its remaining output, and the seconds until its end."""
    began = monotonic()
    said, _ = process.communicate(timeout=SECONDS)
    return process.returncode, said, monotonic() - began


def _scrape(addresses: dict[str, str]) -> dict[str, bool]:
    """Return, for each worker, whether it serves its metrics within a minute."""

    def serves(address: str) -> bool:
        deadline = monotonic() + SECONDS
        while monotonic() < deadline:
            with suppress(OSError), urlopen(address, timeout=5) as answer:  # noqa: S310 - on the loopback
                return b"# TYPE inmail_" in answer.read()
            sleep(0.1)
        return False

    return {name: serves(address) for name, address in addresses.items()}


def test_up_runs_until_interrupted_and_prints_how_to_use_it(up: Up) -> None:
    """The output has addresses to export, lines to publish and the command to call; after Ctrl-C the workers drain."""
    process = up()
    said = _read_to(process, READY)
    scraped = _scrape(dict(reversed(each) for each in re.findall(r"(http://127\.0\.0\.1:\d+/metrics) \((\w+)\)", said)))
    process.send_signal(signal.SIGINT)

    assert dict.fromkeys(WORKERS, True) == scraped
    lines = re.findall(r"^  (echo .*) \| \S.* publish -$", said, re.MULTILINE)
    assert [BILLING_EVENTS, SEND_REQUESTS] == [parse_line(shlex.split(line)[1].encode()).topic for line in lines]
    (servers,) = re.findall(r"^Kafka +(\S+)$", said, re.MULTILINE)
    assert re.search(r"^  source \S+/data/env$", said, re.MULTILINE)
    assert re.search(r"^  inmail results --account alice$|-m workers.cli results", said, re.MULTILINE)
    assert f"kcat -P -b {servers} -t inmail.send-requests -K: -X partitioner=murmur2_random\n" in said
    code, rest, _ = _wait_for_end(process)
    assert (Exit.DONE, "\ndraining the workers ...\nall drained\nstopped\n") == (code, rest)


@pytest.mark.whole
def test_up_keeps_its_ports_and_ends_when_the_broker_dies(up: Up) -> None:
    """Exported addresses stay valid, and a server that died is named soon, with its log."""
    first = up()
    addresses = re.findall(ADDRESSES, _read_to(first, READY), re.MULTILINE)
    first.terminate()
    assert Exit.DONE == _wait_for_end(first)[0]
    second = up()

    assert 2 == len(addresses)
    assert addresses == re.findall(ADDRESSES, _read_to(second, READY), re.MULTILINE)
    (broker,) = [p for p in psutil.Process(second.pid).children(recursive=True) if "kafka.Kafka" in p.cmdline()]
    broker.kill()
    code, said, seconds = _wait_for_end(second)
    assert Exit.UNREACHABLE == code
    assert re.search(r"inmail: Kafka ended with code -9. Log: \S+/kafka.log\n  .*INFO", said)
    assert "Traceback" not in said
    assert seconds < 20


@pytest.mark.whole
def test_an_interrupt_during_startup_ends_up_at_once(up: Up) -> None:
    """Starting servers end too, and the next start succeeds."""
    process = up()
    _read_to(process, "Starting")
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()

    code, said, seconds = _wait_for_end(process)

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
