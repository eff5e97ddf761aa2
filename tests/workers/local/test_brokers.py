"""The brokers of a cluster beside the workers of `inmail up`: watched, named and started again like them."""

import json
import os
import signal
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import cast
from unittest.mock import Mock

import pytest

from infra.clock import utc_now
from infra.local.artifacts import read_lock
from infra.local.directories import PORTS, claim_data, kept_brokers
from infra.local.errors import DataDirectoryError, DiskFullError, ServerEndedError, ServerError
from infra.local.kafka_server import KafkaServer
from infra.local.kafka_storage import copy_format, is_formatted, keep_format, kept_cluster_id
from infra.local.stack import LocalStack
from infra.local.stack_setup import Options, _reserve
from infra.local.supervisor_client import Child, Program
from infra.settings import Settings
from tests.workers.wire import eventually
from workers.console.health import FAILED, OK, SystemPart
from workers.console.local_workers import ControlError, ProcessState, WorkerAction, WorkerStatus, with_processes
from workers.local import supervision
from workers.local.processes import WORKERS, WorkerProcesses, member_names
from workers.local.servers import broker_processes
from workers.local.supervision import WorkerSupervisor
from workers.local.up import stack_settings

_VERSIONS = {"kafka": "4", "postgres": "18"}
_OPTIONS = Options(
    data_dir=None, kafka=True, postgres=True, kafka_port=None, postgres_port=None, usual_ports={}, kafka_heap="1m",
    jvm_options=(), broker_settings={}, postgres_settings={}, kafka_lock=read_lock(), postgres_folder=None, brokers=3,
)  # fmt: skip


class _Stack:
    """Three brokers that are no processes."""

    brokers = 3
    databases = 1
    kafka_bootstrap_servers = "127.0.0.1:1"
    database_url = "postgresql://127.0.0.1:1/inmail"

    def __init__(self, logs: Path) -> None:
        self._logs, self.full = logs, False
        self._children = {node: self._child(node, 100 + node) for node in range(1, 4)}

    def _child(self, node: int, pid: int) -> Child:
        return Child(Program(f"broker-{node}", [], {}, self.broker_log(node), stop=15, death=9), pid)

    def broker(self, node: int) -> Child:
        return self._children[node]

    def broker_log(self, node: int) -> Path:
        return self._logs / f"broker-{node}.log"

    def spawn_broker(self, node: int) -> None:
        if self.full:
            raise DiskFullError("No room left")
        self._children[node] = self._child(node, self._children[node].pid + 100)

    def answer(self, node: int) -> None:
        with self.broker_log(node).open("a") as log:
            log.write(f"[KafkaRaftServer nodeId={node}] Kafka Server started\n")

    def stop_broker(self, node: int) -> int:
        self._children[node].update(code=128 + signal.SIGTERM)
        return 128 + signal.SIGTERM


@pytest.fixture
def stack(tmp_path: Path) -> _Stack:
    """A stack that starts nothing."""
    return _Stack(tmp_path)


def _supervisor(stack: _Stack, told: list[str]) -> WorkerSupervisor:
    brokers = broker_processes(cast("LocalStack", stack))
    workers = WorkerProcesses(Settings(), stack.broker_log(1).parent, names=())
    supervisor = WorkerSupervisor(workers, told.append, 0.01, [brokers])
    supervisor.start()
    return supervisor


async def test_a_broker_that_ended_is_named_and_started_again(stack: _Stack) -> None:
    """The others stay as they are; an end by itself is told with the last error of its log."""
    told: list[str] = []
    supervisor = _supervisor(stack, told)
    stack.broker_log(2).write_text("2026-11-29T11:06:54,169 INFO a (b)\n2026-11-29T11:06:55,1 ERROR no room (c)\n")
    stack.broker(2).update(code=1)

    async def again() -> bool:
        supervisor.look()
        return len(told) == 2

    await eventually(again, "a broker that was started again")

    log = stack.broker_log(2)
    ended = f"broker-2: it ended with exit code 1: no room (c); it is started again in 0 s. Its log: {log}"
    assert [ended, "broker-2: started again, as process 202"] == told
    supervisor.look()
    assert len(told) == 2  # it does not answer yet
    stack.answer(2)
    supervisor.look()
    supervisor.look()
    assert "broker-2: answers again, 0 s after its start" == told.pop()
    assert len(told) == 2
    assert [101, 202, 103] == [status.pid for status in supervisor.statuses()]
    stack.broker(3).update(code=-signal.SIGKILL)
    supervisor.look()
    assert told[2].startswith("broker-3: it was ended by SIGKILL; it is started again in ")


async def test_a_broker_that_cannot_be_started_takes_nothing_else_with_it(stack: _Stack) -> None:
    """What keeps it from starting may pass: it is told, and it is tried again later."""
    told: list[str] = []
    supervisor = _supervisor(stack, told)
    stack.full = True
    stack.broker(2).update(code=-signal.SIGKILL)

    async def tried() -> bool:
        supervisor.look()
        return len(told) >= 2

    await eventually(tried, "an attempt to start it")

    assert told[1].startswith("broker-2: it could not be started: No room left; it is started again in ")
    assert ["running", "backing off", "running"] == [status.state for status in supervisor.statuses()]


async def test_a_broker_is_stopped_and_started_by_a_verb(stack: _Stack) -> None:
    """An orderly stop is no error, and it stays stopped."""
    told: list[str] = []
    supervisor = _supervisor(stack, told)

    stopped = await supervisor.act("broker-3", WorkerAction.STOP)
    supervisor.look()
    started = await supervisor.act("broker-3", WorkerAction.START)

    assert "an operator stopped it; the other brokers have its partitions" == stopped.text
    assert (ProcessState.RUNNING, 203) == (started.state, started.pid)
    assert not told


async def test_a_stop_that_would_cost_the_brokers_their_majority_is_refused(stack: _Stack) -> None:
    """In words, also of one that is about to be started again; what runs stays, and with a majority it is done."""
    supervisor = _supervisor(stack, [])
    await supervisor.act("broker-3", WorkerAction.STOP)

    for action in (WorkerAction.STOP, WorkerAction.RESTART):
        with pytest.raises(
            ControlError, match=r"only 1 of 3 brokers would run, which is no majority.*start broker-3 first"
        ):
            await supervisor.act("broker-2", action)
    stack.broker(1).update(code=-signal.SIGKILL)
    supervisor.look()
    with pytest.raises(ControlError, match="without broker-1 only 1 of 3 brokers would run"):
        await supervisor.act("broker-1", WorkerAction.STOP)
    states = [status.state for status in supervisor.statuses()]
    for node, action in ((1, WorkerAction.RESTART), (3, WorkerAction.START)):
        await supervisor.act(f"broker-{node}", action)
        stack.answer(node)
    stopped = await supervisor.act("broker-2", WorkerAction.STOP)

    assert [ProcessState.BACKING_OFF, ProcessState.RUNNING, ProcessState.STOPPED] == states
    assert ProcessState.STOPPED == stopped.state


async def test_a_broker_that_starts_still_is_no_part_of_a_majority(stack: _Stack) -> None:
    """Its process is there at once, and it has no partition before it answers; then another one may be stopped."""
    told: list[str] = []
    supervisor = _supervisor(stack, told)
    await supervisor.act("broker-3", WorkerAction.STOP)
    await supervisor.act("broker-3", WorkerAction.START)

    for action in (WorkerAction.STOP, WorkerAction.RESTART):
        with pytest.raises(
            ControlError,
            match=r"without broker-2 only 1 of 3 brokers would run.*: wait for broker-3 to answer \(starts still\)$",
        ):
            await supervisor.act("broker-2", action)
    still = [status.pid for status in supervisor.statuses()]
    stack.answer(3)
    stopped = await supervisor.act("broker-2", WorkerAction.STOP)

    assert [101, 102, 203] == still
    assert ProcessState.STOPPED == stopped.state
    assert ["broker-3: answers again, 0 s after its start"] == told


async def test_what_an_operator_starts_has_no_error_of_before(stack: _Stack) -> None:
    """It was drained: that it was killed once, long before, says nothing of the process before this one."""
    supervisor = _supervisor(stack, [])
    stack.broker(2).update(code=-signal.SIGKILL)

    async def again() -> bool:
        supervisor.look()
        return supervisor.statuses()[1].pid == 202

    await eventually(again, "a broker that was started again")
    by_itself = supervisor.statuses()[1]
    stack.answer(2)
    by_operator = await supervisor.act("broker-2", WorkerAction.RESTART)

    assert "it runs as process 202; the one before: it was ended by SIGKILL" == by_itself.text
    assert ("it runs as process 302", "") == (by_operator.text, by_operator.error)


async def test_ends_are_in_a_row_until_one_has_run_for_a_minute(stack: _Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the count is 0 again, while it runs, and the next wait is the first one's."""
    supervisor = _supervisor(stack, [])
    restarts = []
    for _ in range(2):
        before = stack.broker(2).pid
        stack.broker(2).update(code=-signal.SIGKILL)

        async def again(before: int = before) -> bool:
            supervisor.look()
            return supervisor.statuses()[1].pid == before + 100

        await eventually(again, "a broker that was started again")
        restarts.append(supervisor.statuses()[1].restarts)

    monkeypatch.setattr(supervision, "monotonic", lambda: monotonic() + 61)
    supervisor.look()

    assert ([1, 2], 0) == (restarts, supervisor.statuses()[1].restarts)


def test_the_console_shows_each_broker_of_a_cluster(tmp_path: Path) -> None:
    """First, since the rest depends on them; one that ended has why as its cause."""
    log = tmp_path / "broker-1.log"
    running = WorkerStatus("broker-1", ProcessState.RUNNING, utc_now(), log, pid=7, is_broker=True)
    gone = replace(running, name="broker-2", state=ProcessState.BACKING_OFF, error="e", starts_in_seconds=1.0)

    one, two, kafka = with_processes([SystemPart("Kafka", OK, "reachable", "")], [running, gone])

    assert ("broker-1", OK, ("stop", "restart")) == (one.name, one.status, one.actions)
    assert ("broker-2", FAILED, "ended") == (two.name, two.status, two.cause)
    assert SystemPart("Kafka", OK, "reachable", "") == kafka


def test_members_of_a_worker_are_numbered_from_the_second_on() -> None:
    """One of each is named as ever; there is one ticker, since a second one would tick twice."""
    assert WORKERS == member_names(1)
    assert (*WORKERS, "send-2", "billing-2", "expiry-2") == member_names(2)


def test_topics_of_a_cluster_have_three_replicas_unless_told_otherwise(
    stack: _Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's number counts; one broker leaves the setting's default."""
    assert 3 == stack_settings(cast("LocalStack", stack)).topic_replication
    monkeypatch.setenv("INMAIL_TOPIC_REPLICATION", "2")
    assert 2 == stack_settings(cast("LocalStack", stack)).topic_replication
    monkeypatch.delenv("INMAIL_TOPIC_REPLICATION")
    stack.brokers = 1
    assert 1 == stack_settings(cast("LocalStack", stack)).topic_replication


@pytest.mark.parametrize(
    ("had", "wanted", "words"),
    [
        (1, 3, "holds the data of 1 broker, and 3 brokers cannot begin with it: start 1 broker again, or choose"),
        (3, 1, "holds the data of 3 brokers, and 1 broker cannot begin with it: start 3 brokers again, or choose"),
    ],
)
def test_data_of_another_number_of_brokers_is_refused(tmp_path: Path, had: int, wanted: int, words: str) -> None:
    """Nothing in the directory is touched, and it still serves as many as before."""
    assert kept_brokers(tmp_path) is None
    os.close(claim_data(tmp_path, _VERSIONS, had))

    with pytest.raises(DataDirectoryError, match=words):
        claim_data(tmp_path, _VERSIONS, wanted)

    assert had == kept_brokers(tmp_path)
    os.close(claim_data(tmp_path, _VERSIONS, had))


def test_the_ports_of_the_other_brokers_follow_that_of_the_first_and_are_kept(tmp_path: Path) -> None:
    """A data directory's next run has the same three, so that what was told of them stays true."""

    def ports(options: Options) -> dict[str, int]:
        with ExitStack() as held:
            reserved = _reserve(options, tmp_path, lambda _: None)
            return {name: held.enter_context(each).getsockname()[1] for name, each in reserved.items()}

    first = ports(replace(_OPTIONS, data_dir=tmp_path))
    again = ports(replace(_OPTIONS, data_dir=tmp_path))

    clients = ["kafka", "postgres", "kafka-2", "kafka-3"]
    assert [*clients, "controller", "controller-2", "controller-3"] == list(first)
    assert len(set(first.values())) == len(first)
    assert {name: first[name] for name in clients} == {name: again[name] for name in clients}
    assert set(clients) == set(json.loads((tmp_path / PORTS).read_text()))


def test_a_node_joins_the_cluster_that_another_has_formatted(tmp_path: Path) -> None:
    """Also where the first start was interrupted between the two."""
    (tmp_path / "broker-2").mkdir()
    (tmp_path / "broker-2" / "meta.properties").write_text("version=1\nnode.id=2\ncluster.id=of-the-second\n")

    assert "of-the-second" == kept_cluster_id([tmp_path / "broker-1", tmp_path / "broker-2"])


def test_a_data_folder_is_formatted_as_the_tool_has_formatted_one_before(tmp_path: Path) -> None:
    """Of another node: with the same features, and an identity of its own."""
    by_tool, kept, first, second = (tmp_path / name for name in ("tool", "kept", "first", "second"))
    assert not copy_format(kept, first, "a-cluster", 1)
    by_tool.mkdir()
    kept.mkdir()
    (by_tool / "bootstrap.checkpoint").write_bytes(b"features")
    keep_format(by_tool, kept)

    for node, data in enumerate((first, second), 1):
        assert not is_formatted(data)
        assert copy_format(kept, data, "a-cluster", node)
        assert is_formatted(data)
        assert b"features" == (data / "bootstrap.checkpoint").read_bytes()
    found = [dict(line.split("=") for line in _lines_of(data / "meta.properties")) for data in (first, second)]

    assert ["version", "cluster.id", "node.id", "directory.id"] == list(found[0])
    assert [("1", "a-cluster", "1"), ("1", "a-cluster", "2")] == [tuple(each.values())[:3] for each in found]
    assert found[0]["directory.id"] != found[1]["directory.id"]
    assert ["bootstrap.checkpoint", "meta.properties"] == sorted(each.name for each in first.iterdir())


def _lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_a_single_broker_is_configured_as_ever_and_three_replicate(tmp_path: Path) -> None:
    """Of three replicas two have to have a record, of a topic as of offsets and of transactions' states."""
    alone = KafkaServer("4", [], tmp_path, tmp_path, tmp_path, tmp_path, tmp_path, 9, {1: 8}, temporary=True)
    third = replace(alone, controllers={1: 6, 2: 7, 3: 8}, node=3)

    assert ("Kafka", "1@127.0.0.1:8") == (alone.name, alone._settings()["controller.quorum.voters"])
    assert {"1"} == {alone._settings()[name] for name in ("default.replication.factor", "min.insync.replicas")}
    settings = third._settings()
    assert ("broker-3", "3", "1@127.0.0.1:6,2@127.0.0.1:7,3@127.0.0.1:8") == (
        third.name, settings["node.id"], settings["controller.quorum.voters"],
    )  # fmt: skip
    kinds = ("offsets.topic", "transaction.state.log")
    assert ["3", "3", "3"] == [
        settings[name] for name in ("default.replication.factor", *(f"{kind}.replication.factor" for kind in kinds))
    ]
    assert ["2", "2"] == [settings[name] for name in ("min.insync.replicas", "transaction.state.log.min.isr")]


@pytest.mark.parametrize("error", [ServerEndedError, ServerError])
def test_a_broker_starts_without_an_archive_where_the_trial_ended_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[ServerError]
) -> None:
    """The archive only makes starts shorter. A trial that still runs has the port, and nothing may start beside it."""
    server = KafkaServer(
        "4", [], tmp_path, tmp_path, tmp_path / "log", tmp_path / "classes", tmp_path, 9, {1: 8}, temporary=True
    )
    monkeypatch.setattr(KafkaServer, "format", lambda self, _: self.data.mkdir())
    monkeypatch.setattr(KafkaServer, "launch", Mock(side_effect=error("planted")))
    prepared = nullcontext() if error is ServerEndedError else pytest.raises(ServerError, match="planted")

    with prepared:
        server._make_archive(Mock())

    assert (tmp_path / "trial").exists() is (error is ServerError)
    assert not server.archive.exists()
