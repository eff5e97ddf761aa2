"""The mark up to which the ledger was audited: each account's newest row, and what its lots held."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Final, NamedTuple

from infra.postgres import Connection
from infra.postgres_rights import require_privileges
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

_PRIVILEGES: Final = {"audits": ("select", "insert"), "audited_accounts": ("select", "insert", "update", "delete")}

# Of which accounts, from which lots and rows, and when they were refused last.
_SAVE: Final = """
insert into audited_accounts as m (
    account, sequence, newest_lot, erased_at, refused_as_of, lots, remaining, announced_lots, announced_ends,
    subscription_ends
)
select a.account, a.sequence, a.newest_lot, a.erased_at, {refused}, coalesce(l.lots, '{{}}'),
    coalesce(l.remaining, '{{}}'), coalesce(n.lots, '{{}}'), coalesce(n.ends, '{{}}'), coalesce(s.ends, '{{}}')
from {accounts} as a
left join (
    select account, array_agg(lot order by lot) as lots, array_agg(remaining order by lot) as remaining
    from {lots} where open group by account
) as l on a.account = l.account
left join (
    select x.account, array_agg(x.lot order by x.lot, x.told) as lots, array_agg(x.told order by x.lot, x.told) as ends
    from (select distinct account, lot, unnest(announced_ends) as told from {lots} where open) as x group by x.account
) as n on a.account = n.account
left join (
    select account, jsonb_object_agg(subscription_id, ends_at) as ends
    from {subscriptions} where ends_at is not null group by account
) as s on a.account = s.account
left join (
    select account, max(as_of) as as_of from {rows} where code = 'insufficient_credits' group by account
) as r on a.account = r.account
on conflict (account) do update
set sequence = excluded.sequence, newest_lot = excluded.newest_lot, erased_at = excluded.erased_at,
    refused_as_of = excluded.refused_as_of, lots = excluded.lots, remaining = excluded.remaining,
    announced_lots = excluded.announced_lots, announced_ends = excluded.announced_ends,
    subscription_ends = excluded.subscription_ends
where m.* is distinct from excluded.*
"""
_SAVE_NEW: Final = _SAVE.format(
    refused="greatest(a.base_refused_as_of, r.as_of)",
    accounts="changed",
    lots="their_lots",
    rows="fresh",
    subscriptions="their_subscriptions",
)
_SAVE_WHOLE: Final = _SAVE.format(
    refused="r.as_of", accounts="accounts", lots="lots", rows="journal", subscriptions="subscriptions"
)
# Accounts that are gone: a whole audit passed without them.
_FORGET: Final = """
delete from audited_accounts as m where not exists (select from accounts as a where a.account = m.account)
"""
_SAVE_AUDIT: Final = """
insert into audits (kind, taken_at, whole_at, seconds, rows_read, lanes, totals)
select $1, now(), coalesce($2, now()), $3, $4,
    (
        select coalesce(jsonb_agg(to_jsonb(x)), '[]')
        from (select l.consumer_group, l.partition, l.next_offset, l.topic_id, l.topic_since from lanes as l) as x
    ), $5
"""


class AuditUnderWayError(Exception):
    """Another audit that moves the mark, or a move of a number, is under way. The message says what to do."""


class Mark(NamedTuple):
    """The newest audit that passed and moved the mark."""

    taken_at: datetime
    whole_at: datetime
    totals: dict[str, int]


@asynccontextmanager
async def open_for_mark(settings: Settings) -> AsyncIterator[Connection]:
    """Open a transaction with one snapshot that may write, the only one of its kind.

    Raises:
        AuditUnderWayError: when another audit that moves the mark, or a move of a number, is under way.
        MissingPrivilegesError: when the user may not write the mark: told before hours of reading, not after them.

    """
    async with connect_to_books(settings) as connection:
        await require_privileges(connection, _PRIVILEGES, "Postgres", "write the audit's mark")
        # Before the snapshot: it then has what the audit before wrote. Freed when the connection ends.
        if not await connection.fetchval("select pg_try_advisory_lock($1, hashtext(current_schema()))", LOCK):
            raise AuditUnderWayError(
                "another audit that moves the mark is under way, or an `inmail shards` command: wait for it, or stop it"
            )
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
    await connection.execute(_FORGET, timeout=QUERY_SECONDS)
    await connection.execute(_SAVE_WHOLE, timeout=QUERY_SECONDS)
    await connection.execute(_SAVE_AUDIT, "whole", None, seconds, found.totals.rows, asdict(found.totals))


async def save_new_mark(
    connection: Connection, mark: Mark, rows: int, totals: Mapping[str, int], seconds: float
) -> None:
    """Move the mark over the rows that an audit of what is new read, in its own transaction."""
    await connection.execute(_SAVE_NEW, timeout=QUERY_SECONDS)
    await connection.execute(_SAVE_AUDIT, "new", mark.whole_at, seconds, rows, dict(totals))
