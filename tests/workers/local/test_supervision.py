"""A worker that ends under `inmail up`: it is named and started again, and takes nothing else with it."""

import asyncio
import re
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock
from urllib.request import urlopen

import pytest

from infra.clock import utc_now
from infra.kafka.clients import create_producer
from infra.local.ports import LOOPBACK, reserve_port, reserve_usual
from infra.settings import Settings
from tests.workers.local.conftest import Up
from tests.workers.local.running_up import READY, SECONDS, ask, read_to
from tests.workers.processes import free_port
from tests.workers.wire import eventually
from workers.commands.running import DEFECT, Exit
from workers.console.health import FAILED, OK, SystemPart
from workers.console.local_workers import ControlError, ProcessState, WorkerAction, WorkerStatus, with_processes
from workers.local import supervision
from workers.local.control import LIST, NotUpError, ask_control, data_option, serve_control
from workers.local.last_words import first_sentence, last_words
from workers.local.processes import WORKERS, WorkerProcesses
from workers.local.supervision import WorkerSupervisor


def _await(condition: Callable[[], bool], what: str) -> None:
    async def holds() -> bool:
        return condition()

    asyncio.run(eventually(holds, what))


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


@pytest.mark.whole
def test_a_poisoned_topic_ends_its_worker_and_nothing_else(up: Up, data: Path) -> None:
    """Also at the next start, which reads it again; until an operator lets it through as dead letters."""
    process = up()
    read_to(process, READY)
    _poison(data, 200)
    told = read_to(process, "send: ")
    assert "its circuit breaker ended it, and it stays ended: " in told
    assert "Traceback" not in told
    process.terminate()
    assert process.wait(SECONDS) == Exit.DONE
    again = up()
    said = read_to(again, READY)

    read_to(again, "send: its circuit breaker ended it")
    states = {name: each["state"] for name, each in ask(data, LIST).items()}
    expected = {**dict.fromkeys(WORKERS, ProcessState.RUNNING), "send": ProcessState.TRIPPED}
    assert expected == states
    assert "Traceback" not in said
    ask(data, WorkerAction.START, "send", let_through=True)
    (metrics,) = re.findall(r"(http://127\.0\.0\.1:\d+/metrics) \(send\)", said)

    def through() -> bool:
        try:
            with urlopen(metrics, timeout=5) as answer:  # noqa: S310 - on the loopback
                counted = re.findall(rb"^inmail_dead_letters_total\{.*\} ([\d.]+)$", answer.read(), re.MULTILINE)
        except OSError:
            return False
        return sum(map(float, counted)) >= 200

    _await(through, "the records as dead letters")
    assert ProcessState.RUNNING == ask(data, LIST)["send"]["state"]


def _failing(tmp_path: Path) -> WorkerProcesses:
    """Return a worker that ends as soon as it has begun."""
    return WorkerProcesses(Settings(plans_file=str(tmp_path / "none.toml")), tmp_path / "logs", ("ticker",))


async def _until(supervisor: WorkerSupervisor, enough: Callable[[], bool]) -> None:
    async def seen() -> bool:
        supervisor.look()
        return enough()

    await eventually(seen, "what the supervisor is to see")


async def test_each_end_in_a_row_doubles_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the last error is told each time, not its traceback."""
    now = 1000.0
    monkeypatch.setattr(supervision, "monotonic", lambda: now)
    told: list[str] = []
    supervisor = WorkerSupervisor(_failing(tmp_path), told.append, least_seconds=0.5)
    supervisor.start()
    waits: list[float] = []

    def enough() -> bool:
        nonlocal now
        (status,) = supervisor.statuses()
        if status.restarts > len(waits):
            waits.append(status.starts_in_seconds or 0)
            now += waits[-1]
        return len(waits) == 2

    await _until(supervisor, enough)

    assert [0.5, 1.0] == waits
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


async def test_a_worker_that_its_circuit_breaker_ended_stays_ended_until_an_operator_starts_it(tmp_path: Path) -> None:
    """A start alone lets nothing through, and a later one neither; the other worker that ends is started again."""
    codes: dict[str, int] = {}
    workers = Mock(names=("send", "billing"), log_path=lambda name: tmp_path / name, exit_code=codes.get)
    workers.forget.side_effect = lambda name: codes.pop(name, None)
    workers.stop_one.return_value = 0
    workers.start_one.side_effect = range(1, 20)
    workers.last_words.return_value = "51 of 51 cannot be decided"
    told: list[str] = []
    supervisor = WorkerSupervisor(workers, told.append, least_seconds=0.0)
    supervisor.start()

    codes |= {"send": Exit.UNDECIDABLE, "billing": Exit.BROKEN}
    for _ in range(3):
        supervisor.look()
    send, billing = supervisor.statuses()
    let_through = await supervisor.act("send", WorkerAction.START, let_through=True)
    codes["send"] = -signal.SIGKILL
    for _ in range(3):
        supervisor.look()
    again = await supervisor.act("send", WorkerAction.RESTART)

    assert [ProcessState.TRIPPED, ProcessState.RUNNING] == [send.state, billing.state]
    assert "its circuit breaker ended it, and it stays ended: 51 of 51 cannot be decided" == send.text
    assert told[0].startswith(f"send: {send.text}. Its log: {tmp_path}/send. To do: see `inmail dead-letters list`, ")
    assert ["billing", "billing", "send", "send"] == [line.partition(":")[0] for line in told[1:]]
    assert [ProcessState.RUNNING] * 2 == [let_through.state, again.state]
    through = {"INMAIL_DEAD_LETTER_SHARE": "1"}
    starts = [("send", {}), ("billing", {}), ("billing", {}), ("send", through), ("send", through), ("send", {})]
    assert starts == [call.args for call in workers.start_one.call_args_list]


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
