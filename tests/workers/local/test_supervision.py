"""A worker that ends under `inmail up`: it is named and started again, and takes nothing else with it."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock
from urllib.request import urlopen

import psutil
import pytest

from infra.clock import utc_now
from infra.kafka.clients import create_producer
from infra.local.ports import LOOPBACK, reserve_port, reserve_usual
from infra.settings import Settings
from tests.workers.processes import free_port
from tests.workers.wire import eventually
from workers.commands.running import DEFECT, Exit
from workers.console.health import FAILED, OK, SystemPart
from workers.console.local_workers import ControlError, ProcessState, WorkerAction, WorkerStatus, with_processes
from workers.local.control import LIST, NotUpError, ask_control, data_option, serve_control
from workers.local.last_words import first_sentence, last_words
from workers.local.processes import WORKERS, WorkerProcesses
from workers.local.supervision import WorkerSupervisor

READY = "Ctrl-C drains"
SECONDS = 60

Up = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data directory of a test's `inmail up`."""
    return tmp_path / "data"


@pytest.fixture
def up(data: Path) -> Iterator[Up]:
    """Start `inmail up` on the test's own data directory; what a test leaves running is ended."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("INMAIL_")}
    with ExitStack() as running:

        def start() -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", "up", "--data", str(data)],
                env=variables
                | {"INMAIL_TOPIC_PARTITIONS": "2", "INMAIL_SESSION_SECONDS": "6"}
                | {"INMAIL_TRANSACTION_SECONDS": "5"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            running.enter_context(process)
            running.callback(process.kill)
            return process

        yield start


def _read_to(process: subprocess.Popen[str], start: str) -> str:
    """Return what a process says, up to and with the line that begins so."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith(start):
            return said
    raise AssertionError(f"it ended without {start!r}:\n{said}")


def _ask(data: Path, do: str, name: str = "", *, let_through: bool = False) -> dict[str, dict[str, object]]:
    found = asyncio.run(ask_control(data, do, name, let_through=let_through))
    return {each["name"]: each for each in found}


def _await(condition: Callable[[], bool], what: str) -> None:
    async def holds() -> bool:
        return condition()

    asyncio.run(eventually(holds, what))


def _servers(process: subprocess.Popen[str]) -> set[int]:
    """Return the process ids of the broker and of the database server."""
    children = psutil.Process(process.pid).children(recursive=True)
    found = {each.pid for each in children if "kafka.Kafka" in each.cmdline() or each.name() == "postgres"}
    return {pid for pid in found if psutil.Process(pid).ppid() not in found}


def _poison(data: Path, count: int) -> None:
    """Send what no worker can decide, as somebody's wrong producer does."""
    variables = dict(re.findall(r"^export (INMAIL_\w+)=(\S+)$", (data / "env").read_text(), re.MULTILINE))
    settings = Settings(kafka_bootstrap_servers=variables["INMAIL_KAFKA_BOOTSTRAP_SERVERS"])

    async def send() -> None:
        async with create_producer(settings, "garbage") as producer:
            await asyncio.gather(
                *[await producer.send("inmail.send-requests", b"?", key=b"%d" % number) for number in range(count)]
            )

    asyncio.run(send())


def test_a_killed_worker_is_started_again_beside_servers_that_stay(up: Up, data: Path) -> None:
    """By `kill -9`: one sentence and its log are told, another process takes its place, the console still serves."""
    process = up()
    (console,) = re.findall(r"^Console +(\S+)", _read_to(process, READY), re.MULTILINE)
    before = _ask(data, LIST)
    servers = _servers(process)
    os.kill(int(str(before["send"]["pid"])), signal.SIGKILL)

    told = _read_to(process, "send: started again")
    after = _ask(data, LIST)

    log = data / "logs" / "send.log"
    assert told.startswith(f"send: it was ended by SIGKILL; it is started again in 1 s. Its log: {log}\n")
    assert ProcessState.RUNNING == after["send"]["state"]
    assert before["send"]["pid"] != after["send"]["pid"]
    assert [before[name]["pid"] for name in WORKERS[1:]] == [after[name]["pid"] for name in WORKERS[1:]]
    assert 2 == len(servers)
    assert servers == _servers(process)
    with urlopen(f"{console}/api/overview", timeout=10) as answer:  # noqa: S310 - on the loopback
        assert answer.status == 200
    assert f"`inmail workers start ticker --data {data}`" == _ask(data, WorkerAction.STOP, "ticker")["ticker"]["do"]
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == Exit.DONE
    assert not (data / "env").exists()


@pytest.mark.whole
def test_a_poisoned_topic_ends_its_worker_and_nothing_else(up: Up, data: Path) -> None:
    """Also at the next start, which reads it again; until an operator lets it through as dead letters."""
    process = up()
    _read_to(process, READY)
    _poison(data, 200)
    told = _read_to(process, "send: ")
    assert "its circuit breaker ended it, and it stays ended: " in told
    assert "Traceback" not in told
    process.terminate()
    assert process.wait(SECONDS) == Exit.DONE
    again = up()
    said = _read_to(again, READY)

    _read_to(again, "send: its circuit breaker ended it")
    states = {name: each["state"] for name, each in _ask(data, LIST).items()}
    expected = {**dict.fromkeys(WORKERS, ProcessState.RUNNING), "send": ProcessState.TRIPPED}
    assert expected == states
    assert "Traceback" not in said
    _ask(data, WorkerAction.START, "send", let_through=True)
    (metrics,) = re.findall(r"(http://127\.0\.0\.1:\d+/metrics) \(send\)", said)

    def through() -> bool:
        try:
            with urlopen(metrics, timeout=5) as answer:  # noqa: S310 - on the loopback
                counted = re.findall(rb"^inmail_dead_letters_total\{.*\} ([\d.]+)$", answer.read(), re.MULTILINE)
        except OSError:
            return False
        return sum(map(float, counted)) >= 200

    _await(through, "the records as dead letters")
    assert ProcessState.RUNNING == _ask(data, LIST)["send"]["state"]


def _failing(tmp_path: Path) -> WorkerProcesses:
    """Return a worker that ends as soon as it has begun."""
    return WorkerProcesses(Settings(plans_file=str(tmp_path / "none.toml")), tmp_path / "logs", ("ticker",))


async def _until(supervisor: WorkerSupervisor, enough: Callable[[], bool]) -> None:
    async def seen() -> bool:
        supervisor.look()
        return enough()

    await eventually(seen, "what the supervisor is to see")


async def test_each_end_in_a_row_doubles_the_wait(tmp_path: Path) -> None:
    """And the last error is told each time, not its traceback."""
    told: list[str] = []
    supervisor = WorkerSupervisor(_failing(tmp_path), told.append, least_seconds=0.25)
    supervisor.start()
    waits: list[float] = []

    def enough() -> bool:
        (status,) = supervisor.statuses()
        if status.restarts > len(waits):
            waits.append(status.starts_in_seconds or 0)
        return len(waits) == 3

    await _until(supervisor, enough)

    assert [0.25, 0.5, 1.0] == pytest.approx(waits, abs=0.2)
    assert all(
        line.startswith(f"ticker: {tmp_path}/none.toml: No such file or directory")
        for line in told
        if "process" not in line
    )


async def test_a_worker_is_stopped_and_started_by_a_verb(tmp_path: Path) -> None:
    """It stays stopped, and what makes no sense is refused."""
    workers = WorkerProcesses(
        Settings(kafka_bootstrap_servers=f"{LOOPBACK}:{free_port()}"), tmp_path / "logs", ("ticker",)
    )
    supervisor = WorkerSupervisor(workers, lambda _: None)
    supervisor.start()
    # Longer than a socket's name may be.
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    try:
        async with serve_control(supervisor, folder):
            with pytest.raises(ControlError, match=r"^ticker runs already, as process \d+$"):
                await ask_control(folder, WorkerAction.START, "ticker")
            (stopped,) = await ask_control(folder, WorkerAction.STOP, "ticker")
            supervisor.look()
            (listed,) = await ask_control(folder, LIST)
            with pytest.raises(ControlError, match=r"^ticker is stopped already$"):
                await ask_control(folder, WorkerAction.STOP, "ticker")
            (started,) = await ask_control(folder, WorkerAction.START, "ticker")
            with pytest.raises(ControlError, match=r"^there is no worker sent: there are ticker$"):
                await ask_control(folder, WorkerAction.RESTART, "sent")
        with pytest.raises(NotUpError, match="no `inmail up` runs on"):
            await ask_control(folder, LIST)
    finally:
        workers.stop()

    assert [ProcessState.STOPPED, ProcessState.STOPPED, ProcessState.RUNNING] == [
        each["state"] for each in (stopped, listed, started)
    ]


async def test_what_drains_for_a_restart_as_all_are_stopped_is_not_started_again(tmp_path: Path) -> None:
    """Ctrl-C of `inmail up` had left such a worker running beside servers that are gone."""
    draining, drained = threading.Event(), threading.Event()

    def drain(_: str) -> int:
        draining.set()
        assert drained.wait(SECONDS)
        return 0

    workers = Mock(names=("ticker",), log_path=lambda name: tmp_path / name, stop_one=drain)
    workers.start_one.return_value = 7
    workers.stop.return_value = {"ticker": 0}
    supervisor = WorkerSupervisor(workers, lambda _: None)
    supervisor.start()
    restarting = asyncio.create_task(supervisor.act("ticker", WorkerAction.RESTART))
    await asyncio.to_thread(draining.wait, SECONDS)

    codes = await supervisor.stop(3.0)
    drained.set()
    for refused in (restarting, supervisor.act("ticker", WorkerAction.START)):
        with pytest.raises(ControlError, match=r"^this inmail up is ending"):
            await refused

    assert {"ticker": 0} == codes
    workers.stop.assert_called_once_with(3.0)
    workers.start_one.assert_called_once()
    assert [ProcessState.STOPPED] == [each.state for each in supervisor.statuses()]


@pytest.mark.parametrize(
    ("log", "code", "words"),
    [
        (
            "inmail: Kafka has no topic a: run `inmail b`\n",
            3,
            "Kafka has no topic a: run `inmail b`",
        ),
        ('{"event": "x"}\ninmail: 51 of 51 cannot be decided. See `inmail a`.\n', 65, "51 of 51 cannot be decided"),
        (
            f"Traceback:\nKeyError: 'a'\ninmail: {DEFECT}\n",
            70,
            "it ended of a mistake in this program: KeyError: 'a'",
        ),
        ("", 1, "it ended with exit code 1 and did not say why"),
        ("inmail: what it said before\n", -9, "it was ended by SIGKILL"),
    ],
    ids=["a sentence", "the first of two", "unforeseen", "silent", "killed"],
)
def test_last_words_are_one_sentence(tmp_path: Path, log: str, code: int, words: str) -> None:
    """Of this process: what an earlier one wrote to the same file does not count."""
    file = tmp_path / "log"
    earlier = "inmail: an earlier error\n"
    file.write_text(earlier + log)

    assert words == last_words(file, len(earlier), code)


def test_a_sentence_ends_at_its_stop_and_not_inside_a_number() -> None:
    """A version and a path have stops of their own."""
    assert first_sentence("Kafka 4.2 is at a.b.c: start it. Then go on.") == "Kafka 4.2 is at a.b.c: start it"


def test_a_usual_port_that_is_taken_gives_way_to_the_next() -> None:
    """Also one that another stack holds and does not listen on yet."""
    with closing(reserve_port(None, "a test")) as taken:
        port = taken.getsockname()[1]
        with closing(reserve_usual(port, "a test")) as other, socket.socket() as server:
            found = other.getsockname()[1]
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((LOOPBACK, found))
            server.listen()  # whom it is for gets it

    assert port < found <= port + 10


def test_what_is_advised_leads_to_the_same_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its whole path, as a shell reads it; the default in this folder needs no word."""
    monkeypatch.chdir(tmp_path)
    options = [data_option(each) for each in (Path(".inmail"), tmp_path / ".inmail", Path("a b"))]
    stopped = WorkerStatus("send", ProcessState.STOPPED, utc_now(), tmp_path, data_option=options[2])

    assert ["", "", f" --data '{tmp_path}/a b'"] == options
    assert f"`inmail workers start send --data '{tmp_path}/a b'`" == stopped.advice
    tripped = replace(stopped, state=ProcessState.TRIPPED)
    assert f"`inmail workers start send --data '{tmp_path}/a b'`;" in tripped.advice


def test_the_console_says_why_a_process_is_not_there(tmp_path: Path) -> None:
    """And leaves every part alone whose process runs."""
    parts = [
        SystemPart("send worker", FAILED, "not ready", "no answer"),
        SystemPart("ticker", OK, "", ""),
    ]
    now = utc_now()
    statuses = [
        WorkerStatus("send", ProcessState.BACKING_OFF, now, tmp_path / "send.log", error="e", starts_in_seconds=4.0),
        WorkerStatus("ticker", ProcessState.RUNNING, now, tmp_path / "ticker.log", pid=1),
    ]

    send, ticker = with_processes(parts, statuses)
    (draining,) = with_processes(parts[:1], [replace(statuses[0], state=ProcessState.STOPPING)])

    assert f"look at {tmp_path}/send.log where it ends again and again" == send.do
    assert ("draining", "") == (draining.cause, draining.do)
    assert ("ended", f"e; it is started again in 4 s; its log: {tmp_path}/send.log") == (send.cause, send.text)
    assert replace(parts[1], actions=("stop", "restart")) == ticker
