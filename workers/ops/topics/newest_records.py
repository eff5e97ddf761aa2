"""A look at a topic's records as a reader of committed ones sees them: the newest, or those from an offset on."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

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
            found = [record async for record in records]
    return _newest(found, most) if offset is None else sorted(found, key=lambda each: each.offset)[:most]


def _newest(records: Sequence[ConsumerRecord], most: int) -> list[ConsumerRecord]:
    return sorted(records, key=lambda each: (each.timestamp, each.partition, each.offset), reverse=True)[:most]
