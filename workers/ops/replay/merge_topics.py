"""Three topics read as one: the records of a partition's number, in the order in which they are to be decided."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError
from aiokafka.structs import ConsumerRecord

from workers.jobs.decoding import decision_time
from workers.jobs.record_times import TimePolicy
from workers.topology import sort_key

__all__ = ["PartitionCursor", "TimedRecord", "read_in_time_order"]

_POLL_MILLISECONDS = 250
_STALLED_SECONDS = 30.0


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
    times: TimePolicy
    until: datetime | None = None
    waiting: deque[TimedRecord] = field(default_factory=deque)  # fetched and not given out yet

    @property
    def is_fetched(self) -> bool:
        """Whether there is nothing more to fetch."""
        return self.position >= self.end

    def take(self, records: Sequence[ConsumerRecord], position: int) -> None:
        """Keep what was fetched, up to the end."""
        for record in records:
            if record.offset >= self.end:
                break
            self.as_of = decision_time(record, self.as_of, self.times)
            if self.until is not None and self.as_of >= self.until:  # time never runs back: nor does any after it
                position = self.end
                break
            self.waiting.append(TimedRecord(record, self.as_of))
        self.position = max(self.position, position)

    def next_turn(self) -> tuple[datetime, int]:
        """Return when it is the turn of the first record that waits."""
        return sort_key(self.place.topic, self.waiting[0].as_of)


async def read_in_time_order(
    consumer: AIOKafkaConsumer, sources: Sequence[PartitionCursor]
) -> AsyncGenerator[TimedRecord, None]:
    """Yield the committed records of some partitions in the one order; a fetch of each is in memory at most.

    The consumer is this function's for as long as it runs.

    Raises:
        KafkaError: when the cluster cannot be reached, or stopped answering before the end was read.

    """
    reading = [source for source in sources if not source.is_fetched]
    if not reading:
        return
    consumer.assign([source.place for source in reading])
    for source in reading:
        consumer.seek(source.place, source.position)
    while True:
        await _fetch(consumer, [source for source in reading if not source.waiting])
        reading = [source for source in reading if source.waiting]
        if not reading:
            return
        yield min(reading, key=PartitionCursor.next_turn).waiting.popleft()


async def _fetch(consumer: AIOKafkaConsumer, sources: Sequence[PartitionCursor]) -> None:
    """Fetch until each of them has a record that waits, or is at its end: none can be given out before."""
    clock = asyncio.get_running_loop().time
    moved_at = clock()
    while lacking := [source for source in sources if not (source.waiting or source.is_fetched)]:
        fetched = await consumer.getmany(*(source.place for source in lacking), timeout_ms=_POLL_MILLISECONDS)
        for source in lacking:
            before = source.position
            # Not the last record's offset: a transaction's marker has one too, and may come last.
            source.take(fetched.get(source.place, ()), await consumer.position(source.place))
            if source.position != before:
                moved_at = clock()
        if clock() - moved_at > _STALLED_SECONDS:
            raise KafkaTimeoutError(f"nothing could be read for {_STALLED_SECONDS:.0f} s")
