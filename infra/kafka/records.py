"""Topics seen from outside the groups: how many partitions they have, where they end, and what is in them."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import NotSetUpError, admin_client, count_partitions, partitions_of, reader
from infra.settings import Settings

__all__ = ["NotSetUpError", "PartitionFetcher", "all_partitions", "partition_counts", "read_records", "read_to"]

_POLL_MILLISECONDS = 250
_STALLED_SECONDS = 30.0


async def partition_counts(settings: Settings, topics: Iterable[str]) -> dict[str, int]:
    """Return the number of partitions of each topic.

    Raises:
        NotSetUpError: when one does not exist.

    """
    async with admin_client(settings) as admin:
        return await count_partitions(admin, topics)


async def all_partitions(settings: Settings, topics: Iterable[str]) -> list[TopicPartition]:
    """Return all partitions of some topics.

    Raises:
        NotSetUpError: when one does not exist.

    """
    counts = await partition_counts(settings, topics)
    return [place for topic, count in counts.items() for place in partitions_of(topic, count)]


async def read_records(
    settings: Settings,
    places: Sequence[TopicPartition],
    *,
    start: int = 0,
    follow: bool = False,
    from_end: bool = False,
) -> AsyncGenerator[ConsumerRecord, None]:
    """Yield the committed records of some partitions, each partition's in order.

    Ends once it has read up to where each partition ended at the start (the last stable offset), or never when
    following. Close it with `contextlib.aclosing` when leaving early.

    Args:
        settings: where Kafka is.
        places: what to read.
        start: offset to begin at, in each of them; the oldest record where it is older.
        follow: go on for ever.
        from_end: pass over what is there already.

    Raises:
        KafkaError: when the cluster cannot be reached, or stopped answering before the end was read.

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
        async for record in read_to(consumer, unread, ends):
            yield record


async def read_to(
    consumer: AIOKafkaConsumer,
    unread: dict[TopicPartition, int],
    ends: dict[TopicPartition, int],
    poll_ms: int = _POLL_MILLISECONDS,
) -> AsyncGenerator[ConsumerRecord, None]:
    """Yield what lies before the ends. `unread` holds the positions so far, and is used up.

    Where nothing but a transaction's marker is left, that is seen after `poll_ms`.

    Raises:
        KafkaError: when the cluster stopped answering before the ends were reached.

    """
    fetcher = PartitionFetcher(consumer, poll_ms)
    while unread:
        fetched = await fetcher.fetch(unread)
        for place, (records, _) in fetched.items():
            for record in records:
                if record.offset < ends[place]:
                    yield record
        for place, (_, position) in fetched.items():
            unread[place] = position
            if position >= ends[place]:
                del unread[place]


class PartitionFetcher:
    """Fetches records of assigned partitions, and gives up once no position has moved for 30 seconds."""

    def __init__(self, consumer: AIOKafkaConsumer, poll_ms: int = _POLL_MILLISECONDS) -> None:
        self._consumer = consumer
        self._poll_ms = poll_ms
        self._clock = asyncio.get_running_loop().time
        self._moved_at = self._clock()

    async def fetch(
        self, positions: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, tuple[Sequence[ConsumerRecord], int]]:
        """Return the next records of each partition, perhaps none, and the position behind them.

        Raises:
            KafkaError: when no position has moved for 30 seconds.

        """
        records = await self._consumer.getmany(*positions, timeout_ms=self._poll_ms)
        # Not the last record's offset plus one: a transaction's marker has an offset too, and may come last.
        reached = {place: await self._consumer.position(place) for place in positions}
        if reached != dict(positions):
            self._moved_at = self._clock()
        elif self._clock() - self._moved_at > _STALLED_SECONDS:
            raise KafkaTimeoutError(f"nothing could be read for {_STALLED_SECONDS:.0f} s")
        return {place: (records.get(place, ()), position) for place, position in reached.items()}
