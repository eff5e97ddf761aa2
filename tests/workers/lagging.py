"""Groups that are none of ours, on topics of their own, for tests of what is said of any group."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from infra.kafka.clients import admin_client, create_consumer, create_producer, reader
from infra.settings import Settings
from tests.workers.wire import eventually
from workers.ops.lag import LagObserver, PartitionLag, Status, StatusLimits, observer

QUICK = StatusLimits(window_seconds=1.0, behind_seconds=0.3, held_seconds=0.3, waiting_seconds=0.3)


@dataclass(frozen=True, slots=True)
class Reading:
    """A topic of one partition, and a group that reads it."""

    settings: Settings
    group: str
    place: TopicPartition

    async def write(self, count: int) -> None:
        """Append so many records."""
        async with create_producer(self.settings, "test") as producer:
            await asyncio.gather(*[await producer.send(self.place.topic, b"x") for _ in range(count)])

    async def commit(self, *offsets: int) -> None:
        """Commit offsets, one after the other, as who is not a member may."""
        async with reader(self.settings, self.group) as consumer:
            consumer.assign([self.place])
            for offset in offsets:
                await consumer.commit({self.place: offset})

    @asynccontextmanager
    async def member(self) -> AsyncIterator[AIOKafkaConsumer]:
        """Be a member of the group that has the partition, and reads nothing by itself."""
        consumer = create_consumer(self.settings, self.group, 10)
        consumer.subscribe([self.place.topic])
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    @asynccontextmanager
    async def transactions(self) -> AsyncIterator[AIOKafkaProducer]:
        """Open a transactional producer."""
        async with AIOKafkaProducer(**self.settings.kafka_client(), transactional_id=self.group) as producer:
            yield producer

    def lag(self, found: LagObserver) -> PartitionLag:
        """Return what an observer saw last."""
        (group,) = [each for each in found.groups if (each.group, each.topic) == (self.group, self.place.topic)]
        return group.partitions[0]

    @asynccontextmanager
    async def observed(self, limits: StatusLimits = QUICK, *, remembers: bool = True) -> AsyncIterator[LagObserver]:
        """Open an observer of this group only."""
        async with observer(self.settings, [self.group], limits=limits, remembers=remembers, books=False) as found:
            yield found

    async def first_look(self, limits: StatusLimits = QUICK, *, remembers: bool = True) -> PartitionLag:
        """Return what an observer says that has just come."""
        async with self.observed(limits, remembers=remembers) as found:
            await found.refresh()
            return self.lag(found)

    async def stands(self, found: LagObserver, status: Status) -> PartitionLag:
        """Look until a status is told; return what is."""
        return await stands(found, self.group, self.place, status)


async def stands(found: LagObserver, group: str, place: TopicPartition, *statuses: Status) -> PartitionLag:
    """Look until a partition has one of some statuses; return what is told of it."""
    told: list[PartitionLag] = []

    async def says() -> bool:
        await found.refresh()
        told[:] = [
            each
            for one in found.groups
            if (one.group, one.topic) == (group, place.topic)
            for each in one.partitions
            if each.partition == place.partition
        ]
        return bool(told) and told[0].status in statuses

    try:
        await eventually(says, "")
    except AssertionError as error:
        raise AssertionError(f"not {statuses}, but {told}") from error
    return told[0]


async def make_reading(settings: Settings, name: str) -> Reading:
    """Make a topic of one partition; return it with a group that has not read it yet."""
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(f"topic-{name}", 1, 1)])
    return Reading(settings, f"group-{name}", TopicPartition(f"topic-{name}", 0))
