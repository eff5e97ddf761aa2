"""Reads the commits of groups in the last minutes from Kafka's own topic `__consumer_offsets`.

The topic has every commit with its time until compaction, which takes longer than the minutes that are read here. So a
process knows past commits at its first sample, and needs no record of its own.
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
_MOST_RECORDS = 50_000  # read at most from the end of a partition, which takes a second
_OFFSET_KEY_VERSIONS = (0, 1)  # other versions are keys of a group's members


class Commit(NamedTuple):
    """An offset that a group committed, and the time of the commit by the coordinator's clock."""

    time: datetime
    offset: int


class Commits(NamedTuple):
    """The commits of groups since a time, oldest first."""

    found: dict[tuple[str, TopicPartition], list[Commit]]
    whole: frozenset[str]  # groups whose commits are complete


def partition_of_group(group: str, partitions: int) -> int:
    """Return the partition of `__consumer_offsets` with a group's commits, by Java's hash of the group's name."""
    value = 0
    for unit in struct.unpack(f"<{len(group.encode('utf-16-le')) // 2}H", group.encode("utf-16-le")):
        value = (31 * value + unit) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >= 1 << 31 else value
    return (0 if signed == -(1 << 31) else abs(signed)) % partitions


async def read_commits(lookup: ClusterQueries, groups: Collection[str], since: datetime) -> Commits:
    """Return the commits of groups since a time. Without the right to read the topic, no group's commits are complete.

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
    """Return the group, the partition and the commit of a record; None if the record is no commit."""
    key, value = record.key, record.value
    if value is None or len(key) < 2 or struct.unpack_from(">h", key)[0] not in _OFFSET_KEY_VERSIONS:
        return None
    group, position = _text(key, 2)
    topic, position = _text(key, position)
    (partition,) = struct.unpack_from(">i", key, position)
    _, offset = struct.unpack_from(">hq", value)  # the begin of all versions
    return group, TopicPartition(topic, partition), Commit(nearest_instant(record.timestamp), offset)


def _text(data: bytes, position: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, position)
    begin = position + 2
    return data[begin : begin + size].decode(), begin + size
