"""In which order the lanes of one partition number decide: by the broker's time, whoever reads faster.

Three workers read three topics at their own pace, and move credits of the same accounts. For the same books to come of
the same input, however fast each was, a record of the time T is decided once the other lanes of its number have decided
all they have before it. At one instant billing comes first, then sends, then ticks (rule 16).

Another lane has come so far when its row says so; while it waits itself, the row tells the time of the record it waits
with. Or when it stands at the end of its partition, asked for after the record was received: what comes later is later.
Whoever comes first in this order waits for nobody, so that no two lanes wait for each other.

The wait for a lane is bounded. Beyond its limit a lane goes on, and at once where the other has ended, is busy with a
long tick, or has not moved since a wait for it was in vain; what is decided so is noted in `decided_ahead`. The order
is the brokers': where their clocks differ by more than a record takes to be read, a late record is noted there too.

A record of an account with another number than its partition's (its producer does not partition with murmur2) is
decided in the order of its account's number: its batch waits for the send and billing lanes of that number as well.
They do not wait for it in turn, since nobody knows where such a producer will have put its next record.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from time import monotonic
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from infra.clock import EARLIEST
from infra.kafka.clients import reader
from infra.postgres import Connection, Pool
from infra.settings import Settings
from workers.jobs.decoding import decision_time, latest_decision_time
from workers.jobs.record_times import TimePolicy
from workers.lane.inbox import Taken
from workers.lane.lane_row import LaneRow
from workers.topology import TOPIC_RANK

__all__ = ["Ahead", "Ends", "Order", "Turn", "note_ahead"]

_LOOK_SECONDS = 0.005  # between two looks at the other lanes' rows
_CLOSE_SECONDS = 2.0
_ALONE_SECONDS = 120.0  # an answer that does not come takes aiokafka 40
_FOREVER = datetime.max.replace(tzinfo=UTC)
_INSTANT = timedelta(milliseconds=1)  # the broker's clock tells no shorter one


class Ahead(NamedTuple):
    """A lane that records were decided without: its group, with its partition where that is another; where it stood."""

    neighbour: str
    offset: int


class Turn(NamedTuple):
    """How many of the records may be decided now, and which lanes they are then ahead of, or late for."""

    records: int
    ahead: Sequence[Ahead] = ()


class Ends:
    """Where the input topics end, asked for all lanes of a worker at once.

    Reads uncommitted, so that an open transaction counts as unread. One partition of which the brokers tell nothing
    keeps the answer for all: from then on, and for a while after the last such failure, each asks for its own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients = AsyncExitStack()
        self._places: set[TopicPartition] = set()  # to ask for next
        self._consumer: Any = None  # made when it is needed first
        self._asking: asyncio.Task[dict[TopicPartition, int]] | None = None
        self._next: asyncio.Task[dict[TopicPartition, int]] | None = None
        self._alone_until = 0.0

    async def end_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the ends as of a moment after the call. Who calls while others wait shares their answer.

        Raises:
            KafkaError: when the brokers do not tell, which may take 40 s. To go on without would lose the order at
                each restart of a broker; so who waits is held until they do, as for any trouble of Kafka's.

        """
        if monotonic() < self._alone_until:
            return await self._asked(places)
        self._places.update(places)
        if self._next is None:
            self._next = asyncio.create_task(self._ask_after(self._asking))
        return await asyncio.shield(self._next)

    async def aclose(self) -> None:
        """Let the connection go."""
        if asking := [each for each in (self._asking, self._next) if each is not None]:
            await asyncio.wait(asking, timeout=_CLOSE_SECONDS)
        await self._clients.aclose()

    async def _ask_after(self, before: "asyncio.Task[dict[TopicPartition, int]] | None") -> dict[TopicPartition, int]:
        if before is not None:
            await asyncio.wait([before])
        self._asking, self._next = self._next, None
        places, self._places = self._places, set()
        return await self._asked(places)

    async def _asked(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        consumer = self._consumer
        if consumer is None:
            consumer = self._consumer = await self._clients.enter_async_context(
                reader(self._settings, None, "read_uncommitted")
            )
        try:
            return dict(await consumer.end_offsets(places))
        except KafkaError:
            self._alone_until = monotonic() + _ALONE_SECONDS
            raise


class _Row(NamedTuple):
    """Another lane, as its row has it."""

    consumer_group: str
    topic: str
    partition: int
    offset: int
    as_of: datetime
    head: datetime | None
    awaited: bool

    def allows(self, topic: str, ends: dict[TopicPartition, int]) -> datetime:
        """Return the latest time of a topic's record that may be decided."""
        if self.offset >= ends[TopicPartition(self.topic, self.partition)]:
            return _FOREVER
        reached = self.as_of if self.head is None else max(self.head, self.as_of)
        return reached - _INSTANT if TOPIC_RANK[self.topic] < TOPIC_RANK[topic] else reached

    def passed(self, topic: str) -> datetime:
        """Return the latest time at which a topic's record is too late for it: decided before by this lane."""
        return self.as_of - _INSTANT if TOPIC_RANK[self.topic] < TOPIC_RANK[topic] else self.as_of


def _row_of(place: TopicPartition, row: Any) -> _Row:  # noqa: ANN401 - asyncpg's record, or none
    """Return a lane's row; of one that never ran, as if it had ended before it read anything."""
    if row is None:
        return _Row(f"whoever reads {place.topic}", place.topic, place.partition, 0, EARLIEST, None, awaited=False)
    as_of = row["as_of"] or EARLIEST
    return _Row(
        row["consumer_group"], place.topic, place.partition, row["next_offset"] or 0, as_of, row["head"], row["awaited"]
    )


_ROWS = """
select l.consumer_group, l.topic, l.partition, l.next_offset, l.as_of, l.head, l.awaited
from lanes as l
inner join unnest($1::text[], $2::integer[]) as u (topic, partition) using (topic, partition)
"""


class Order:
    """One lane's place among its neighbours."""

    def __init__(self, pool: Pool, ends: Ends, row: LaneRow, limit_seconds: float) -> None:
        """Take the pool, the topics' ends, the lane's row, and how long a record waits at most; 0: never."""
        self._pool = pool
        self._ends = ends
        self._row = row
        self._limit = limit_seconds
        self._neighbours = [TopicPartition(topic, row.partition) for topic in TOPIC_RANK if topic != row.topic]
        # By group and partition: rows that did not move while they were waited for.
        self._in_vain: dict[tuple[str, int], _Row] = {}

    async def turn(
        self,
        records: Sequence[ConsumerRecord],
        as_of: datetime,
        times: TimePolicy,
        stopping: Callable[[], bool],
        others: Sequence[TopicPartition] = (),
    ) -> Turn:
        """Wait until records may be decided, the first at least; return how many. None of them where a stop came first.

        Args:
            records: what the lane has received, in order.
            as_of: the time up to which it has decided: no record counts as older.
            times: whose word for a record's time is taken.
            stopping: whether it was told to stop.
            others: partitions of other numbers, whose lanes are waited for as well.

        """
        if not self._limit or not records:
            return Turn(len(records))
        places = [*self._neighbours, *others]
        first, last = decision_time(records[0], as_of, times), latest_decision_time(records, as_of, times)
        # At once, since each batch waits for both: a row older than the ends may only let less through.
        ends, rows = await asyncio.gather(self._ends.end_offsets(places), self._look(places))
        deadline = monotonic() + self._limit
        told = False
        while not stopping():
            allowed, ahead = self._judge(rows, ends, late=monotonic() > deadline)
            if first <= allowed:
                ahead += self._late(rows, first)
                count = len(records) if last <= allowed else bisect_right(_times(records, as_of, times), allowed)
                return Turn(count, tuple(dict.fromkeys(ahead)))
            if not told:
                await self._row.wait_with(first)
                told = True
            await asyncio.sleep(_LOOK_SECONDS)
            rows = await self._look(places)
        return Turn(0)

    def _judge(
        self, rows: Sequence[_Row], ends: dict[TopicPartition, int], *, late: bool
    ) -> tuple[datetime, list[Ahead]]:
        """Return up to which time records may be decided, and which lanes are not waited for."""
        allowed = _FOREVER
        ahead = []
        for row in rows:
            until = row.allows(self._row.topic, ends)
            if until == _FOREVER:
                continue
            if late:
                self._in_vain[row.consumer_group, row.partition] = row
            if not row.awaited or self._in_vain.get((row.consumer_group, row.partition)) == row:
                ahead.append(self._ahead_of(row))
            else:
                allowed = min(allowed, until)
        return allowed, ahead

    def _late(self, rows: Sequence[_Row], time: datetime) -> list[Ahead]:
        """Return the lanes of its number that have decided what comes after a record of this time.

        Those of other numbers have as a rule: they never waited for it.
        """
        own = [row for row in rows if row.partition == self._row.partition]
        return [self._ahead_of(row) for row in own if time <= row.passed(self._row.topic)]

    def _ahead_of(self, row: _Row) -> Ahead:
        number = "" if row.partition == self._row.partition else f"/{row.partition}"
        return Ahead(row.consumer_group + number, row.offset)

    async def _look(self, places: Sequence[TopicPartition]) -> list[_Row]:
        rows = await self._pool.fetch(_ROWS, [place.topic for place in places], [place.partition for place in places])
        found = {TopicPartition(row["topic"], row["partition"]): row for row in rows}
        return [_row_of(place, found.get(place)) for place in places]


def _times(records: Sequence[ConsumerRecord], as_of: datetime, times: TimePolicy) -> list[datetime]:
    return list(accumulate(records, lambda time, record: decision_time(record, time, times), initial=as_of))[1:]


async def note_ahead(  # noqa: PLR0913, PLR0917 - which records, ahead of which lanes, and how it is noted
    connection: Connection, row: LaneRow, ahead: Sequence[Ahead], taken: Taken, as_of: datetime, stored: int
) -> None:
    """Note, in the transaction that decides them, records that are ahead of other lanes, or late for them.

    Records before `stored` are only published again: what there was to note, was noted when they were decided.
    """
    first, end = max(taken.records[0].offset, stored), taken.records[-1].offset + 1
    if first >= end:
        return
    await connection.executemany(
        "insert into decided_ahead as d"
        " (consumer_group, partition, neighbour, neighbour_offset, first_offset, next_offset, as_of)"
        " values ($1, $2, $3, $4, $5, $6, $7) on conflict (consumer_group, partition, neighbour, neighbour_offset)"
        " do update set first_offset = least(d.first_offset, excluded.first_offset),"
        " next_offset = greatest(d.next_offset, excluded.next_offset), as_of = greatest(d.as_of, excluded.as_of)",
        [(row.group, row.partition, other, at, first, end, as_of) for other, at in ahead],
    )
