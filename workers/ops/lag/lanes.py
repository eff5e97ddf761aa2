"""What our own workers say of their lanes in the books: the breaker ended one, or one waits for another."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg
from aiokafka import TopicPartition

from infra.clock import EARLIEST, utc_now
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from workers.ops.lag.sampler import PartitionEnds
from workers.topology import TOPIC_RANK

__all__ = ["LaneKey", "LaneWatcher", "NeighbourLane", "neighbour_of"]

_SECONDS = 5.0  # for an answer: lag is told also when the books are what is in trouble
_ROWS = "select consumer_group, topic, partition, next_offset, as_of, head, awaited, paused, held from lanes"

_MISPLACED_HOURS = 24  # a producer that was mended is not told of for longer
_MISPLACED = """
select
    topic, partition, sum(records)::bigint as records, string_agg(source, ', ' order by records desc, source) as sources
from misplaced_records
where last_at > $1
group by topic, partition
"""

LaneKey = tuple[str, TopicPartition]


class NeighbourLane(NamedTuple):
    """A lane's row."""

    next_offset: int
    as_of: datetime
    head: datetime | None
    awaited: bool
    paused: str | None
    held: str | None = None  # why it holds a record for an operator to decide
    misplaced: str = ""  # which sources sent it records of other partitions' accounts lately, in words

    @property
    def waits(self) -> bool:
        """Whether it has received a record and not decided it, since others have not read up to its time."""
        return self.head is not None and self.head > self.as_of


class LaneWatcher:
    """Reads the rows, over one connection that is made anew when it is lost."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Connection | None = None
        self.trouble: str | None = None  # why they could not be read the last time

    async def read(self) -> dict[LaneKey, NeighbourLane]:
        """Return the lanes; none, and the trouble, where the books cannot be read."""
        self.trouble = None
        try:
            async with asyncio.timeout(_SECONDS):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await connect_database(self._settings)
                rows = await self._connection.fetch(_ROWS)
                since = utc_now() - timedelta(hours=_MISPLACED_HOURS)
                misplaced = {
                    TopicPartition(row["topic"], row["partition"]): (
                        f"{row['records']:,} records of other partitions' accounts came from {row['sources']}"
                    )
                    for row in await self._connection.fetch(_MISPLACED, since)
                }
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self.trouble = (
                f"the books cannot be read ({error or type(error).__name__}): no lane is told to pause or wait"
            )
            await self.close()
            return {}
        return {
            (row["consumer_group"], place): NeighbourLane(
                row["next_offset"] or 0,
                row["as_of"] or EARLIEST,
                row["head"],
                row["awaited"],
                row["paused"],
                row["held"],
                misplaced.get(place, ""),
            )
            for row, place in ((row, TopicPartition(row["topic"], row["partition"])) for row in rows)
        }

    async def close(self) -> None:
        """Let the connection go, whatever state it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def neighbour_of(
    key: LaneKey, lanes: Mapping[LaneKey, NeighbourLane], ends: Mapping[TopicPartition, PartitionEnds]
) -> str | None:
    """Return for whom a lane waits, in words; None of one that does not wait, or for nobody that is still behind it."""
    lane = lanes.get(key)
    if lane is None or lane.head is None or not lane.waits:
        return None
    for (group, place), other in lanes.items():
        if place.partition != key[1].partition or place.topic == key[1].topic or place.topic not in TOPIC_RANK:
            continue
        reached = other.as_of if other.head is None else max(other.head, other.as_of)
        unread = place in ends and other.next_offset < ends[place].end
        if other.awaited and reached <= lane.head and unread:
            return f"{group}, which has read {place.topic}/{place.partition} up to offset {other.next_offset:,}"
    return "another lane of its number"
