"""A worker in this process, with what it tells of itself, and the questions that tests of its life ask."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from aiokafka import TopicPartition

from infra.kafka.clients import admin_client, create_producer, partition_of, reader
from infra.postgres import Connection, create_pool
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS
from schemas.envelope import Event, encode
from tests.workers.wire import eventually, send
from workers.jobs.job import Batch, Decision, Job
from workers.jobs.send import SendJob
from workers.lane.worker import Worker
from workers.ledger.plans import load_catalogue
from workers.telemetry.health import Health
from workers.topology import GROUP_OF


@dataclass(slots=True)
class Life:
    """A worker at work."""

    worker: Worker
    health: Health
    task: asyncio.Task[None]
    stop: asyncio.Event
    end_asked_for: bool = False  # by a test, which judges the end itself

    async def ready(self) -> None:
        """Wait until it says that it is."""
        await eventually(self._is_ready, f"ready, and not {self.health.not_ready()}")

    async def not_ready(self, words: str) -> None:
        """Wait until it says that it is not, for a reason with these words."""

        async def says() -> bool:
            if self.task.done():
                self.task.result()
            return any(words in reason for reason in self.health.not_ready())

        await eventually(says, f"not ready because of {words!r}")

    async def _is_ready(self) -> bool:
        if self.task.done():
            self.task.result()
        return not self.health.not_ready()

    async def ended(self, seconds: float = 30) -> BaseException | None:
        """Wait until it has ended by itself; return of what."""
        self.end_asked_for = True
        done, _ = await asyncio.wait([self.task], timeout=seconds)
        assert done, f"still there after {seconds} s: {self.health.not_ready()}"
        return self.task.exception()


@asynccontextmanager
async def living(settings: Settings, job: Job | None = None) -> AsyncIterator[Life]:
    """Run a worker, the send worker unless told otherwise, and drain it at the end.

    Raises:
        BaseException: what the worker ended with, unless the test has asked for its end.

    """
    health, stop = Health(settings.stuck_seconds), asyncio.Event()
    async with create_pool(settings) as pool, admin_client(settings) as admin:
        worker = Worker(job or SendJob(load_catalogue()), settings, pool, admin, health)
        task = asyncio.create_task(worker.run(stop))
        life = Life(worker, health, task, stop)
        try:
            yield life
        finally:
            stop.set()
            await asyncio.wait([task])
            if not life.end_asked_for:
                task.result()


def in_partition(settings: Settings, number: int) -> str:
    """Return a new account of a partition."""
    while partition_of((account := f"a-{uuid4().hex[:12]}").encode(), settings.topic_partitions) != number:
        pass
    return account


async def at_the_end(settings: Settings, *numbers: int, topic: str = SEND_REQUESTS) -> None:
    """Wait until the group of a topic has read so many partitions to their ends."""
    places = [TopicPartition(topic, number) for number in numbers]
    async with reader(settings, GROUP_OF[topic]) as consumer:

        async def done() -> bool:
            end = await consumer.end_offsets(places)
            return all([await consumer.committed(place) == end[place] for place in places])

        await eventually(done, f"the group at the ends of {numbers}")


@asynccontextmanager
async def feeding(settings: Settings, accounts: Sequence[str]) -> AsyncIterator[list[str]]:
    """Publish a request of each account every 25 ms until left; yield the ids of the requests so far."""
    sent: list[str] = []
    stop = asyncio.Event()

    async def feed() -> None:
        async with create_producer(settings, "test") as producer:
            while not stop.is_set():
                for account in accounts:
                    event = send(account)
                    await producer.send(SEND_REQUESTS, encode(event), account.encode())
                    sent.append(str(event.id))
                await asyncio.wait([asyncio.create_task(stop.wait())], timeout=0.025)
            await producer.flush()

    task = asyncio.create_task(feed())
    try:
        yield sent
    finally:
        stop.set()
        await task


def once_each(requests: Sequence[Event], answers: Sequence[dict[str, Any]]) -> bool:
    """Tell whether every request has one answer, and nothing else has."""
    return Counter(str(event.id) for event in requests) == Counter(answer["request_id"] for answer in answers)


class Held(SendJob):
    """Decides nothing before it may."""

    def __init__(self) -> None:
        super().__init__(load_catalogue())
        self.asked, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Say that a batch has come, and wait."""
        self.asked.set()
        await self.may_go_on.wait()
        return await super().decide(connection, batch)
