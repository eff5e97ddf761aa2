"""Reads the three input topics of a partition number as one stream, in decision order."""

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.records import PartitionFetcher
from workers.jobs.decoding import decision_time
from workers.jobs.record_times import TimePolicy
from workers.topology import sort_key

__all__ = ["PartitionCursor", "TimedRecord", "read_in_time_order"]


class TimedRecord(NamedTuple):
    """A record and its decision time."""

    record: ConsumerRecord
    as_of: datetime


@dataclass(slots=True)
class PartitionCursor:
    """A cursor over one partition: the offsets [position, end), up to the first record at `until` or later."""

    place: TopicPartition
    position: int  # of the next record to fetch
    end: int
    as_of: datetime  # the latest broker time of the records before the position
    times: TimePolicy
    until: datetime | None = None
    waiting: deque[TimedRecord] = field(default_factory=deque)  # fetched and not yet yielded

    @property
    def is_fetched(self) -> bool:
        """Whether no record is left to fetch."""
        return self.position >= self.end

    def add(self, records: Sequence[ConsumerRecord], position: int) -> None:
        """Add fetched records up to the end, and move to a position."""
        for record in records:
            if record.offset >= self.end:
                break
            self.as_of = decision_time(record, self.as_of, self.times)
            if (
                self.until is not None and self.as_of >= self.until
            ):  # time never runs back, so no later record counts either
                position = self.end
                break
            self.waiting.append(TimedRecord(record, self.as_of))
        self.position = max(self.position, position)

    def next_sort_key(self) -> tuple[datetime, int]:
        """Return the sort key of the first waiting record."""
        return sort_key(self.place.topic, self.waiting[0].as_of)


async def read_in_time_order(
    consumer: AIOKafkaConsumer, cursors: Sequence[PartitionCursor]
) -> AsyncGenerator[TimedRecord, None]:
    """Yield the committed records of partitions in decision order; memory holds at most one fetch of each partition.

    The caller must not use the consumer meanwhile.

    Raises:
        KafkaError: when the cluster cannot be reached, or stopped answering before the end was read.

    """
    reading = [cursor for cursor in cursors if not cursor.is_fetched]
    if not reading:
        return
    consumer.assign([cursor.place for cursor in reading])
    for cursor in reading:
        consumer.seek(cursor.place, cursor.position)
    while True:
        await _fetch_waiting(consumer, [cursor for cursor in reading if not cursor.waiting])
        reading = [cursor for cursor in reading if cursor.waiting]
        if not reading:
            return
        yield min(reading, key=PartitionCursor.next_sort_key).waiting.popleft()


async def _fetch_waiting(consumer: AIOKafkaConsumer, cursors: Sequence[PartitionCursor]) -> None:
    """Fetch until each cursor has a waiting record or is at its end: only then the first record is known."""
    fetcher = PartitionFetcher(consumer)
    while lacking := [cursor for cursor in cursors if not (cursor.waiting or cursor.is_fetched)]:
        fetched = await fetcher.fetch({cursor.place: cursor.position for cursor in lacking})
        for cursor in lacking:
            cursor.add(*fetched[cursor.place])
