"""The credits of the whole book, read anew every minute: of the journal, all of it once, then what is new."""

from collections import Counter
from typing import Final, NamedTuple

from infra.postgres import Connection

__all__ = ["MOVEMENTS", "CreditReader", "CreditTotals"]

_QUERY_SECONDS = 3600.0  # the first time it reads the whole journal

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

_LANES = """
select
    case topic
        when 'inmail.send-requests' then 'send'
        when 'inmail.billing-events' then 'billing'
        when 'inmail.expiry-ticks' then 'expiry'
    end as worker,
    partition,
    coalesce(next_offset, 0) as next_offset
from lanes
"""

_ALL = "select code, abs(sum(amount))::bigint as credits from journal where amount <> 0 group by code"

# A lane's row moves in the transaction that stores the outcomes: what is new lies between where it stood and stands.
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

# The exception: a tick of several steps, whose lane moves with the last one.
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
    """All credits there ever were."""

    moved: dict[str, int]  # by movement
    remaining: int
    difference: int  # what is not accounted for: 0 in sound books


class CreditReader:
    """Reads the book's credits again and again, and remembers what it has read."""

    def __init__(self) -> None:
        self._sums: Counter[str] | None = None  # by code, of all rows before where each lane stood; None: not yet read
        self._read_to: dict[tuple[str, int], int] = {}

    async def read(self, connection: Connection) -> CreditTotals:
        """Return the credits in the caller's snapshot.

        A difference is only told after the whole journal was read: what was remembered could be at fault, where rows
        came in by another way than through a lane.
        """
        under_way = await _sums(connection, _UNDER_WAY)
        lots = await connection.fetchrow(_LOTS, timeout=_QUERY_SECONDS)
        assert lots is not None  # noqa: S101 - an aggregate returns its row
        stands = {(row["worker"], row["partition"]): row["next_offset"] for row in await connection.fetch(_LANES)}
        if self._sums is not None and all(stands.get(lane, -1) >= offset for lane, offset in self._read_to.items()):
            credits_ = _credits(await self._read_on(connection, stands) + under_way, *lots)
            if not credits_.difference:
                return credits_
        whole = await _sums(connection, _ALL)
        self._sums, self._read_to = whole - under_way, stands
        return _credits(whole, *lots)

    async def _read_on(self, connection: Connection, stands: dict[tuple[str, int], int]) -> "Counter[str]":
        new = [
            (*lane, self._read_to.get(lane, 0), stop)
            for lane, stop in stands.items()
            if stop > self._read_to.get(lane, 0)
        ]
        assert self._sums is not None  # noqa: S101 - only called then
        if new:
            self._sums += await _sums(connection, _NEW, *(list(column) for column in zip(*new, strict=True)))
        self._read_to = stands
        return self._sums


async def _sums(connection: Connection, query: str, *arguments: object) -> "Counter[str]":
    rows = await connection.fetch(query, *arguments, timeout=_QUERY_SECONDS)
    return Counter({row["code"]: row["credits"] for row in rows})


def _credits(sums: "Counter[str]", granted: int, remaining: int) -> CreditTotals:
    moved = dict.fromkeys(MOVEMENTS, 0)
    for code, credits_ in sums.items():
        moved[_MOVEMENT_OF[code]] += credits_
    gone = moved["spent"] - moved["reversed"] + moved["expired"] + moved["voided"] + moved["forfeited"]
    return CreditTotals(moved, remaining, granted - gone - remaining)
