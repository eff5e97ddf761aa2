"""The audit of what is new: it reads the rows after the mark of the last audit that passed, and moves the mark.

The mark has the sequence of each account, and what its lots held. Rows after it are checked against it; an account on
which something may be wrong is then audited whole, so that a finding here is one of the whole audit, word for word;
but for `audit_of_mark.sql`, whose findings only a mark can show.
Rows before the mark are not read: a fault that somebody puts into them later is the whole audit's to find.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Final

from infra.postgres import Connection
from infra.settings import RecordTime, Settings
from workers.ops.books.audit import (
    CHECKS,
    MEMORY_PLANS,
    QUERY_SECONDS,
    Audit,
    AuditedPart,
    BookTotals,
    Check,
    Finding,
    Report,
    audit_books,
    read_checks,
    run_checks,
)
from workers.ops.books.audit_mark import open_for_mark, read_mark, save_new_mark, save_whole_mark
from workers.ops.books.held_tables import read_held_tables

__all__ = ["audit_and_mark", "audit_new", "audit_new_books"]

_LOOKUP_PLANS = (
    "set local enable_nestloop = on; set local enable_hashjoin = off; set local enable_mergejoin = off;"
    " set local enable_seqscan = off"
)
_SCAN_PLANS = (
    "set local enable_nestloop = off; set local enable_hashjoin = on; set local enable_mergejoin = on;"
    " set local enable_seqscan = on"
)
_MANY = 20  # where one row in so many is new, reading the journal whole is cheaper than looking up

# Checks of the whole audit that need no older row: they are asked of the new rows, and of all lots of their accounts.
_AS_THEY_ARE: Final = frozenset(
    {
        "lot_is_as_granted",
        "lot_lives_as_granted",
        "lot_in_range",
        "closed_lot_is_empty",
        "freed_lot_never_began",
        "period_has_one_lot",
        "lot_ends_with_its_subscription",
        "lots_are_numbered",
        "lot_has_its_account",
        "erased_account_holds_nothing",
        "row_has_its_lot",
        "charge_takes_one_credit",
        "row_moves_as_its_code",
        "row_answers_as_its_code",
        "row_is_within_its_lot",
        "balance_adds_up",
        "refused_send_had_nothing",
        "balance_is_carried",
        "balance_is_its_lots",
        "refusal_knew_its_grants",
        "movement_has_its_cause",
    }
)
# Of ticks and lanes, which belong to no account: they are asked of what is new, and their findings stand.
_OF_NO_ACCOUNT: Final = frozenset({"tick_is_its_lines", "row_was_read"})
_OF_NEW_ACCOUNTS: Final = frozenset({"account_has_its_number"})
_BY_NAME: Final = {check.name: check for check in CHECKS}
_SCREEN: Final = tuple(read_checks("audit_screen.sql"))
_OF_THE_MARK: Final = tuple(read_checks("audit_of_mark.sql"))
_LOOKUPS: Final = tuple(read_checks("audit_lookups.sql"))

_FILL: Final = Path(__file__).with_name("audit_fill.sql").read_text()
_ROWS: Final = (
    "create temp table fresh as select j.* from journal as j inner join changed as c on j.account = c.account"
)
_TEMPORARY: Final = (
    "changed",
    "fresh",
    "their_lots",
    "their_subscriptions",
    "base_lots",
    "base_ends",
    "named_ticks",
    "suspects",
)

_CHANGED_TABLES: Final = """
with journal as (select * from fresh),
lots as (select * from their_lots),
accounts as (select a.* from accounts as a inner join changed as c on a.account = c.account),
subscriptions as (select s.* from subscriptions as s inner join changed as c on s.account = c.account),
ticks as (select * from named_ticks)
"""
_NEW_ACCOUNTS: Final = (
    "with accounts as (select a.* from accounts as a inner join changed as c on a.account = c.account where c.is_new)"
)
# What is known of the suspects, once in tables of their own: each of the checks joins it in other ways.
_SUSPECTS: Final = Path(__file__).with_name("audit_suspects.sql").read_text()
_SUSPECT_NAMES: Final = ("suspect_rows", "suspect_lots", "suspect_accounts", "suspect_subscriptions", "suspect_ticks")
_SUSPECT_TABLES: Final = """
with journal as (select * from suspect_rows),
lots as (select * from suspect_lots),
accounts as (select * from suspect_accounts),
subscriptions as (select * from suspect_subscriptions),
ticks as (select * from suspect_ticks)
"""
# Of ticks since the mark: by the offsets at which their lanes stood then, all where the topic is another since. Their
# rows by their places, also those that a step before the mark wrote.
_TICK_TABLES: Final = """
with begins as (
    select l.partition, max(case when l.topic_since = m.topic_since and l.topic_id is not distinct from m.topic_id
        then least(m.next_offset, l.next_offset) else 0 end) as first_offset
    from lanes as l
    left join (
        select x.* from (select a.lanes from audits as a order by a.audit desc limit 1) as a
        cross join jsonb_to_recordset(a.lanes) as x (
            consumer_group text, partition integer, next_offset bigint, topic_id uuid, topic_since timestamptz
        )
    ) as m on l.consumer_group = m.consumer_group and l.partition = m.partition
    where l.consumer_group = 'inmail-expiry'
    group by l.partition
),
ticks as materialized (
    select t.* from begins as b
    cross join lateral (
        select x.* from ticks as x
        where x.partition = b.partition and x.source_offset >= coalesce(b.first_offset, 0)
        offset 0
    ) as t
),
journal as materialized (
    select j.* from ticks as t
    cross join lateral (
        select x.* from journal as x
        where x.source_partition = t.partition and x.source_offset = t.source_offset and x.worker = 'expiry'
        offset 0
    ) as j
)
"""
_NEW_ROWS: Final = "with journal as (select * from fresh)"

_TOTALS: Final = """
select
    (select count(*) from accounts) as accounts,
    count(*) filter (where l.lot > c.base_newest_lot) as lots,
    (select count(*) from fresh) as rows,
    coalesce(sum(l.granted) filter (where l.lot > c.base_newest_lot), 0)::bigint as granted,
    j.spent, j.reversed, j.expired, j.voided, j.forfeited,
    (coalesce(sum(l.remaining), 0) - (select coalesce(sum(b.remaining), 0) from base_lots as b))::bigint as remaining
from their_lots as l
inner join changed as c on l.account = c.account
right join (
    select
        coalesce(-sum(amount) filter (where code = 'charged'), 0)::bigint as spent,
        coalesce(sum(amount) filter (where code = 'reversed'), 0)::bigint as reversed,
        coalesce(-sum(amount) filter (where code = 'expired'), 0)::bigint as expired,
        coalesce(-sum(amount) filter (where code in ('voided', 'adjusted')), 0)::bigint as voided,
        coalesce(-sum(amount) filter (where code in ('forfeited', 'cap_forfeited')), 0)::bigint as forfeited
    from fresh
) as j on true
group by j.spent, j.reversed, j.expired, j.voided, j.forfeited
"""


async def audit_and_mark(settings: Settings, report: Report | None = None) -> Audit:
    """Audit the whole ledger; if it passes, the next audit of what is new begins here.

    Raises:
        AuditUnderWayError: when another audit that moves the mark is under way.
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    began = monotonic()
    async with open_for_mark(settings) as connection:
        held = await read_held_tables(connection, settings)
        found = await audit_books(connection, held, broker_time=_by_broker(settings), report=report)
        if found.passed and not held.sql:  # copies are deleted sooner or later, and a mark would miss them then
            await save_whole_mark(connection, found, monotonic() - began)
    return found


async def audit_new(settings: Settings, report: Report | None = None) -> Audit:
    """Audit what is new since the last audit that passed and set a mark, and move the mark if this one passes.

    Where there is no mark, it audits the whole ledger.

    Raises:
        AuditUnderWayError: when another audit that moves the mark is under way.
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    async with open_for_mark(settings) as connection:
        held = await read_held_tables(connection, settings)
        if await read_mark(connection) is not None and not held.sql:
            found = await audit_new_books(connection, broker_time=_by_broker(settings), report=report)
            return replace(found, holdings=held.holdings)
    return await audit_and_mark(settings, report)


def _by_broker(settings: Settings) -> bool:
    return settings.topic_record_time is RecordTime.APPEND


async def audit_new_books(connection: Connection, *, broker_time: bool = True, report: Report | None = None) -> Audit:
    """Audit what is new in the caller's transaction, and move the mark if it passes.

    Args:
        connection: in a transaction that may write, and whose queries see one snapshot. There is a mark.
        broker_time: whether records have their broker's time: without it, checks that compare times are left out.
        report: called before each step.

    """
    began = monotonic()
    mark = await read_mark(connection)
    assert mark is not None  # noqa: S101 - the caller has seen it
    await _fill(connection)
    await _find_suspects(connection, report, broker_time=broker_time)
    rows, accounts, examined = await connection.fetchrow(
        "select (select count(*) from fresh), (select count(*) from changed), (select count(*) from suspects)"
    )  # type: ignore[misc] # an aggregate returns its row
    found = {each.name: each for each in await run_checks(connection, _OF_THE_MARK)}
    if examined:
        for each in await _examine(connection, report, many=examined * _MANY > accounts, broker_time=broker_time):
            found[each.name] = each
    await connection.execute(_LOOKUP_PLANS)
    of_ticks = await run_checks(connection, [_BY_NAME["tick_is_its_lines"]], _TICK_TABLES)
    await connection.execute(_SCAN_PLANS)
    for each in (*of_ticks, *await run_checks(connection, [_BY_NAME["row_was_read"]], _NEW_ROWS)):
        found[each.name] = each
    none = {check.name: Finding(check.name, check.promise, 0, ()) for check in (*CHECKS, *_OF_THE_MARK)}
    new = await connection.fetchrow(_TOTALS, timeout=QUERY_SECONDS)
    assert new is not None  # noqa: S101 - an aggregate returns its row
    totals = {name: count + mark.totals[name] for name, count in new.items()} | {"accounts": new["accounts"]}
    part = AuditedPart(mark.taken_at, mark.whole_at, rows, accounts, examined)
    result = Audit(BookTotals(**totals), tuple((none | found).values()), part)
    if result.passed:
        await save_new_mark(connection, mark, rows, totals, monotonic() - began)
    await connection.execute(f"drop table {', '.join(_TEMPORARY)}")
    return result


async def _examine(
    connection: Connection, report: Report | None, *, many: bool, broker_time: bool
) -> tuple[Finding, ...]:
    """Return what the whole audit's checks find of the accounts on which something may be wrong."""
    plans = _SCAN_PLANS if many else _LOOKUP_PLANS
    await connection.execute(f"{plans}; {_SUSPECTS} {_SCAN_PLANS}", timeout=QUERY_SECONDS)
    checks = [check for check in CHECKS if check.name not in _OF_NO_ACCOUNT]
    found = await run_checks(connection, checks, _SUSPECT_TABLES, broker_time=broker_time, report=report)
    await connection.execute(f"drop table {', '.join(_SUSPECT_NAMES)}")
    return found


async def _fill(connection: Connection) -> None:
    """Make the temporary tables of the accounts that changed, their new rows and their lots."""
    before, after = _FILL.split("-- then\n")
    await connection.execute(MEMORY_PLANS)
    await connection.execute(_SCAN_PLANS + ";" + before, timeout=QUERY_SECONDS)
    rows, all_rows = await connection.fetchrow(
        "select coalesce(sum(greatest(sequence - base_sequence, 0)), 0), (select greatest(reltuples, 0) from pg_class"
        " where oid = 'journal'::regclass) from changed"
    )  # type: ignore[misc] # an aggregate returns its row
    plans = _SCAN_PLANS if rows * _MANY > all_rows else _LOOKUP_PLANS
    await connection.execute(f"{plans}; {_ROWS} and j.sequence > c.base_sequence; {after}", timeout=QUERY_SECONDS)


async def _find_suspects(connection: Connection, report: Report | None, *, broker_time: bool) -> None:
    """Note the accounts on which something may be wrong."""
    steps: list[tuple[str, str, Iterable[Check]]] = [
        (_SCAN_PLANS, _CHANGED_TABLES, [check for check in CHECKS if check.name in _AS_THEY_ARE]),
        (_SCAN_PLANS, _NEW_ACCOUNTS, [check for check in CHECKS if check.name in _OF_NEW_ACCOUNTS]),
        (_SCAN_PLANS, "", _SCREEN),
        (_LOOKUP_PLANS, "", _LOOKUPS),
    ]
    count = sum(len(list(checks)) for _, _, checks in steps)
    done = 0
    for plans, tables, checks in steps:
        await connection.execute(plans)
        for check in checks:
            if report is not None:
                report(done, count, check.name)
            done += 1
            if check.name == "refusal_knew_its_grants" and not broker_time:
                continue
            await connection.execute(
                f"{tables} insert into suspects select distinct x.account from ({check.sql}) as x (account)"  # noqa: S608 - ours
                " where x.account is not null on conflict do nothing",
                timeout=QUERY_SECONDS,
            )
