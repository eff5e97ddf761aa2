"""Reads topics without a group: the number of their partitions, their ends and their records."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import nullcontext
from time import monotonic

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import admin_client, count_partitions, partitions_of, reader
from infra.settings import Settings
from infra.waiting import reading, waiting_for

__all__ = ["PartitionFetcher", "all_partitions", "partition_counts", "read_records", "read_to"]

_POLL_MILLISECONDS = 250
_STALLED_SECONDS = 30.0
_MOST_RECORDS = 1_000  # of a fetch: a consumer may have a hundred times as many at hand


async def partition_counts(settings: Settings, topics: Iterable[str]) -> dict[str, int]:
    """Return the number of partitions of each topic.

    Raises:
        NotSetUpError: when a topic does not exist.

    """
    async with admin_client(settings) as admin:
        return await count_partitions(admin, topics)


async def all_partitions(settings: Settings, topics: Iterable[str]) -> list[TopicPartition]:
    """Return all partitions of topics.

    Raises:
        NotSetUpError: when a topic does not exist.

    """
    counts = await partition_counts(settings, topics)
    return [place for topic, count in counts.items() for place in partitions_of(topic, count)]


async def read_records(  # noqa: PLR0913 - what to read, and how
    settings: Settings,
    places: Sequence[TopicPartition],
    *,
    start: int = 0,
    follow: bool = False,
    from_end: bool = False,
    tells: bool = True,
) -> AsyncGenerator[ConsumerRecord, None]:
    """Yield the committed records of partitions, in the order of each partition.

    Ends at the last stable offsets as of the call, or never when following. Close the generator with
    `contextlib.aclosing` when leaving early.

    Args:
        settings: where Kafka is.
        places: the partitions.
        start: the offset to begin at in each partition; a later oldest record is the first instead.
        follow: read new records for ever.
        from_end: skip existing records.
        tells: whether a command says how far it has read.

    Raises:
        KafkaError: when the cluster cannot be reached, or stops answering before the end.

    """
    async with reader(settings) as consumer:
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        oldest = await consumer.beginning_offsets(places)
        starts = ends if from_end else {place: max(start, oldest[place]) for place in places}
        for place in places:
            consumer.seek(place, starts[place])
        if follow:
            while True:
                for records in (await consumer.getmany(timeout_ms=_POLL_MILLISECONDS)).values():
                    for record in records:
                        yield record
        unread = {place: starts[place] for place in places if starts[place] < ends[place]}
        total = _count_offsets(unread, ends)
        so_far = reading(lambda: f"read so far: {total - _count_offsets(unread, ends):,} of {total:,} offsets")
        with so_far if tells else nullcontext():
            async for record in read_to(consumer, unread, ends):
                yield record


def _count_offsets(unread: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> int:
    """Return how many offsets are between positions and ends."""
    return sum(ends[place] - position for place, position in unread.items())


async def read_to(
    consumer: AIOKafkaConsumer,
    unread: dict[TopicPartition, int],
    ends: dict[TopicPartition, int],
    poll_ms: int = _POLL_MILLISECONDS,
) -> AsyncGenerator[ConsumerRecord, None]:
    """Yield the records before the ends. `unread` has the positions, and loses each partition that is read.

    Other tasks run in between, such as the heartbeats of a worker that looks for what it has published: what aiokafka
    has at hand it returns without a pause.

    A partition that has only a transaction's marker left is finished after `poll_ms`.

    Raises:
        KafkaError: when the cluster stops answering before the ends.

    """
    fetcher = PartitionFetcher(consumer, poll_ms)
    while unread:
        fetched = await fetcher.fetch(unread)
        await asyncio.sleep(0)
        for place, (records, _) in fetched.items():
            for record in records:
                if record.offset < ends[place]:
                    yield record
        for place, (_, position) in fetched.items():
            unread[place] = position
            if position >= ends[place]:
                del unread[place]


class PartitionFetcher:
    """Fetches records of assigned partitions, and raises an error when no position has moved for 30 seconds."""

    def __init__(self, consumer: AIOKafkaConsumer, poll_ms: int = _POLL_MILLISECONDS) -> None:
        self._consumer = consumer
        self._poll_ms = poll_ms
        self._moved_at = monotonic()

    async def fetch(
        self, positions: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, tuple[Sequence[ConsumerRecord], int]]:
        """Return the next records of each partition, possibly none, and the position after them.

        Raises:
            KafkaError: when no position has moved for 30 seconds.

        """
        with waiting_for("Kafka", "reading records", self._moved_at):
            records = await self._consumer.getmany(*positions, timeout_ms=self._poll_ms, max_records=_MOST_RECORDS)
            # Not the last record's offset plus one: a transaction's marker has an offset too, and may be last.
            reached = {place: await self._consumer.position(place) for place in positions}
        if reached != dict(positions):
            self._moved_at = monotonic()
        elif monotonic() - self._moved_at > _STALLED_SECONDS:
            raise KafkaTimeoutError(f"nothing could be read for {_STALLED_SECONDS:.0f} s")
        return {place: (records.get(place, ()), position) for place, position in reached.items()}
