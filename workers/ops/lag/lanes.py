"""What the books say of our own workers' lanes: how far each has read, of which topic, and why one does not go on."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

import asyncpg
from aiokafka import TopicPartition

from infra.clock import EARLIEST, utc_now
from infra.lock_holder import LockHolder
from infra.postgres import POSTGRES_ERRORS, Connection, connect_database
from infra.postgres_locks import LockMemory
from infra.retry import describe_error
from infra.settings import Settings
from infra.shards import Shard, read_shard
from workers.ops.lag.sampler import PartitionEnds
from workers.topology import TOPIC_OF_GROUP

__all__ = [
    "LaneKey",
    "LaneWatcher",
    "LanesSample",
    "NeighbourLane",
    "NoteKind",
    "NumberNote",
    "neighbour_of",
    "paused_reason",
]

_SECONDS = 5.0  # for an answer: lag is told also when the books are what is in trouble
_ROWS = (
    "select consumer_group, topic, partition, next_offset, as_of, head, waits_for, waits_since, paused, halted,"
    " topic_id, held from lanes"
)

_PARTITIONS = "select partitions from partitioning"

_MISPLACED_HOURS = 24  # a producer that was mended is not told of for longer
_MISPLACED = """
select
    topic, partition, sum(records)::bigint as records, string_agg(source, ', ' order by records desc, source) as sources
from misplaced_records
where last_at > $1
group by topic, partition
"""

LaneKey = tuple[str, TopicPartition]


class NoteKind(StrEnum):
    """Why the books of several servers do not tell of a number as those of one do."""

    AWAY = "away"  # the server that holds it, or may hold it, cannot be read
    MOVING = "moving"  # from server to server
    UNHELD = "unheld"  # no server holds it, or two do: nobody works it before an operator has done something


class NumberNote(NamedTuple):
    """What is to be said of the lanes of a number, where several servers hold the books."""

    kind: NoteKind
    text: str


class NeighbourLane(NamedTuple):
    """A lane's row."""

    next_offset: int
    as_of: datetime
    head: datetime | None
    waits_for: str | None  # a consumer group, where `waits`
    waits_since: datetime | None
    paused: str | None
    halted: str | None = None
    topic_id: UUID | None = None  # of the topic that it has read; None: not known yet
    held: str | None = None  # why it holds a record for an operator to decide
    misplaced: str = ""  # which sources sent it records of other partitions' accounts lately, in words

    @property
    def waits(self) -> bool:
        """Whether it has received a record and not decided it, since others have not read up to its time.

        It tells that record's time with the batch before, and for whom it waits once it has waited for a moment.
        """
        return self.head is not None and self.head > self.as_of and self.waits_for is not None


@dataclass(frozen=True, slots=True)
class LanesSample:
    """The rows of all lanes, and the ids that their topics have now."""

    rows: Mapping[LaneKey, NeighbourLane] = field(default_factory=dict)
    readable: bool = False  # whether the books could be asked
    topic_ids: Mapping[str, UUID] = field(default_factory=dict)
    notes: Mapping[int, NumberNote] = field(default_factory=dict)  # of numbers, where several servers hold the books

    def read_to(self, key: LaneKey) -> int | None:
        """Return the offset up to which the books have read a partition of ours; None where they do not tell."""
        if not self.readable or self._hides(key[1].partition) or TOPIC_OF_GROUP.get(key[0]) != key[1].topic:
            return None
        return self.rows[key].next_offset if key in self.rows and self.recreated(key) is None else 0

    def note(self, key: LaneKey, kind: NoteKind) -> str | None:
        """Return what is to be said of that kind of the number of a partition of ours."""
        note = self.notes.get(key[1].partition) if key[0] in TOPIC_OF_GROUP else None
        return None if note is None or note.kind is not kind else note.text

    def _hides(self, number: int) -> bool:
        return number in self.notes and self.notes[number].kind is not NoteKind.MOVING

    def recreated(self, key: LaneKey) -> str | None:
        """Return which topic the books have read, where it is not the one that is there now; None where it is."""
        row, now = self.rows.get(key), self.topic_ids.get(key[1].topic)
        if row is None or row.topic_id is None or now is None or row.topic_id == now:
            return None
        return (
            f"{key[1].topic} was deleted and created again: it has the id {now}, and the books have read the topic with"
            f" the id {row.topic_id} up to offset {row.next_offset:,}"
        )


class LaneWatcher:
    """Reads the rows of a server, over one connection that is made anew when it is lost.

    Args:
        settings: where the server is.
        locks: shared with others who ask the same server who holds locks.
        server: the server's name, where it is one of several; then it is asked what it holds, too.

    """

    def __init__(self, settings: Settings, locks: LockMemory | None = None, server: str = "") -> None:
        self._settings = settings
        self._server = server
        self._connection: Connection | None = None
        self._locks = locks or LockMemory()
        self.trouble: str | None = None  # why they could not be read the last time
        self.locks: tuple[LockHolder, ...] = ()  # who keeps something locked, the worst first
        self.statement: str | None = None  # of the ledger, which takes Postgres long, or that it takes none, in words
        self.shard: Shard | None = None  # of one of several: what it said the last time that it answered
        self.partitions: int | None = None  # and by how many its accounts are numbered
        self.notes: Mapping[int, NumberNote] = {}  # a server alone holds every number

    @property
    def is_readable(self) -> bool:
        """Whether the books could be read the last time."""
        return self.trouble is None

    def locks_of(self, _number: int) -> Sequence[LockHolder]:
        """Return who keeps something locked that the lanes of a number need, the worst first."""
        return self.locks

    def statement_of(self, _number: int) -> str | None:
        """Return what may keep the lanes of a number in Postgres, in words."""
        return self.statement

    async def read(self) -> dict[LaneKey, NeighbourLane]:
        """Return the lanes; none, and the trouble, where the books cannot be read."""
        self.trouble, self.locks, self.statement = None, (), None
        try:
            async with asyncio.timeout(_SECONDS):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await connect_database(self._settings)
                # First: whoever has locked the lanes' rows is told although they cannot be read.
                self.locks = tuple(
                    replace(each, server=self._server) if self._server else each
                    for each in await self._locks.read(self._connection)
                )
                self.statement = self._locks.statement
                if not self._server:
                    return await _read_rows(self._connection)
                async with self._connection.transaction(isolation="repeatable_read", readonly=True):
                    self.shard = await read_shard(self._connection)
                    self.partitions = await self._connection.fetchval(_PARTITIONS)
                    return await _read_rows(self._connection)
        except POSTGRES_ERRORS as error:
            why = describe_error(error)
            if isinstance(error, asyncpg.LockNotAvailableError) and self.locks:
                why = self.locks[0].text
            where = f" on {self._server}" if self._server else ""
            self.statement = f"the books{where} cannot be read ({why})"
            self.trouble = f"{self.statement}: no lane is told to pause or wait"
            await self.close()
            return {}

    def discard(self, why: str) -> None:
        """Treat the last look as one that could not be read."""
        self.trouble = self.statement = why
        self.locks, self.shard = (), None

    async def close(self) -> None:
        """Let the connection go, whatever state it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def _read_rows(connection: Connection) -> dict[LaneKey, NeighbourLane]:
    rows = await connection.fetch(_ROWS)
    since = utc_now() - timedelta(hours=_MISPLACED_HOURS)
    misplaced = {
        TopicPartition(row["topic"], row["partition"]): (
            f"{row['records']:,} records of other partitions' accounts came from {row['sources']}"
        )
        for row in await connection.fetch(_MISPLACED, since)
    }
    return {
        (row["consumer_group"], place): NeighbourLane(
            row["next_offset"] or 0,
            row["as_of"] or EARLIEST,
            row["head"],
            row["waits_for"],
            row["waits_since"],
            row["paused"],
            row["halted"],
            row["topic_id"],
            row["held"],
            misplaced.get(place, ""),
        )
        for row, place in ((row, TopicPartition(row["topic"], row["partition"])) for row in rows)
    }


def neighbour_of(
    key: LaneKey, lanes: Mapping[LaneKey, NeighbourLane], ends: Mapping[TopicPartition, PartitionEnds]
) -> str | None:
    """Return for whom a lane waits and since when, in words; None of one that does not wait."""
    lane = lanes.get(key)
    if lane is None or not lane.waits or lane.waits_for is None:
        return None
    place = TopicPartition(TOPIC_OF_GROUP.get(lane.waits_for, ""), key[1].partition)
    told = f"{lane.waits_for}, partition {place.partition}, since {lane.waits_since:%Y-%m-%d %H:%M:%S} UTC"
    if place not in ends:
        return told
    other = lanes.get((lane.waits_for, place))
    where = f"up to offset {other.next_offset:,}" if other is not None else "nothing"
    return f"{told}, which has read {where} of {ends[place].end:,}"


def paused_reason(key: LaneKey, rows: Mapping[LaneKey, NeighbourLane], members: int | None) -> str | None:
    """Return what the breaker said of a lane, or of another, where its end left the group without a member.

    Where there are members it is over: a mended worker, or one of a version that does not clear it, has the lane.
    """
    if members:
        return None
    if (own := rows.get(key)) is not None and own.paused is not None:
        return own.paused
    others = (
        f"in {other.topic}/{other.partition}: {row.paused}"
        for (group, other), row in sorted(rows.items())
        if group == key[0] and row.paused is not None
    )
    return next(others, None)
