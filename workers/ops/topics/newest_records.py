"""A look at a topic's records as a reader of committed ones sees them: the newest, or those from an offset on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from heapq import heappush, heappushpop
from operator import itemgetter

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import reader
from infra.kafka.records import all_partitions, read_to
from infra.settings import Settings

__all__ = ["NoSuchPartitionError", "read_newest"]

_PARTITION_BYTES = 256 * 1024
_WAIT_MS = 100
_MARKERS = 2  # offsets for each record: in a result topic a transaction's marker may follow each


class NoSuchPartitionError(Exception):
    """The topic has no partition of this number."""


async def read_newest(
    settings: Settings, topic: str, most: int, partition: int | None = None, offset: int | None = None
) -> list[ConsumerRecord]:
    """Return a topic's newest records, newest first; or, from an offset on, the next of a partition in their order.

    Raises:
        NotSetUpError: when the topic does not exist.
        NoSuchPartitionError: when it has no such partition.
        KafkaError: when the cluster cannot be reached.

    """
    places = [place for place in await all_partitions(settings, [topic]) if partition in (None, place.partition)]
    if not places:
        raise NoSuchPartitionError(f"{topic} has no partition {partition}")
    async with reader(settings, wait_ms=_WAIT_MS, partition_bytes=_PARTITION_BYTES) as consumer:
        consumer.assign(places)
        ends, oldest = await asyncio.gather(consumer.end_offsets(places), consumer.beginning_offsets(places))
        if offset is None:
            starts = {place: max(oldest[place], ends[place] - most * _MARKERS) for place in places}
        else:
            starts = {place: max(oldest[place], offset) for place in places}
            ends = {place: min(ends[place], starts[place] + most * _MARKERS) for place in places}
        for place, start in starts.items():
            consumer.seek(place, start)
        unread: dict[TopicPartition, int] = {place: at for place, at in starts.items() if at < ends[place]}
        async with aclosing(read_to(consumer, unread, ends, _WAIT_MS)) as records:
            return await _greatest(records, most, _age if offset is None else lambda each: (-each.offset,))


def _age(record: ConsumerRecord) -> tuple[int, ...]:
    return record.timestamp, record.partition, record.offset


async def _greatest(
    records: AsyncIterator[ConsumerRecord], most: int, rank: Callable[[ConsumerRecord], tuple[int, ...]]
) -> list[ConsumerRecord]:
    """Return the records of greatest rank, the greatest first. At most `most` are held at a time."""
    heap: list[tuple[tuple[int, ...], int, ConsumerRecord]] = []
    number = 0  # so that records of one rank are not compared
    async for record in records:
        number += 1
        (heappush if len(heap) < most else heappushpop)(heap, (rank(record), -number, record))
    return [record for _, _, record in sorted(heap, key=itemgetter(0, 1), reverse=True)]
