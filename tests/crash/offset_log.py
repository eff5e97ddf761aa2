"""The broker's own log of groups' offsets: where it ends as a run begins, and where an offset went back since."""

import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from aiokafka import TopicPartition

from infra.kafka.clients import NotSetUpError, reader
from infra.kafka.records import all_partitions, read_to
from infra.settings import Settings

__all__ = ["log_ends", "offsets_that_went_back"]

_OFFSETS = "__consumer_offsets"


async def log_ends(settings: Settings) -> dict[TopicPartition, int]:
    """Return where the log ends now. None of it is there before a broker's first group."""
    try:
        places = await all_partitions(settings, (_OFFSETS,))
    except NotSetUpError:
        return {}
    async with reader(settings, isolation_level="read_uncommitted") as consumer:
        return dict(await consumer.end_offsets(places))


async def offsets_that_went_back(settings: Settings, since: Mapping[TopicPartition, int]) -> AsyncGenerator[str, None]:
    """Yield where a group's offset went back, in the log's order, from `since` on: from 0 where it says nothing.

    Close the generator with `contextlib.aclosing`.
    """
    reached: dict[tuple[str, str, int], int] = {}
    places = await all_partitions(settings, (_OFFSETS,))
    async with reader(settings) as consumer:
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        unread = {place: since.get(place, 0) for place in places if since.get(place, 0) < ends[place]}
        for place, start in unread.items():
            consumer.seek(place, start)
        async with aclosing(read_to(consumer, unread, ends)) as records:
            async for record in records:
                if (key := _offset_key(record.key)) is None:
                    continue
                if record.value is None:  # forgotten, as with a topic that was removed
                    reached.pop(key, None)
                    continue
                (offset,) = struct.unpack_from(">q", record.value, 2)
                if offset < reached.get(key, 0):
                    yield f"{key}: {reached[key]} to {offset}"
                reached[key] = offset


def _offset_key(key: bytes) -> tuple[str, str, int] | None:
    """Return group, topic and partition of an offset's key; None for another kind of record."""
    version, size = struct.unpack_from(">hh", key)
    if version > 1:
        return None
    group = key[4 : 4 + size].decode()
    (length,) = struct.unpack_from(">h", key, 4 + size)
    topic = key[6 + size : 6 + size + length].decode()
    (partition,) = struct.unpack_from(">i", key, 6 + size + length)
    return group, topic, partition
