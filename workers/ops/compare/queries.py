"""The queries of a comparison: each section's lines in the order of their keys.

A line's first columns are its key, without account or lot numbers. Texts are ordered by their bytes, so that both
databases and Python agree.
"""

from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from workers.ledger.model import WorkerName
from workers.ops.compare.out_of_order import RecordRef

__all__ = ["ENTRIES_READ", "LOT_ARGUMENTS", "RANGE_ARGUMENTS", "SECTIONS", "LineKind"]

RANGE_ARGUMENTS: Final = ("workers", "partitions", "starts", "ends", "since", "until")
LOT_ARGUMENTS: Final = (*RANGE_ARGUMENTS, "whole")
_TICK_ARGUMENTS: Final = (*RANGE_ARGUMENTS, "ticks_from")


@dataclass(frozen=True, slots=True)
class LineKind:
    """One kind of line: a section of the comparison."""

    name: str
    one: str  # a noun for one line
    keys: int  # number of key columns
    place: tuple[str, ...]  # columns that show a reader where the line is
    kind: str  # column by which differences are grouped; may be empty
    only_whole: bool  # compared only if both ledgers have read the same records
    arguments: tuple[str, ...]  # of the query, by their names in CommonRange
    consequences: tuple[
        tuple[str, ...], ...
    ]  # groups of columns that follow from all other columns or an earlier group
    sql: str

    def key(self, line: asyncpg.Record | None) -> tuple[Any, ...]:
        """Return a line's key."""
        return () if line is None else tuple(line)[: self.keys]

    def source(self, line: asyncpg.Record) -> RecordRef | None:
        """Return the input record of a line; None for a state, which depends on many records."""
        match self.name:
            case "entries":
                return RecordRef(line["worker"], line["source_partition"], line["source_offset"])
            case "ticks":
                return RecordRef(WorkerName.EXPIRY.value, line["partition"], line["source_offset"])
            case _:
                return None

    def is_outcome(self, line: asyncpg.Record) -> bool:
        """Return whether a line answers a request, rather than being a movement that a request caused."""
        return self.name == "ticks" or (self.name == "entries" and not line["beside"])


# $1 to $4: workers, partitions, and the offsets [start, stop) that both have read. $5 and $6: broker times, or null.
ENTRIES_READ = """
    select j.*
    from journal as j
    inner join unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[]) as u (worker, partition, start, stop)
        on j.worker = u.worker and j.source_partition = u.partition
        and j.source_offset >= u.start and j.source_offset < u.stop
    left join lanes as n on n.consumer_group = 'inmail-' || u.worker and u.partition = n.partition
    where j.as_of > coalesce(n.topic_since, '-infinity') -- of the topic as it is, which is what both can read
        and ($5::timestamptz is null or j.as_of >= $5) and ($6::timestamptz is null or j.as_of < $6)
"""

# The key of an answer is its request; an answer that is not final stands beside it. The key of another movement adds
# its code and its lot.
_ENTRIES = f"""
select
    a.account_id, j.request_id, j.fingerprint, not j.is_answer as beside,
    case when j.is_answer and j.code <> 'balance_not_current' then '' else j.code end collate "C" as what,
    coalesce(case when not j.is_answer then l.request_id end, '00000000-0000-0000-0000-000000000000') as which,
    coalesce(case when not j.is_answer then l.granted_at end, timestamptz '2000-01-01 00:00Z') as lot_since,
    j.code, j.amount, l.request_id as lot_of, l.granted_at as lot_granted_at, j.lot_expires_at,
    j.balance_before, j.balance_after, j.as_of, j.worker, j.source_partition, j.source_offset, j.recipient_id,
    j.relationship, j.sender_id, j.next_allotment_at, j.details, j.sequence, j.reverses
from ({ENTRIES_READ}) as j
inner join accounts as a on j.account = a.account
left join lots as l on j.account = l.account and j.lot = l.lot
order by 1, 2, 3, 4, 5, 6, 7, j.sequence
"""  # noqa: S608 - a constant

# $7: whether to compare states. `period_end`, `withdrawn` and the changes of subscriptions are left out: a ledger
# written by an older version lacks them, and the decisions that depend on them are compared.
_LOTS = f"""
select
    a.account_id, l.request_id, l.granted_at,
    l.origin, l.subscription_id, l.plan, l.period_start, l.tops_up, l.priority, l.on_change, l.credit_back,
    l.balance_cap, l.granted, l.full_expires_at, m.moved as sum_of_entries,
    case when $7 then l.remaining end as remaining, case when $7 then l.expires_at end as expires_at,
    case when $7 then l.open end as open, case when $7 then l.freed end as freed,
    case when $7 then l.cap_pending end as cap_pending, case when $7 then l.warned end as warned,
    case when $7 then l.announced_ends end as announced_ends
from (
    select j.account, j.lot, sum(j.amount)::bigint as moved
    from ({ENTRIES_READ}) as j
    where j.lot is not null
    group by 1, 2
    having bool_or(j.code = 'granted')
) as m
inner join lots as l on m.account = l.account and m.lot = l.lot
inner join accounts as a on l.account = a.account
order by 1, 2, 3
"""  # noqa: S608 - a constant

# $7: from where on the live ledger has answers to ticks that booked nothing: `inmail prune` deletes earlier ones.
_TICKS = """
select
    t.partition, t.request_id, t.fingerprint,
    t.code, t.source_offset, t.as_of, t.horizon, t.lots, t.credits, t.complete
from ticks as t
inner join unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $7::bigint[]) as u (
    worker, partition, start, stop, ticks_from
)
    on u.worker = 'expiry' and t.partition = u.partition and t.source_offset >= u.start and t.source_offset < u.stop
left join lanes as n on n.consumer_group = 'inmail-expiry' and t.partition = n.partition
where t.as_of > coalesce(n.topic_since, '-infinity')
    and ($5::timestamptz is null or t.as_of >= $5) and ($6::timestamptz is null or t.as_of < $6)
    and (t.source_offset >= u.ticks_from or exists (
        select from journal as j
        where j.worker = 'expiry' and j.source_partition = t.partition and j.source_offset = t.source_offset
    ))
order by 1, 2, 3
"""

_ACCOUNTS = """
select a.account_id, a.partition, a.sequence, a.newest_lot, a.level, a.paid_from, a.paid, a.paid_before, a.erased_at
from accounts as a
order by 1
"""

_SUBSCRIPTIONS = """
select a.account_id, s.subscription_id, s.plan, s.credits, s.period_start, s.anchor_day, s.ends_at
from subscriptions as s
inner join accounts as a on s.account = a.account
order by 1, 2
"""

_OF_ENTRIES = (
    ("amount",),
    ("lot_of", "lot_granted_at"),
    ("lot_expires_at",),
    ("balance_before", "balance_after"),
    ("sequence", "reverses"),
)
_OF_LOTS = (
    ("expires_at",),
    ("sum_of_entries", "remaining"),
    ("open", "freed", "cap_pending", "warned", "announced_ends"),
)
_OF_ACCOUNTS = (("level",), ("paid_from", "paid", "paid_before"), ("sequence",))

SECTIONS: Final = (
    LineKind(
        "entries", "entry", 7, ("account_id", "request_id"), "code", False, RANGE_ARGUMENTS, _OF_ENTRIES, _ENTRIES
    ),
    LineKind(
        "lots", "lot", 3, ("account_id", "request_id", "granted_at"), "origin", False, LOT_ARGUMENTS, _OF_LOTS, _LOTS
    ),
    LineKind(
        "ticks", "tick", 3, ("partition", "request_id"), "code", False, _TICK_ARGUMENTS, (("lots", "credits"),), _TICKS
    ),
    LineKind("subscriptions", "subscription", 2, ("account_id", "subscription_id"), "", True, (), (), _SUBSCRIPTIONS),
    LineKind("accounts", "account", 1, ("account_id",), "", True, (), _OF_ACCOUNTS, _ACCOUNTS),
)
