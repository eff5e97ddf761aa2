"""How far each lane's clock has come, what it holds, and which credits lie between two times."""

from datetime import datetime
from typing import Any, NamedTuple

from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.shards import naming_server
from workers.ops.books.snapshot import open_books
from workers.ops.numbers import all_holdings
from workers.topology import WORKER_OF

__all__ = ["CreditsBetween", "LaneClock", "credits_between", "read_clocks", "read_lane_clocks"]

_CLOCKS = (
    "select topic, partition, as_of, next_offset, case when held is not null then held_offset end as held_offset,"
    " case when held is not null then held_time end as held_time"
    " from lanes where topic = any($1) order by topic, partition"
)
_BETWEEN = """
select
    count(*) filter (where l.open) as lots,
    coalesce(sum(l.remaining) filter (where l.open), 0) as credits
from lots as l
where l.partition = $1 and l.open and l.expires_at > $2 and l.expires_at <= $3
"""


class LaneClock(NamedTuple):
    """One lane's clock."""

    topic: str
    partition: int
    as_of: datetime | None  # its watermark; None: it has decided nothing
    next_offset: int | None
    held_offset: int | None  # of the record that it holds
    held_time: datetime | None

    @property
    def worker(self) -> str:
        """The worker whose lane it is."""
        return WORKER_OF[self.topic].value

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"worker": self.worker, **self._asdict()}


class CreditsBetween(NamedTuple):
    """Open lots of a number that end between two times, and what remains on them."""

    lots: int
    credits: int


async def read_clocks(settings: Settings) -> list[LaneClock]:
    """Return the clock of every lane.

    Raises:
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when it cannot be reached or refuses.

    """
    found = []
    for server, holdings in await all_holdings(settings):
        with naming_server(server):
            async with open_books(server) as connection:
                lanes = await read_lane_clocks(connection)
        found += [each for each in lanes if holdings.has_number(each.partition)]
    return sorted(found, key=lambda each: (each.topic, each.partition))


async def read_lane_clocks(connection: Connection) -> list[LaneClock]:
    """Return the clock of every lane, as an open connection sees them."""
    return [LaneClock(*row) for row in await connection.fetch(_CLOCKS, list(WORKER_OF))]


async def credits_between(connection: Connection, partition: int, after: datetime, to: datetime) -> CreditsBetween:
    """Return the open lots of a number that end after one time and no later than another."""
    row = await connection.fetchrow(_BETWEEN, partition, after, to)
    return CreditsBetween(row["lots"], row["credits"]) if row is not None else CreditsBetween(0, 0)
