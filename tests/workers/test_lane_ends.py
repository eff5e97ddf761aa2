"""How a worker ends: in time, whatever its group or its broker does."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from infra.kafka import admin_client
from infra.local.stack import LocalStack
from infra.postgres import create_pool
from infra.settings import Settings
from schemas.catalogue import (
    SEND_REQUESTS,
)
from tests.workers.wire import eventually, prepare
from workers import worker as worker_module
from workers.ledger.plans import load_catalogue
from workers.send import SendJob
from workers.worker import Worker, WorkerError, run_worker


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
    """A join may take as long as the slowest member's drain; SIGTERM does not wait for it."""
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

    assert seconds < 5


async def test_no_lane_is_opened_once_a_worker_is_stopping(cluster: Settings) -> None:
    """A rebalance that ends during the drain assigns partitions to nobody."""
    async with _running(cluster) as worker:
        await eventually(lambda: _has_lanes(worker), "an assignment")
    before = dict(worker._lanes)
    tasks = asyncio.all_tasks()

    await worker.on_partitions_assigned([TopicPartition(SEND_REQUESTS, 0)])

    assert before == worker._lanes
    assert set() == asyncio.all_tasks() - tasks


async def _has_lanes(worker: Worker) -> bool:
    return bool(worker._lanes)


@pytest.fixture(scope="module")
def frozen() -> Iterator[LocalStack]:
    """A broker to freeze, beside the one of the other tests."""
    with LocalStack(postgres=False) as stack:
        yield stack


@pytest.mark.parametrize("moment", ["joining", "working"])
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
        if moment == "working":
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


@asynccontextmanager
async def _ending(
    monkeypatch: pytest.MonkeyPatch, release: Callable[[], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """Allow an end one second beyond the drain; afterwards release what kept it, and let what it left behind finish."""
    monkeypatch.setattr(worker_module, "_STOP_SECONDS", 1.0)
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
