"""In which order the lanes of one partition number decide: by the broker's time, whoever reads faster.

Three workers read three topics at their own pace, and move credits of the same accounts. For the same books to come of
the same input, however fast each was, a record of the time T is decided once the other lanes of its number have decided
all they have before it. At one instant billing comes first, then sends, then ticks (rule 16).

Another lane has come so far when its row says so; while it waits itself, the row tells the time of the record it waits
with. Or when it stands at the end of its partition, asked for after the record was received: what comes later is later.
Whoever has nothing unread is waited for by nobody; whoever has is waited for, whether its process runs, restarts, was
killed or was never started (rule 21). Whoever comes first in this order waits for nobody, so that no two lanes wait for
each other: of the first records of all lanes, the one with the earliest time, and at one instant of the first topic, is
held up by none that has told its own.

The wait for a lane is bounded (INMAIL_ORDER_SECONDS). Beyond its limit a lane goes on, and at once while the other has
not moved since a wait for it was in vain. What is decided so is noted in `decided_ahead`, and what would be refused for
want of credit is not decided for good (`balance_not_current`). The order is the brokers': where their clocks differ by
more than a record takes to be read, a late record is noted there too.

A tick gives nobody a credit, and what it takes comes out the same without it (`apply_caps.sql`). So the expiry lane is
waited for only while it runs in time, and a moment at most: its lines then stand in the order of time.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import accumulate
from time import monotonic
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import committed_offsets, reader
from infra.postgres import Connection, Pool
from infra.settings import Settings
from workers.jobs.decoding import decision_time, latest_decision_time
from workers.lane.inbox import Taken
from workers.lane.lane_row import LaneRow
from workers.lane.neighbour import NO_LIMIT, Neighbour, read_neighbours
from workers.telemetry.health import LaneHealth
from workers.topology import TOPIC_RANK

__all__ = ["Ahead", "Ends", "Order", "Turn", "note_ahead"]

_LOOK_SECONDS = 0.005, 0.25  # between two looks at the other lanes' rows: at first, and at most
_TICK_SECONDS = 0.25  # for the expiry lane
_AWAY_SECONDS = 1.0  # a lane that runs has mostly read on by then
_STARTS_SECONDS = 60.0  # how long it is believed where a lane begins that has not read on
_CLOSE_SECONDS = 2.0
_ALONE_SECONDS = 120.0  # an answer that does not come takes aiokafka 40


class Ahead(NamedTuple):
    """A lane that records were decided without: its group, and where it stood."""

    neighbour: str
    offset: int


class Turn(NamedTuple):
    """How many of the records may be decided now, and which lanes they are then ahead of, or late for."""

    records: int
    ahead: Sequence[Ahead] = ()
    waited_for: str | None = None  # a group that has records unread that come before them and may give credits


class Ends:
    """Where the input topics end, asked for all lanes of a worker at once.

    Reads uncommitted, so that an open transaction counts as unread. One partition of which the brokers tell nothing
    keeps the answer for all: from then on, and for a while after the last such failure, each asks for its own.
    """

    def __init__(self, settings: Settings, admin: AIOKafkaAdminClient | None = None) -> None:
        """Take how to connect, and a client that is asked for groups' offsets: without it none has one."""
        self._settings = settings
        self._admin = admin
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

    async def start(self, group: str, place: TopicPartition, stored: int | None) -> int:
        """Return where a group begins that has stored so far: its offset where that is nothing, or the oldest record.

        Raises:
            KafkaError: when the brokers do not tell.

        """
        oldest = int((await (await self._client()).beginning_offsets([place]))[place])
        if stored is None and self._admin is not None:
            stored = (await committed_offsets(self._admin, group, [place]))[place]
        return max(stored or 0, oldest)

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
        try:
            return dict(await (await self._client()).end_offsets(places))
        except KafkaError:
            self._alone_until = monotonic() + _ALONE_SECONDS
            raise

    async def _client(self) -> Any:  # noqa: ANN401 - aiokafka is untyped
        if self._consumer is None:
            self._consumer = await self._clients.enter_async_context(reader(self._settings, None, "read_uncommitted"))
        return self._consumer


class Order:
    """One lane's place among its neighbours."""

    def __init__(self, pool: Pool, ends: Ends, row: LaneRow, limit_seconds: float, health: LaneHealth) -> None:
        """Take the pool, the topics' ends, the lane's row and health, and how long it waits at most; 0: never."""
        self._pool = pool
        self._ends = ends
        self._row = row
        self._limit = limit_seconds
        self._health = health
        self._places = [TopicPartition(topic, row.partition) for topic in TOPIC_RANK if topic != row.topic]
        self._in_vain: dict[str, Neighbour] = {}  # by group: rows that did not move while they were waited for
        self._starts: dict[TopicPartition, int] = {}
        self._starts_until = 0.0

    async def turn(self, records: Sequence[ConsumerRecord], as_of: datetime, stopping: Callable[[], bool]) -> Turn:
        """Wait until records may be decided, the first at least; return how many. None of them where a stop came first.

        Args:
            records: what the lane has received, in order.
            as_of: the time up to which it has decided: no record counts as older.
            stopping: whether it was told to stop.

        """
        if not self._limit or not records:
            return Turn(len(records))
        first, last = decision_time(records[0], as_of), latest_decision_time(records, as_of)
        # At once, since each batch waits for both: a row older than the ends may only let less through.
        ends, rows = await asyncio.gather(self._ends.end_offsets(self._places), self._look())
        began = monotonic()
        told: str | None = None
        try:
            while not stopping():
                held = [row for row in rows if self._allows(row, ends) < first]
                waited = monotonic() - began
                if monotonic() > self._starts_until and any(self._seems_away(row, waited) for row in held):
                    await self._ask_starts(held)
                    continue
                blocking = [row for row in held if not self._is_passed_over(row, waited)]
                if not blocking:
                    allowed = min((self._allows(row, ends) for row in rows if row not in held), default=NO_LIMIT)
                    count = len(records) if last <= allowed else bisect_right(_times(records, as_of), allowed)
                    return self._turn(count, first, held, rows)
                if told != blocking[0].consumer_group:
                    told = blocking[0].consumer_group
                    await self._row.wait_with(first, told)
                self._health.waits_for(told)
                await asyncio.sleep(min(max(_LOOK_SECONDS[0], waited / 20), _LOOK_SECONDS[1]))
                rows = await self._look()
        finally:
            self._health.waits_for(None)
        return Turn(0)

    def _turn(self, count: int, first: datetime, held: Sequence[Neighbour], rows: Sequence[Neighbour]) -> Turn:
        late = [row for row in rows if first <= row.passed(self._row.topic)]  # they have decided what comes after
        ahead = [Ahead(row.consumer_group, row.offset or 0) for row in (*held, *late)]
        unread = next((row.consumer_group for row in held if row.gives_credits), None)
        return Turn(count, tuple(dict.fromkeys(ahead)), unread)

    def _allows(self, row: Neighbour, ends: dict[TopicPartition, int]) -> datetime:
        return row.allows(self._row.topic, ends[row.place], self._starts.get(row.place, 0))

    def _is_passed_over(self, row: Neighbour, waited: float) -> bool:
        """Tell whether a lane that has records unread is waited for no longer."""
        if self._in_vain.get(row.consumer_group) == row or not (row.gives_credits or row.awaited):
            return True
        if waited <= (self._limit if row.gives_credits else min(self._limit, _TICK_SECONDS)):
            return False
        self._in_vain[row.consumer_group] = row
        return True

    def _seems_away(self, row: Neighbour, waited: float) -> bool:
        """Tell whether a lane may never have been started, or been away for longer than retention."""
        return row.offset is None or waited > _AWAY_SECONDS or row.consumer_group in self._in_vain

    async def _ask_starts(self, rows: Sequence[Neighbour]) -> None:
        """Ask where lanes begin that have not read on: those never started, or away for longer than retention."""
        for row in rows:
            self._starts[row.place] = await self._ends.start(row.consumer_group, row.place, row.offset)
        self._starts_until = monotonic() + _STARTS_SECONDS

    async def _look(self) -> list[Neighbour]:
        return await read_neighbours(self._pool, self._places)


def _times(records: Sequence[ConsumerRecord], as_of: datetime) -> list[datetime]:
    return list(accumulate(records, lambda time, record: decision_time(record, time), initial=as_of))[1:]


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
