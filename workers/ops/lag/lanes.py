"""What the books say of our own workers' lanes: how far each has read, of which topic, and why one does not go on."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
from aiokafka import TopicPartition

from infra.clock import EARLIEST
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from workers.ops.lag.sampler import PartitionEnds
from workers.topology import TOPIC_OF_GROUP

__all__ = ["LaneKey", "LaneWatcher", "LanesSample", "NeighbourLane", "neighbour_of"]

_SECONDS = 5.0  # for an answer: lag is told also when the books are what is in trouble
_ROWS = (
    "select consumer_group, topic, partition, next_offset, as_of, head, waits_for, waits_since, paused, halted,"
    " topic_id from lanes"
)

LaneKey = tuple[str, TopicPartition]


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

    @property
    def waits(self) -> bool:
        """Whether it has received a record and not decided it, since others have not read up to its time."""
        return self.head is not None and self.head > self.as_of


@dataclass(frozen=True, slots=True)
class LanesSample:
    """The rows of all lanes, and the ids that their topics have now."""

    rows: Mapping[LaneKey, NeighbourLane] = field(default_factory=dict)
    readable: bool = False  # whether the books could be asked
    topic_ids: Mapping[str, UUID] = field(default_factory=dict)

    def read_to(self, key: LaneKey) -> int | None:
        """Return the offset up to which the books have read a partition of ours; None where they do not tell."""
        if not self.readable or TOPIC_OF_GROUP.get(key[0]) != key[1].topic:
            return None
        return self.rows[key].next_offset if key in self.rows and self.recreated(key) is None else 0

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
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self.trouble = (
                f"the books cannot be read ({error or type(error).__name__}): no lane is told to pause or wait"
            )
            await self.close()
            return {}
        return {
            (row["consumer_group"], TopicPartition(row["topic"], row["partition"])): NeighbourLane(
                row["next_offset"] or 0,
                row["as_of"] or EARLIEST,
                row["head"],
                row["waits_for"],
                row["waits_since"],
                row["paused"],
                row["halted"],
                row["topic_id"],
            )
            for row in rows
        }

    async def close(self) -> None:
        """Let the connection go, whatever state it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def neighbour_of(
    key: LaneKey, lanes: Mapping[LaneKey, NeighbourLane], ends: Mapping[TopicPartition, PartitionEnds]
) -> str | None:
    """Return for whom a lane waits and since when, in words; None of one that does not wait."""
    lane = lanes.get(key)
    if lane is None or not lane.waits:
        return None
    if lane.waits_for is None or lane.waits_since is None:
        return "another lane of its number"
    place = TopicPartition(TOPIC_OF_GROUP.get(lane.waits_for, ""), key[1].partition)
    told = f"{lane.waits_for}, partition {place.partition}, since {lane.waits_since:%Y-%m-%d %H:%M:%S} UTC"
    if place not in ends:
        return told
    other = lanes.get((lane.waits_for, place))
    where = f"up to offset {other.next_offset:,}" if other is not None else "nothing"
    return f"{told}, which has read {where} of {ends[place].end:,}"
