"""The credits of the whole ledger: the first reading sums the whole journal, each later reading its new rows."""

from collections import Counter
from typing import Final, NamedTuple

from infra.postgres import Connection
from workers.ops.books.held_tables import held_tables
from workers.ops.books.lanes import read_lanes
from workers.ops.books.shards import ONE_SERVER, Holdings
from workers.topology import WORKER_OF

__all__ = ["MOVEMENTS", "CreditReader", "CreditTotals"]

_QUERY_SECONDS = 3600.0  # the first reading sums the whole journal

MOVEMENTS: Final = ("granted", "spent", "reversed", "expired", "voided", "forfeited")

_MOVEMENT_OF: Final = {
    "granted": "granted",
    "charged": "spent",
    "reversed": "reversed",
    "expired": "expired",
    "voided": "voided",
    "adjusted": "voided",
    "forfeited": "forfeited",
    "cap_forfeited": "forfeited",
}

_ALL = "select code, abs(sum(amount))::bigint as credits from journal where amount <> 0 group by code"

# A lane's row moves in the transaction that stores the outcomes: new rows are between its last and its current offset.
_NEW = """
select j.code, abs(sum(j.amount))::bigint as credits
from unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[]) as n (worker, partition, start, stop)
inner join journal as j
    on
        n.worker = j.worker
        and n.partition = j.source_partition
        and n.start <= j.source_offset
        and n.stop > j.source_offset
inner join lanes as l on l.consumer_group = 'inmail-' || n.worker and n.partition = l.partition
where j.amount <> 0 and j.as_of > l.topic_since
group by j.code
"""

# The exception: a tick of several steps, whose lane moves with the last step.
_UNDER_WAY = """
select j.code, abs(sum(j.amount))::bigint as credits
from lanes as l
inner join ticks as t
    on
        l.partition = t.partition
        and t.source_offset >= coalesce(l.next_offset, 0)
        and t.as_of > l.topic_since
inner join journal as j
    on t.partition = j.source_partition and t.source_offset = j.source_offset and j.as_of > l.topic_since
where l.topic = 'inmail.expiry-ticks' and j.worker = 'expiry' and j.amount <> 0
group by j.code
"""

_LOTS = """
select coalesce(sum(granted), 0)::bigint as granted, coalesce(sum(remaining), 0)::bigint as remaining
from lots
"""


class CreditTotals(NamedTuple):
    """The sums of all credits ever moved, and of those remaining."""

    moved: dict[str, int]  # by movement
    remaining: int
    difference: int  # credits not accounted for: 0 in a sound ledger


class CreditReader:
    """Reads the credit totals periodically, and remembers the sums of the rows read before."""

    def __init__(self) -> None:
        self._read_sums: Counter[str] | None = (
            None  # by code, of all rows before `_read_to`; None before the first reading
        )
        self._read_to: dict[tuple[str, int], int] = {}
        self._holdings = ONE_SERVER

    async def read(self, connection: Connection, holdings: Holdings = ONE_SERVER) -> CreditTotals:
        """Return the credit totals in the caller's snapshot, of the accounts that the server holds.

        If the totals differ, the whole journal is summed again before a difference is returned: the remembered sums are
        wrong if rows were inserted other than by a lane.
        """
        if holdings != self._holdings:  # accounts have come or gone, with rows of any age
            self._read_sums, self._holdings = None, holdings
        tables = await held_tables(connection, holdings.foreign)
        under_way = await _read_sums(connection, tables + _UNDER_WAY)
        lots = await _read_lots(connection, tables)
        offsets = {
            (WORKER_OF[lane.topic].value, lane.partition): lane.next_offset or 0
            for lane in await read_lanes(connection)
            if lane.topic in WORKER_OF
        }
        if self._read_sums is not None and all(
            offsets.get(lane, -1) >= offset for lane, offset in self._read_to.items()
        ):
            credits_ = _totals(await self._read_new_rows(connection, offsets, tables) + under_way, *lots)
            if not credits_.difference:
                return credits_
        whole = await _read_sums(connection, tables + _ALL)
        self._read_sums, self._read_to = whole - under_way, offsets
        return _totals(whole, *lots)

    async def _read_new_rows(
        self, connection: Connection, offsets: dict[tuple[str, int], int], tables: str
    ) -> "Counter[str]":
        new = [
            (*lane, self._read_to.get(lane, 0), stop)
            for lane, stop in offsets.items()
            if stop > self._read_to.get(lane, 0)
        ]
        assert self._read_sums is not None  # noqa: S101 - called only after the first reading
        if new:
            columns = (list(column) for column in zip(*new, strict=True))
            self._read_sums += await _read_sums(connection, tables + _NEW, *columns)
        self._read_to = offsets
        return self._read_sums


async def _read_lots(connection: Connection, tables: str) -> tuple[int, int]:
    lots = await connection.fetchrow(tables + _LOTS, timeout=_QUERY_SECONDS)
    assert lots is not None  # noqa: S101 - an aggregate returns its row
    return lots["granted"], lots["remaining"]


async def _read_sums(connection: Connection, query: str, *arguments: object) -> "Counter[str]":
    rows = await connection.fetch(query, *arguments, timeout=_QUERY_SECONDS)
    return Counter({row["code"]: row["credits"] for row in rows})


def _totals(sums: "Counter[str]", granted: int, remaining: int) -> CreditTotals:
    moved = dict.fromkeys(MOVEMENTS, 0)
    for code, credits_ in sums.items():
        moved[_MOVEMENT_OF[code]] += credits_
    gone = moved["spent"] - moved["reversed"] + moved["expired"] + moved["voided"] + moved["forfeited"]
    return CreditTotals(moved, remaining, granted - gone - remaining)
