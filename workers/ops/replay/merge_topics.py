"""Three topics read as one: the records of a partition's number, in the order in which they are to be decided."""

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.records import PartitionFetcher
from workers.jobs.decoding import decision_time
from workers.topology import sort_key

__all__ = ["PartitionCursor", "TimedRecord", "read_in_time_order"]


class TimedRecord(NamedTuple):
    """A record, and what it is decided as of."""

    record: ConsumerRecord
    as_of: datetime


@dataclass(slots=True)
class PartitionCursor:
    """What is to be read of one partition: the offsets [position, end), of times before `until`."""

    place: TopicPartition
    position: int  # of the next record to be fetched
    end: int
    as_of: datetime  # the latest broker time before the position; then that of the last record fetched
    until: datetime | None = None
    waiting: deque[TimedRecord] = field(default_factory=deque)  # fetched and not given out yet

    @property
    def is_fetched(self) -> bool:
        """Whether there is nothing more to fetch."""
        return self.position >= self.end

    def add(self, records: Sequence[ConsumerRecord], position: int) -> None:
        """Keep what was fetched, up to the end."""
        for record in records:
            if record.offset >= self.end:
                break
            self.as_of = decision_time(record, self.as_of)
            if self.until is not None and self.as_of >= self.until:  # time never runs back: nor does any after it
                position = self.end
                break
            self.waiting.append(TimedRecord(record, self.as_of))
        self.position = max(self.position, position)

    def next_sort_key(self) -> tuple[datetime, int]:
        """Return when it is the turn of the first record that waits."""
        return sort_key(self.place.topic, self.waiting[0].as_of)


async def read_in_time_order(
    consumer: AIOKafkaConsumer, cursors: Sequence[PartitionCursor]
) -> AsyncGenerator[TimedRecord, None]:
    """Yield the committed records of some partitions in the one order; a fetch of each is in memory at most.

    The consumer is this function's for as long as it runs.

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
    """Fetch until each of them has a record that waits, or is at its end: none can be given out before."""
    fetcher = PartitionFetcher(consumer)
    while lacking := [cursor for cursor in cursors if not (cursor.waiting or cursor.is_fetched)]:
        fetched = await fetcher.fetch({cursor.place: cursor.position for cursor in lacking})
        for cursor in lacking:
            cursor.add(*fetched[cursor.place])
