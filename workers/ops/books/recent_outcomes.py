"""The codes of the latest answers, at a cost that does not grow with the journal."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from infra.postgres import Connection
from workers.ledger.model import ACCEPTED, Code
from workers.ops.books.shards import ONE_SERVER, Holdings
from workers.topology import WORKER_OF

__all__ = ["OutcomeCount", "merge_outcomes", "recent_outcomes"]


@dataclass(frozen=True, slots=True)
class OutcomeCount:
    """How often a code occurs among the latest answers."""

    worker: str
    code: str
    count: int
    accepted: bool  # whether the code means that the request was carried out
    since: datetime  # broker time of the oldest and of the newest of these answers
    until: datetime


# The rows of each lane's last offsets, by the index on source: at most $3 rows a lane, however long the journal is.
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
where l.partition <> all($4::integer[])
group by j.worker, j.code
order by j.worker, count(*) desc, j.code
"""


async def recent_outcomes(connection: Connection, records: int, holdings: Holdings = ONE_SERVER) -> list[OutcomeCount]:
    """Return how often each code answered the last records of all lanes, by worker, the most frequent first.

    Args:
        connection: to a server.
        records: the number of records of each lane.
        holdings: what the server holds.

    """
    workers = [worker.value for worker in WORKER_OF.values()]
    rows = await connection.fetch(_RECENT, list(WORKER_OF), workers, records, holdings.foreign)
    return [
        OutcomeCount(
            row["worker"], row["code"], row["count"], Code(row["code"]) in ACCEPTED, row["since"], row["until"]
        )
        for row in rows
    ]


def merge_outcomes(servers: Iterable[list[OutcomeCount]]) -> list[OutcomeCount]:
    """Return what several servers told as one would have told it."""
    found: dict[tuple[str, str], OutcomeCount] = {}
    for each in (each for told in servers for each in told):
        before = found.get((each.worker, each.code), replace(each, count=0))
        found[each.worker, each.code] = replace(
            each,
            count=before.count + each.count,
            since=min(before.since, each.since),
            until=max(before.until, each.until),
        )
    return sorted(found.values(), key=lambda each: (each.worker, -each.count, each.code))
