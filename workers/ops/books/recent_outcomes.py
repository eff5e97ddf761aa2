"""How far the books are, and what was decided last, at a cost that does not grow with the books."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from infra.postgres import Connection
from workers.ledger.model import ACCEPTED, Code
from workers.topology import WORKER_OF

__all__ = ["LaneProgress", "OutcomeCount", "read_lanes", "recent_outcomes"]


class LaneProgress(NamedTuple):
    """How far one lane's decisions are stored."""

    group: str
    topic: str
    partition: int
    next_offset: int | None
    as_of: datetime | None


@dataclass(frozen=True, slots=True)
class OutcomeCount:
    """How often a code is among the records decided last."""

    worker: str
    code: str
    count: int
    accepted: bool  # whether it says that what was asked for is done
    since: datetime  # broker time of the oldest and newest of them
    until: datetime


async def read_lanes(connection: Connection) -> list[LaneProgress]:
    """Return how far every lane is."""
    rows = await connection.fetch(
        "select consumer_group, topic, partition, next_offset, as_of from lanes order by 1, 2, 3"
    )
    return [LaneProgress(*row) for row in rows]


# Of each lane the rows of its last offsets, by the index on source: as many at most, however long the books are.
_RECENT: Final = """
select j.worker, j.code, count(*) as count, min(j.as_of) as since, max(j.as_of) as until
from lanes as l
join unnest($1::text[], $2::text[]) as w (topic, worker) using (topic)
cross join lateral (
    select x.worker, x.code, x.as_of
    from journal as x
    where x.source_partition = l.partition and x.source_offset >= l.next_offset - $3 and x.source_offset < l.next_offset
        and x.worker = w.worker and x.is_answer and x.as_of > l.topic_since
    limit $3
) as j
group by j.worker, j.code
order by j.worker, count(*) desc, j.code
"""


async def recent_outcomes(connection: Connection, records: int) -> list[OutcomeCount]:
    """Return the codes of the answers to the last records of every lane, the most frequent first.

    Args:
        connection: to the books.
        records: how many of each lane.

    """
    rows = await connection.fetch(_RECENT, list(WORKER_OF), [worker.value for worker in WORKER_OF.values()], records)
    return [
        OutcomeCount(
            row["worker"], row["code"], row["count"], Code(row["code"]) in ACCEPTED, row["since"], row["until"]
        )
        for row in rows
    ]
