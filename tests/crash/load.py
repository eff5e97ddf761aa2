"""The load: a seeded history at a steady rate, and all that came to lie in the input topics because of it."""

import asyncio
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import admin_client, committed_offsets, create_producer, partitions_of, reader
from infra.settings import Settings
from schemas.catalogue import (
    BILLING_EVENTS,
    EXPIRY_TICKS,
    INPUT_TOPICS,
    SEND_REQUESTS,
)
from tests.crash.books import Books
from workers.ops.topics.plan import wanted_config
from workers.simulate.history import simulate_records
from workers.simulate.population import Population
from workers.simulate.records import Record

__all__ = ["Inputs", "Load", "population", "refuse_results"]

_UNACKNOWLEDGED = 200
_GARBAGE = (b"", b"not json", b'{"specversion":"1.0"}', b"\xff\xfe", b"[]")
_GARBAGE_SHARE = 0.02
_READ_SECONDS = 30.0
_MARKER_BYTES = "100"  # a transaction's marker fits, no result does: the broker would never end it else
_CATCH_UP_SECONDS = 0.5  # a broker that was away is not met with all that was due meanwhile
_TICKED_PARTITIONS = 4  # with so many, a tick an hour: each tick is a record of each, and lanes book one at a time


def population(seed: int, partitions: int) -> Population:
    """Return a population to which a bit of everything happens, and more of it twice than anywhere else.

    With more partitions there are fewer ticks: of 12 with a tick each hour, half of all records would be ticks.
    """
    return Population(
        seed=seed,
        accounts=200,
        days=3_600,
        sends_per_day=1.0,
        turbulence=60,
        erasures_yearly=0.002,
        duplicates=0.06,
        conflicts=0.01,
        out_of_order=0.01,
        tick_hours=max(1.0, partitions / _TICKED_PARTITIONS),
    )


class Load:
    """Publishes the history with the record times of its events, and what nobody can decode in between."""

    def __init__(self, settings: Settings, seed: int, rate: float) -> None:
        self._settings = settings
        self._dice = Random(seed)  # noqa: S311 - a workload
        self._records = simulate_records(population(seed, settings.topic_partitions))
        self._rate = rate
        self._stopped = asyncio.Event()
        self._hurried = 0
        self.published = 0

    def stop(self) -> None:
        """Publish nothing more."""
        self._stopped.set()

    def hurry(self, records: int) -> None:
        """Publish the next so many at once, beyond the rate."""
        self._hurried = records

    async def run(self) -> None:
        """Publish until stopped; what a lost broker did not take may be published twice, and is then there twice."""
        while not self._stopped.is_set():
            try:
                async with create_producer(self._settings, "crash-load") as producer:
                    await self._publish(producer)
            except (KafkaError, OSError):
                await asyncio.sleep(0.2)

    async def _publish(self, producer: AIOKafkaProducer) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        deliveries: list[asyncio.Future[object]] = []
        for record in self._mixed():
            if self._stopped.is_set():
                break
            for partition in range(self._settings.topic_partitions) if record.key is None else (None,):
                sent = await producer.send(
                    record.topic, record.value, record.key, partition=partition, timestamp_ms=record.time
                )
                deliveries.append(sent)
            self.published += 1
            if len(deliveries) > _UNACKNOWLEDGED:
                await asyncio.gather(*deliveries)
                deliveries.clear()
            if self._hurried:
                self._hurried -= 1
                continue
            due = max(due + 1 / self._rate, clock() - _CATCH_UP_SECONDS)
            await asyncio.sleep(max(0.0, due - clock()))
        await asyncio.gather(*deliveries)

    def _mixed(self) -> Iterator[Record]:
        for record in self._records:
            yield record
            if self._dice.random() < _GARBAGE_SHARE:
                topic = self._dice.choice((SEND_REQUESTS, BILLING_EVENTS, EXPIRY_TICKS))
                yield Record(topic, b"nobody", self._dice.choice(_GARBAGE), record.time)


async def refuse_results(settings: Settings, topic: str, *, refuse: bool) -> None:
    """Let the broker refuse every result on a topic, as too large, or take them again."""
    config = wanted_config(topic, settings) | ({"max.message.bytes": _MARKER_BYTES} if refuse else {})
    async with admin_client(settings) as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=config)])


class Removed(NamedTuple):
    """Input that retention took before its answers were published: [start, end) of a partition."""

    place: TopicPartition
    start: int
    end: int


class Inputs:
    """Every record of the input topics, read as they come: some will be removed from there."""

    def __init__(self, settings: Settings, books: Books) -> None:
        self._settings = settings
        self._books = books
        self.places = [place for topic in INPUT_TOPICS for place in partitions_of(topic, settings.topic_partitions)]
        self.records: dict[tuple[str, int, int], ConsumerRecord] = {}
        self.removed: list[Removed] = []
        self._read_to = dict.fromkeys(self.places, 0)
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                async with reader(self._settings) as consumer:
                    consumer.assign(self.places)
                    for place in self.places:
                        consumer.seek(place, self._read_to[place])
                    while True:
                        for place, records in (await consumer.getmany(timeout_ms=200)).items():
                            self.records |= {(*place, record.offset): record for record in records}
                            self._read_to[place] = records[-1].offset + 1
                        self._moved.set()
            except (KafkaError, OSError):
                await asyncio.sleep(0.2)

    async def read_to(self, ends: dict[TopicPartition, int]) -> None:
        """Wait until so much was read."""
        async with asyncio.timeout(_READ_SECONDS):
            while any(self._read_to[place] < end for place, end in ends.items()):
                self._moved.clear()
                await self._moved.wait()

    async def remove_unpublished(self, group: str, topic: str) -> bool:
        """Remove what a group's lanes have stored and not published. Tell whether there was any."""
        stored = {
            TopicPartition(topic, partition): at
            for (name, partition), at in (await self._books.stored()).items()
            if name == group
        }
        async with admin_client(self._settings) as admin:
            published = await committed_offsets(admin, group, list(stored))
            ranges = [
                Removed(place, start, stored[place])
                for place, start in published.items()
                if start is not None and start < stored[place]
            ]
            await self.read_to({each.place: each.end for each in ranges})
            for each in ranges:
                await admin.delete_records({each.place: RecordsToDelete(before_offset=each.end)})
        self.removed += ranges
        return bool(ranges)
