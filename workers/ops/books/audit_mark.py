"""The mark up to which the ledger was audited: each account's newest row, and what its lots held."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Final, NamedTuple

from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.audit import QUERY_SECONDS, Audit
from workers.ops.books.snapshot import connect_to_books

__all__ = [
    "LOCK",
    "AuditUnderWayError",
    "Mark",
    "open_for_mark",
    "read_audited_at",
    "read_mark",
    "save_new_mark",
    "save_whole_mark",
]

# The first half of the lock's key: any constant that no other lock uses. The second is a hash of the schema.
LOCK: Final = 0x1E_D6E5

# Of which accounts, from which lots and rows, and when they were refused last.
_SAVE: Final = """
insert into audited_accounts as m (
    account, sequence, newest_lot, erased_at, refused_as_of, lots, remaining, announced
)
select a.account, a.sequence, a.newest_lot, a.erased_at, {refused}, coalesce(l.lots, '{{}}'),
    coalesce(l.remaining, '{{}}'), coalesce(l.announced, '{{}}')
from {accounts} as a
left join (
    select account, array_agg(lot order by lot) as lots, array_agg(remaining order by lot) as remaining,
        array_agg(cardinality(announced_ends) order by lot) as announced
    from {lots} where open group by account
) as l on a.account = l.account
left join (
    select account, max(as_of) as as_of from {rows} where code = 'insufficient_credits' group by account
) as r on a.account = r.account
on conflict (account) do update
set sequence = excluded.sequence, newest_lot = excluded.newest_lot, erased_at = excluded.erased_at,
    refused_as_of = excluded.refused_as_of, lots = excluded.lots, remaining = excluded.remaining,
    announced = excluded.announced
where m.* is distinct from excluded.*
"""
_SAVE_NEW: Final = _SAVE.format(
    refused="greatest(a.base_refused_as_of, r.as_of)", accounts="changed", lots="their_lots", rows="fresh"
)
_SAVE_WHOLE: Final = _SAVE.format(refused="r.as_of", accounts="accounts", lots="lots", rows="journal")
_SAVE_AUDIT: Final = """
insert into audits (kind, taken_at, whole_at, seconds, rows_read, as_of, tick_lanes, totals)
select $1, now(), coalesce($2, now()), $3, $4, (select min(l.as_of) from lanes as l),
    (
        select coalesce(jsonb_object_agg(l.partition, l.as_of), '{}') from lanes as l
        where l.consumer_group = 'inmail-expiry' and l.as_of is not null
    ), $5
"""


class AuditUnderWayError(Exception):
    """Another audit that moves the mark is under way. The message says what to do."""


class Mark(NamedTuple):
    """The newest audit that passed and moved the mark."""

    taken_at: datetime
    whole_at: datetime
    totals: dict[str, int]


@asynccontextmanager
async def open_for_mark(settings: Settings) -> AsyncIterator[Connection]:
    """Open a transaction with one snapshot that may write, the only one of its kind."""
    async with connect_to_books(settings) as connection:
        # Before the snapshot: it then has what the audit before wrote. Freed when the connection ends.
        if not await connection.fetchval("select pg_try_advisory_lock($1, hashtext(current_schema()))", LOCK):
            raise AuditUnderWayError("another audit that moves the mark is under way: wait for it, or stop it")
        async with connection.transaction(isolation="repeatable_read"):
            yield connection


async def read_mark(connection: Connection) -> Mark | None:
    """Return the newest audit that moved the mark; None if none ever did."""
    row = await connection.fetchrow("select taken_at, whole_at, totals from audits order by audit desc limit 1")
    return None if row is None else Mark(*row)


async def read_audited_at(connection: Connection) -> dict[str, float]:
    """Return when the newest whole audit with a mark, and the newest of any kind (`new`), were taken: Unix time."""
    row = await connection.fetchrow("select whole_at, taken_at from audits order by audit desc limit 1")
    return {} if row is None else {"whole": row["whole_at"].timestamp(), "new": row["taken_at"].timestamp()}


async def save_whole_mark(connection: Connection, found: Audit, seconds: float) -> None:
    """Set the mark where a whole audit that passed stands, in its own transaction."""
    await connection.execute(_SAVE_WHOLE, timeout=QUERY_SECONDS)
    await connection.execute(_SAVE_AUDIT, "whole", None, seconds, found.totals.rows, asdict(found.totals))


async def save_new_mark(
    connection: Connection, mark: Mark, rows: int, totals: Mapping[str, int], seconds: float
) -> None:
    """Move the mark over the rows that an audit of what is new read, in its own transaction."""
    await connection.execute(_SAVE_NEW, timeout=QUERY_SECONDS)
    await connection.execute(_SAVE_AUDIT, "new", mark.whole_at, seconds, rows, dict(totals))
