"""Whose word for a record's time is taken: the broker's, except where a setting takes the producers'.

A lane's clock never runs back, so one record of a far time would end every lot of its partition. Two kinds of record
move no clock and become dead letters: one that carries its producer's time where the broker's counts, and one whose
time was so far ahead that an operator has set it aside.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.clock import from_milliseconds
from infra.postgres import Connection, Pool
from infra.settings import RecordTime
from schemas.catalogue import Undecodable
from schemas.dead_letters import DeadLetterReason

__all__ = ["SetAside", "TimePolicy", "read_set_backs", "read_time_policy"]

_TIMESTAMPS = range(946_684_800_000, 7_258_118_400_000)  # milliseconds of the years 2000 to 2199
# Not those of a topic that has ended: its offsets are others.
_SET_BACKS = """
select s.topic, s.partition, s.next_offset
from clock_set_backs as s
where not exists (
    select from ended_topics as e
    where
        e.consumer_group = s.consumer_group and e.topic = s.topic and e.partition = s.partition
        and e.ended_at > s.set_back_at
)
order by s.next_offset
"""
_PRODUCERS, _BROKERS = 0, 1  # whose time it is, in a record's words: CreateTime, LogAppendTime


class SetAside(NamedTuple):
    """Records that an operator has set aside: those of a range whose time is after an instant."""

    first_offset: int
    next_offset: int
    after: datetime


@dataclass(frozen=True, slots=True)
class TimePolicy:
    """Whose word for a record's time is taken in one partition.

    The setting tells, not the topic: a topic that was altered is what this guards against. A record that came in while
    it was keeps its producer's time for good.
    """

    record_time: RecordTime
    set_aside: tuple[SetAside, ...] = ()

    def refusal(self, record: ConsumerRecord) -> Undecodable | None:
        """Return why a record's time is not taken; None where it is."""
        if record.timestamp not in _TIMESTAMPS:
            return Undecodable(
                DeadLetterReason.INVALID_EVENT,
                f"record timestamp: expected milliseconds of the years 2000 to 2199, got {record.timestamp}",
            )
        if record.timestamp_type == _PRODUCERS and self.record_time is RecordTime.APPEND:
            return Undecodable(
                DeadLetterReason.PRODUCER_TIME,
                f"record timestamp: expected the broker's (LogAppendTime), got the producer's,"
                f" {from_milliseconds(record.timestamp):%Y-%m-%dT%H:%M:%SZ}: the topic had another"
                " message.timestamp.type when it came; sent back, it gets the broker's",
            )
        if self.set_aside and self._is_set_aside(record):
            return Undecodable(
                DeadLetterReason.TIME_FAR_AHEAD,
                f"record timestamp: {from_milliseconds(record.timestamp):%Y-%m-%dT%H:%M:%SZ} was far ahead, and an"
                " operator has set it aside (`inmail operations list`)",
            )
        return None

    def _is_set_aside(self, record: ConsumerRecord) -> bool:
        time = from_milliseconds(record.timestamp)
        return any(
            each.first_offset <= record.offset < each.next_offset and time > each.after for each in self.set_aside
        )

    def timestamps(self, records: Sequence[ConsumerRecord]) -> list[int]:
        """Return the times that are taken, in milliseconds, in order."""
        if self.set_aside:
            return [record.timestamp for record in records if self.refusal(record) is None]
        least = _BROKERS if self.record_time is RecordTime.APPEND else _PRODUCERS
        return [each.timestamp for each in records if each.timestamp_type >= least and each.timestamp in _TIMESTAMPS]


async def read_time_policy(books: Connection | Pool, record_time: RecordTime, place: TopicPartition) -> TimePolicy:
    """Return the policy for a partition, with what operators have set aside there.

    Raises:
        OSError, asyncpg.PostgresError: when the books cannot be read.

    """
    rows = await books.fetch(
        "select first_offset, next_offset, time from clock_decisions"
        " where topic = $1 and partition = $2 and kind = 'set_aside' order by decision",
        place.topic,
        place.partition,
    )
    return TimePolicy(record_time, tuple(SetAside(*row) for row in rows))


async def read_set_backs(books: Connection | Pool) -> Mapping[TopicPartition, Sequence[int]]:
    """Return where operators have set clocks back, by partition: the offsets from which on the earlier time holds.

    Raises:
        OSError, asyncpg.PostgresError: when the books cannot be read.

    """
    found = defaultdict(list)
    for topic, partition, offset in await books.fetch(_SET_BACKS):
        found[TopicPartition(topic, partition)].append(offset)
    return found
