"""How far each lane has decided its input: the rows of `lanes`, for the operators' questions."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from aiokafka import TopicPartition

from infra.postgres import Connection
from workers.topology import last_owner

__all__ = ["LaneProgress", "last_owners", "next_offsets", "read_lanes"]


class LaneProgress(NamedTuple):
    """How far one lane's decisions are stored."""

    group: str
    topic: str
    partition: int
    next_offset: int | None  # of the first record without a stored decision; None: nothing is stored
    as_of: datetime | None  # the lane's watermark
    published: int | None = None  # up to here its results are published, as its owner has noted; None: nothing is noted
    topic_id: UUID | None = None  # Kafka's, of the topic that the offsets are of; None: unknown


async def read_lanes(connection: Connection) -> list[LaneProgress]:
    """Return the progress of every lane, by group, topic and partition."""
    rows = await connection.fetch(
        "select consumer_group, topic, partition, next_offset, as_of, least(published, next_offset), topic_id"
        " from lanes order by 1, 2, 3"
    )
    return [LaneProgress(*row) for row in rows]


async def last_owners(connection: Connection, group: str) -> set[str]:
    """Return the stems of the transactional ids under which owners of a group's lanes may publish still."""
    rows = await connection.fetch(
        "select topic, partition, epoch, owner, owner_epoch from lanes where consumer_group = $1", group
    )
    owners = {last_owner(group, TopicPartition(*row[:2]), *row[2:]) for row in map(tuple, rows)}
    return {owner for owner in owners if owner is not None}


async def next_offsets(connection: Connection) -> dict[TopicPartition, int]:
    """Return the next offset to decide of each input partition with stored decisions."""
    return {
        TopicPartition(lane.topic, lane.partition): lane.next_offset
        for lane in await read_lanes(connection)
        if lane.next_offset is not None
    }
