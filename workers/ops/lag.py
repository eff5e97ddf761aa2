"""Lag: how far each worker's answers are behind its input, in records and in time."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from infra.clock import nearest_instant, utc_now
from infra.kafka import admin_client, partitions_of, reader
from infra.settings import Settings
from schemas.catalogue import CATALOGUE, INPUT_TOPICS
from workers.ops.records import partition_counts

__all__ = ["GroupLag", "PartitionLag", "read_lag"]

_PEEK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition as its group reads it. Offsets are those of the next record."""

    group: str
    topic: str
    partition: int
    committed: int | None  # None: the group never committed one here
    end: int
    records: int
    seconds: float  # age of the oldest unread record by broker time; 0 when there is none
    lost: int  # unread records that retention has taken
    held: int  # unread records that nobody can read before an open transaction of their producer's ends

    @property
    def note(self) -> str:
        """What is to be said of it besides the numbers, in a few words; empty when nothing is."""
        notes = ["never committed"] if self.committed is None else []
        if self.lost:
            notes.append(f"retention took {self.lost:,}")
        if self.held:
            notes.append(f"an open transaction holds {self.held:,} back")
        return ", ".join(notes)


@dataclass(frozen=True, slots=True)
class GroupLag:
    """A group's partitions taken together."""

    group: str
    topic: str
    partitions: tuple[PartitionLag, ...]

    @property
    def records(self) -> int:
        """Unread records in all partitions."""
        return sum(each.records for each in self.partitions)

    @property
    def held(self) -> int:
        """Unread records that open transactions of producers hold back, in all partitions."""
        return sum(each.held for each in self.partitions)

    @property
    def seconds(self) -> float:
        """Age of the oldest unread record of all partitions."""
        return max((each.seconds for each in self.partitions), default=0.0)

    @property
    def never_committed(self) -> bool:
        """Whether some partition was never started: no worker can open it."""
        return any(each.committed is None for each in self.partitions)

    def summary(self) -> dict[str, object]:
        """Return all of it for JSON, the totals first."""
        return {
            "group": self.group,
            "topic": self.topic,
            "records": self.records,
            "seconds": self.seconds,
            "held": self.held,
            "never_committed": self.never_committed,
            "partitions": self.partitions,
        }


async def read_lag(settings: Settings) -> list[GroupLag]:
    """Return the lag of every worker's group: against the end of all that was written, committed or not.

    Raises:
        NotSetUpError: when a topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    counts = await partition_counts(settings, INPUT_TOPICS)
    places = [place for topic, count in counts.items() for place in partitions_of(topic, count)]
    groups = {row.topic: row.group for row in CATALOGUE if row.group is not None}
    # Committed offsets first: the ends asked for afterwards are never below them.
    async with admin_client(settings) as admin:
        committed = {topic: await _committed(admin, groups[topic]) for topic in counts}
    async with reader(settings) as stable, reader(settings, isolation_level="read_uncommitted") as consumer:
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        readable = await stable.end_offsets(places)  # afterwards: what comes in between is not held back
        oldest = await consumer.beginning_offsets(places)
        starts = {place: max(committed[place.topic].get(place, 0), oldest[place]) for place in places}
        times = await _times(consumer, {place: starts[place] for place in places if starts[place] < ends[place]}, ends)
    now = utc_now()
    lags = []
    for topic, count in counts.items():
        partitions = []
        for place in partitions_of(topic, count):
            offset = committed[topic].get(place)
            start = oldest[place] if offset is None else offset
            unread = max(0, ends[place] - start)
            partitions.append(
                PartitionLag(
                    groups[topic],
                    topic,
                    place.partition,
                    offset,
                    ends[place],
                    unread,
                    max(0.0, (now - times[place]).total_seconds()) if place in times else 0.0,
                    0 if offset is None else max(0, oldest[place] - offset),
                    min(unread, max(0, ends[place] - readable[place])),
                )
            )
        lags.append(GroupLag(groups[topic], topic, tuple(partitions)))
    return lags


async def _committed(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, int]:
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    except GroupCoordinatorNotAvailableError:
        return {}  # a cluster in which no group ever committed has no coordinator yet
    return {place: entry.offset for place, entry in offsets.items() if entry.offset >= 0}


async def _times(
    consumer: AIOKafkaConsumer, starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> dict[TopicPartition, datetime]:
    """Return the broker's time of the first record at or after each offset."""
    for place, offset in starts.items():
        consumer.seek(place, offset)
    consumer.pause(*(place for place in consumer.assignment() if place not in starts))
    times: dict[TopicPartition, datetime] = {}
    unread = set(starts)
    deadline = asyncio.get_running_loop().time() + _PEEK_SECONDS
    while unread:
        fetched: dict[TopicPartition, Sequence[object]] = await consumer.getmany(*unread, timeout_ms=250)
        for place, records in fetched.items():
            if records:
                times[place] = nearest_instant(records[0].timestamp)  # type: ignore[attr-defined]
        for place in list(unread):
            if place in times or await consumer.position(place) >= ends[place]:
                unread.discard(place)
        if unread and asyncio.get_running_loop().time() > deadline:
            raise KafkaError(f"no record could be read from {len(unread)} partitions within {_PEEK_SECONDS:.0f} s")
    return times
