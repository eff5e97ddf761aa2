"""How a worker ends: in time, whatever its group or its broker does."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

from infra.kafka.clients import admin_client, create_consumer, create_lane_producer
from infra.local.stack import LocalStack
from infra.postgres import Connection, create_pool
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS
from tests.whole import whole
from tests.workers.life import in_partition, living
from tests.workers.wire import eventually, prepare, publish, send
from workers.errors import WorkerError
from workers.jobs.job import Batch, Decision
from workers.jobs.send import SendJob
from workers.lane import membership
from workers.lane.worker import Worker, run_worker
from workers.ledger.plans import load_catalogue
from workers.ops.group_offsets import describe_group


def _job() -> SendJob:
    return SendJob(load_catalogue())


@asynccontextmanager
async def _worker(settings: Settings) -> AsyncIterator[Worker]:
    """Make a send worker to look inside."""
    async with create_pool(settings) as pool, admin_client(settings) as admin:
        yield Worker(_job(), settings, pool, admin)


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[Worker]:
    stop = asyncio.Event()
    async with _worker(settings) as worker:
        task = asyncio.create_task(worker.run(stop))
        try:
            yield worker
        finally:
            stop.set()
            await task


class _Slow(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member that takes its time to give partitions up."""

    def __init__(self) -> None:
        self.asked, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        if revoked:
            self.asked.set()
            await self.may_go_on.wait()

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        """Begin nothing."""


async def test_a_worker_that_waits_for_a_slow_group_ends_in_time(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A join may take as long as the slowest member's drain. SIGTERM does not wait for it, and the worker leaves."""
    slow = _Slow()
    member = AIOKafkaConsumer(
        bootstrap_servers=cluster.kafka_bootstrap_servers,
        group_id=SendJob.group,
        rebalance_timeout_ms=60_000,
        heartbeat_interval_ms=100,
        enable_auto_commit=False,
    )

    async def release() -> None:
        slow.may_go_on.set()
        await member.stop()

    own = cluster.model_copy(update={"drain_seconds": 1})
    stop = asyncio.Event()
    async with _ending(monkeypatch, release), _worker(own) as worker:
        member.subscribe([SEND_REQUESTS], listener=slow)
        await member.start()
        task = asyncio.create_task(worker.run(stop))
        await asyncio.wait_for(slow.asked.wait(), 20)
        seconds = await _seconds_to_end(task, stop)
        async with admin_client(cluster) as admin:
            left = await describe_group(admin, SendJob.group)

    assert seconds < 5
    assert 1 == len(left.members)  # the slow one: the group does not wait for one that has ended


async def test_no_lane_is_opened_once_a_worker_is_stopping(cluster: Settings) -> None:
    """A rebalance that ends during the drain assigns partitions to nobody."""
    async with _running(cluster) as worker:
        await eventually(lambda: _has_lanes(worker), "an assignment")
    before = dict(worker.membership.lanes)
    tasks = asyncio.all_tasks()

    await worker.membership.on_partitions_assigned([TopicPartition(SEND_REQUESTS, 0)])

    assert before == worker.membership.lanes
    assert set() == asyncio.all_tasks() - tasks


async def _has_lanes(worker: Worker) -> bool:
    return worker.membership is not None and bool(worker.membership.lanes)


@pytest.fixture(scope="module")
def frozen() -> Iterator[LocalStack]:
    """A broker to freeze, beside the one of the other tests."""
    with LocalStack(postgres=False) as stack:
        yield stack


@pytest.mark.parametrize("moment", [whole("joining"), "working"])
async def test_a_worker_whose_broker_does_not_answer_ends_in_time(
    settings: Settings, frozen: LocalStack, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither joining a group nor leaving it may keep it: what is not done in its time is left."""
    changes = {"kafka_bootstrap_servers": frozen.kafka_bootstrap_servers, "drain_seconds": 1, "topic_partitions": 2}
    own = settings.model_copy(update=changes)
    await prepare(own)

    async def release() -> None:
        os.kill(frozen.kafka_pid, signal.SIGCONT)

    stop = asyncio.Event()
    async with _ending(monkeypatch, release), _worker(own) as worker:
        if moment == "joining":
            os.kill(frozen.kafka_pid, signal.SIGSTOP)
        task = asyncio.create_task(worker.run(stop))
        if moment == "joining":
            await asyncio.wait([task], timeout=0.5)  # by then it waits for an answer
        else:
            await eventually(lambda: _has_lanes(worker), "an assignment")
            os.kill(frozen.kafka_pid, signal.SIGSTOP)
        seconds = await _seconds_to_end(task, stop)

    assert seconds < 5


async def test_a_worker_that_cannot_connect_ends_in_time(
    settings: Settings, frozen: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that answers to nobody does not keep a worker that is told to stop before it had begun."""
    own = settings.model_copy(update={"kafka_bootstrap_servers": frozen.kafka_bootstrap_servers, "drain_seconds": 1})

    async def release() -> None:
        os.kill(frozen.kafka_pid, signal.SIGCONT)

    stop = asyncio.Event()
    async with _ending(monkeypatch, release):
        os.kill(frozen.kafka_pid, signal.SIGSTOP)
        task = asyncio.create_task(run_worker(SendJob(load_catalogue()), own, stop))
        done, _ = await asyncio.wait([task], timeout=0.5)
        seconds = await _seconds_to_end(task, stop)

    assert set() == done
    assert seconds < 5


@pytest.mark.parametrize(
    "make",
    [
        partial(create_lane_producer, transactional_id="ends"),
        partial(create_consumer, group="ends", rebalance_seconds=1.0),
    ],
)
async def test_a_client_that_is_cancelled_while_it_connects_leaves_no_connection(
    cluster: Settings, make: Callable[[Settings], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aiokafka forgets the connection on which it has asked its first question."""
    asked, answer = asyncio.Event(), asyncio.Event()
    connections = []
    send = AIOKafkaConnection.send

    async def held(self: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, MetadataRequest) and self._client_id == "ends":  # those kept for all tests go on
            connections.append(self)
            asked.set()
            await answer.wait()
        return await send(self, request, **options)

    client = make(cluster)
    with monkeypatch.context() as patch:
        patch.setattr(AIOKafkaConnection, "send", held)
        starting = asyncio.create_task(client.start())
        await asyncio.wait_for(asked.wait(), 10)
        starting.cancel()
        await asyncio.wait([starting])
        answer.set()
        await client.stop()
        await eventually(lambda: _all_closed(connections), "closed connections")

    assert connections


async def _all_closed(connections: list[Any]) -> bool:
    return not any(each.connected() for each in connections)


@asynccontextmanager
async def _ending(
    monkeypatch: pytest.MonkeyPatch, release: Callable[[], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """Allow an end one second beyond the drain; afterwards release what kept it, and let what it left behind finish."""
    monkeypatch.setattr(membership, "STOP_SECONDS", 1.0)
    before = asyncio.all_tasks()
    try:
        yield
    finally:
        await release()
        if left := asyncio.all_tasks() - before:
            await asyncio.wait(left, timeout=20)


async def _seconds_to_end(task: asyncio.Task[None], stop: asyncio.Event) -> float:
    """Stop a worker and return how long it took. It may say that it could not leave its group."""
    began = monotonic()
    stop.set()
    await asyncio.wait([task], timeout=10)
    seconds = monotonic() - began
    with suppress(WorkerError):
        await task
    return seconds


async def test_an_owner_that_is_cancelled_by_nobody_ends_its_worker(cluster: Settings) -> None:
    """Aiokafka lets cancels of its own through: the partitions would have no owner, and nobody would know."""
    async with living(cluster) as life:
        await life.ready()
        assert life.worker.membership is not None
        life.worker.membership._owners._task.cancel()
        error = await life.ended()

    assert isinstance(error, WorkerError)
    assert str(error).endswith("was cancelled, and nobody had stopped it")


class _Endless(SendJob):
    """Has always one more step to do."""

    def __init__(self) -> None:
        super().__init__(load_catalogue())
        self.steps = 0

    async def step(self, connection: Connection, batch: Batch) -> bool:  # noqa: ARG002
        self.steps += 1
        return True


async def test_a_lane_stops_between_the_steps_of_a_batch(cluster: Settings) -> None:
    """A tick of many steps does not keep a rebalance waiting: its next owner goes on with the next one."""
    job = _Endless()
    async with living(cluster, job) as life:
        await life.ready()
        await publish(cluster, SEND_REQUESTS, [send(in_partition(cluster, 0))])
        await eventually(lambda: _reached(job, 5), "some steps")
        began = monotonic()
        await life.worker.membership.on_partitions_revoked(list(life.worker.membership.lanes))
        seconds, steps = monotonic() - began, job.steps
        await life.worker.membership.on_partitions_assigned([])

    assert seconds < cluster.drain_seconds / 4
    assert steps == job.steps


async def _reached(job: _Endless, steps: int) -> bool:
    return job.steps >= steps


class _Held(SendJob):
    """Decides nothing before it may."""

    def __init__(self) -> None:
        super().__init__(load_catalogue())
        self.asked, self.may_go_on = asyncio.Event(), asyncio.Event()
        self.decided = 0

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        self.asked.set()
        await self.may_go_on.wait()
        self.decided += 1
        return await super().decide(connection, batch)


async def test_a_revoked_lane_decides_nothing_any_more(cluster: Settings, database: Connection) -> None:
    """What it was deciding when its time to drain was over is not stored, and what waited for it is not begun."""
    job = _Held()
    own = cluster.model_copy(update={"drain_seconds": 0.5, "batch_records": 1})
    async with living(own, job) as life:
        await life.ready()
        await publish(cluster, SEND_REQUESTS, [send(in_partition(cluster, 0)) for _ in range(5)])
        await asyncio.wait_for(job.asked.wait(), 10)
        assert life.worker.membership is not None
        owner = life.worker.membership._owners._task
        await life.worker.membership.on_partitions_revoked(list(life.worker.membership.lanes))
        job.may_go_on.set()
        await asyncio.wait([owner], timeout=10)
        stored = await database.fetchval("select count(*) from journal")
        await life.worker.membership.on_partitions_assigned([])

    assert (0, 0) == (stored, job.decided)
    assert owner.done()
