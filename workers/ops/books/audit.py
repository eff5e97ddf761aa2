"""The audit: checks that the ledger is consistent, and shows where it is not."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from infra.postgres import Connection
from infra.settings import RecordTime, Settings
from workers.ops.books.held_tables import ALL_TABLES, HeldTables, read_held_tables
from workers.ops.books.shards import ONE_SERVER, Holdings
from workers.ops.books.snapshot import open_books

__all__ = [
    "CHECKS",
    "MEMORY_PLANS",
    "QUERY_SECONDS",
    "Audit",
    "AuditExample",
    "AuditedPart",
    "BookTotals",
    "Check",
    "Finding",
    "Report",
    "audit",
    "audit_books",
    "read_checks",
    "run_checks",
]

EXAMPLES = 20
_FILES = ("audit_lots.sql", "audit_rows.sql")
_HEAD = re.compile(r"^-- (\w+): (.+)\n", re.MULTILINE)
# Compares the times of two topics' records, which only the brokers' clocks make comparable.
_BY_BROKER_TIME = frozenset({"refusal_knew_its_grants"})
QUERY_SECONDS: Final = 4 * 3600.0  # an audit reads whole tables

Report = Callable[[int, int, str], None]  # checks done, of how many, and the next one's name


@dataclass(frozen=True, slots=True)
class AuditExample:
    """One row for which a check fails."""

    account: str
    place: str
    found: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: the number of failures and the first examples."""

    name: str
    promise: str
    count: int
    examples: tuple[AuditExample, ...]


@dataclass(frozen=True, slots=True)
class BookTotals:
    """The totals of the whole ledger: the numbers of accounts, lots and rows, then credits."""

    accounts: int
    lots: int
    rows: int
    granted: int
    spent: int
    reversed: int
    expired: int
    voided: int  # adjustments downward included
    forfeited: int  # by a plan change or a cap
    remaining: int

    @property
    def balanced(self) -> bool:
        """Whether every granted credit is accounted for."""
        gone = self.spent - self.reversed + self.expired + self.voided + self.forfeited
        return self.granted == gone + self.remaining


@dataclass(frozen=True, slots=True)
class AuditedPart:
    """What an audit of what is new read."""

    since: datetime  # when the audit before took its snapshot
    whole_at: datetime  # when the last whole audit did
    rows: int  # of the journal
    accounts: int  # that have such rows, or are new
    examined: int  # accounts of these that were audited whole, because something on them may have been wrong


@dataclass(frozen=True, slots=True)
class Audit:
    """The result of an audit of one snapshot of the database."""

    totals: BookTotals
    findings: tuple[Finding, ...]
    new: AuditedPart | None = None  # None: the whole ledger was read
    holdings: Holdings = ONE_SERVER  # of the server, in the snapshot that was audited

    @property
    def passed(self) -> bool:
        """Whether the totals balance and no check fails."""
        return self.totals.balanced and not any(self.failures())

    def summary(self) -> dict[str, object]:
        """Return the result for JSON, the verdict first."""
        return {"passed": self.passed, "new": self.new, "totals": self.totals, "checks": self.findings}

    def failures(self) -> Iterator[Finding]:
        """Yield the failed checks."""
        return (finding for finding in self.findings if finding.count)


class Check(NamedTuple):
    """An invariant, and the query for the rows that break it."""

    name: str
    promise: str
    sql: str


def read_checks(file: str) -> Iterator[Check]:
    """Yield the checks of a file beside this one: each has a line with its name and its promise above its query."""
    _, *parts = _HEAD.split(Path(__file__).with_name(file).read_text())
    return (
        Check(name, promise, sql.strip().rstrip(";"))
        for name, promise, sql in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    )


CHECKS: Final = tuple(check for file in _FILES for check in read_checks(file))

# The totals of the whole ledger.
_TOTALS = """
select
    (select count(*) from accounts) as accounts,
    l.lots,
    j.rows,
    l.granted,
    j.spent,
    j.reversed,
    j.expired,
    j.voided,
    j.forfeited,
    l.remaining
from (
    select count(*) as lots, coalesce(sum(granted), 0)::bigint as granted,
        coalesce(sum(remaining), 0)::bigint as remaining
    from lots
) as l
cross join (
    select
        count(*) as rows,
        coalesce(-sum(amount) filter (where code = 'charged'), 0)::bigint as spent,
        coalesce(sum(amount) filter (where code = 'reversed'), 0)::bigint as reversed,
        coalesce(-sum(amount) filter (where code = 'expired'), 0)::bigint as expired,
        coalesce(-sum(amount) filter (where code in ('voided', 'adjusted')), 0)::bigint as voided,
        coalesce(-sum(amount) filter (where code in ('forfeited', 'cap_forfeited')), 0)::bigint as forfeited
    from journal
) as j
"""

# Every check reads whole tables: hash joins in memory, no lookups row by row, also where the tables have grown since
# their statistics were collected.
MEMORY_PLANS: Final = "set local work_mem = '64MB'; set local enable_nestloop = off"

# A row whose account is missing is shown with the account's number.
_WHERE = """
{} select count(*) over () as count, coalesce(a.account_id, '#' || x.account, '') as account, x.place, x.found
from ({}) as x (account, place, found)
left join accounts as a on a.account = x.account
order by x.account, x.place
limit {}
"""


async def audit(settings: Settings, report: Report | None = None) -> Audit:
    """Audit one snapshot of one server's database, while the workers continue.

    Raises:
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    async with open_books(settings) as connection:
        by_broker = settings.topic_record_time is RecordTime.APPEND
        held = await read_held_tables(connection, settings)
        return await audit_books(connection, held, broker_time=by_broker, report=report)


async def audit_books(
    connection: Connection, held: HeldTables = ALL_TABLES, *, broker_time: bool = True, report: Report | None = None
) -> Audit:
    """Audit the ledger's database in the caller's transaction.

    Args:
        connection: in a transaction, so that all checks see one snapshot.
        held: what counts of the tables.
        broker_time: whether records have their broker's time: without it, checks that compare times are left out.
        report: called before each check.

    """
    await connection.execute(MEMORY_PLANS)
    totals = await connection.fetchrow(held.sql + _TOTALS, timeout=QUERY_SECONDS)
    assert totals is not None  # noqa: S101 - an aggregate returns its row
    findings = await run_checks(connection, CHECKS, held.sql, broker_time=broker_time, report=report)
    return Audit(BookTotals(**totals), findings, holdings=held.holdings)


async def run_checks(
    connection: Connection,
    checks: Iterable[Check],
    tables: str = "",
    *,
    broker_time: bool = True,
    report: Report | None = None,
) -> tuple[Finding, ...]:
    """Return what checks find.

    Args:
        connection: in a transaction, so that all checks see one snapshot.
        checks: to run.
        tables: a WITH clause, whose queries stand for the tables of their names in the checks.
        broker_time: whether records have their broker's time: without it, checks that compare times are left out.
        report: called before each check.

    """
    findings = []
    due = [check for check in checks if broker_time or check.name not in _BY_BROKER_TIME]
    for number, check in enumerate(due):
        if report is not None:
            report(number, len(due), check.name)
        rows = await connection.fetch(_WHERE.format(tables, check.sql, EXAMPLES), timeout=QUERY_SECONDS)
        examples = tuple(AuditExample(row["account"], row["place"], row["found"]) for row in rows)
        findings.append(Finding(check.name, check.promise, rows[0]["count"] if rows else 0, examples))
    return tuple(findings)
