"""What groups committed in the last minutes, read from where Kafka itself keeps it: the topic `__consumer_offsets`.

It holds every commit with its time until it is compacted, which takes longer than the minutes asked for here. So who
looks for the first time knows as much as who has looked all the time, and nobody has to keep a record of his own.
"""

import struct
from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.clock import nearest_instant, to_milliseconds
from infra.kafka.cluster_queries import LATEST, ClusterQueries
from infra.kafka.peek import read_through

__all__ = ["Commit", "Commits", "partition_of_group", "read_commits"]

TOPIC = "__consumer_offsets"
_MOST_RECORDS = 50_000  # of a partition of it: the last ones; a second of reading
_OF_OFFSETS = (0, 1)  # versions of keys; others are of a group's members


class Commit(NamedTuple):
    """An offset that a group committed, and when, by its coordinator's clock."""

    time: datetime
    offset: int


class Commits(NamedTuple):
    """The commits of some groups since a moment, the oldest first."""

    found: dict[tuple[str, TopicPartition], list[Commit]]
    whole: frozenset[str]  # groups of which it is known that there were no others


def partition_of_group(group: str, partitions: int) -> int:
    """Return the partition of `__consumer_offsets` that holds a group: by Java's hash of its name."""
    value = 0
    for unit in struct.unpack(f"<{len(group.encode('utf-16-le')) // 2}H", group.encode("utf-16-le")):
        value = (31 * value + unit) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >= 1 << 31 else value
    return (0 if signed == -(1 << 31) else abs(signed)) % partitions


async def read_commits(lookup: ClusterQueries, groups: Collection[str], since: datetime) -> Commits:
    """Return what some groups committed since a moment. Where the topic may not be read, no group's are whole.

    Raises:
        KafkaError: when a broker does not answer at all.

    """
    places = lookup.partitions(TOPIC)
    wanted: dict[TopicPartition, set[str]] = defaultdict(set)
    for group in groups if places else ():
        wanted[places[partition_of_group(group, len(places))]].add(group)
    ends = await lookup.offsets(dict.fromkeys(wanted, LATEST), committed=True)
    starts = await lookup.offsets(dict.fromkeys(wanted, to_milliseconds(since)), committed=True)
    found: dict[tuple[str, TopicPartition], list[Commit]] = defaultdict(list)
    whole: set[str] = set()
    for place, names in wanted.items():
        if place not in ends or place not in starts:
            continue
        start = ends[place] if starts[place] < 0 else starts[place]
        if ends[place] - start <= _MOST_RECORDS:
            whole |= names
        start = max(start, ends[place] - _MOST_RECORDS)
        async for record in read_through(lookup, place, start, ends[place]):
            if (read := _decode(record)) is not None and read[0] in names:
                found[read[0], read[1]].append(read[2])
    return Commits(dict(found), frozenset(whole))


def _decode(record: ConsumerRecord) -> tuple[str, TopicPartition, Commit] | None:
    """Return the group, the partition and the commit that a record tells of, if it does."""
    key, value = record.key, record.value
    if value is None or len(key) < 2 or struct.unpack_from(">h", key)[0] not in _OF_OFFSETS:
        return None
    group, position = _text(key, 2)
    topic, position = _text(key, position)
    (partition,) = struct.unpack_from(">i", key, position)
    _, offset = struct.unpack_from(">hq", value)  # all versions of it begin so
    return group, TopicPartition(topic, partition), Commit(nearest_instant(record.timestamp), offset)


def _text(data: bytes, position: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, position)
    begin = position + 2
    return data[begin : begin + size].decode(), begin + size
