"""The audit: checks that the ledger is consistent, and shows where it is not."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from infra.postgres import Connection
from infra.settings import RecordTime, Settings
from workers.ops.books.snapshot import open_books

__all__ = ["Audit", "AuditExample", "BookTotals", "Finding", "audit", "audit_books"]

EXAMPLES = 20
_FILES = [Path(__file__).with_name(name) for name in ("audit_lots.sql", "audit_rows.sql")]
_HEAD = re.compile(r"^-- (\w+): (.+)\n", re.MULTILINE)
# Compares the times of two topics' records, which only the brokers' clocks make comparable.
_BY_BROKER_TIME = frozenset({"refusal_knew_its_grants"})
_QUERY_SECONDS = 3600.0  # an audit reads whole tables


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
class Audit:
    """The result of an audit of one snapshot of the database."""

    totals: BookTotals
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether the totals balance and no check fails."""
        return self.totals.balanced and not any(self.failures())

    def summary(self) -> dict[str, object]:
        """Return the result for JSON, the verdict first."""
        return {"passed": self.passed, "totals": self.totals, "checks": self.findings}

    def failures(self) -> Iterator[Finding]:
        """Yield the failed checks."""
        return (finding for finding in self.findings if finding.count)


class Check(NamedTuple):
    """An invariant, and the query for the rows that break it."""

    name: str
    promise: str
    sql: str


def _read_checks(file: Path) -> Iterator[Check]:
    _, *parts = _HEAD.split(file.read_text())
    return (Check(*part) for part in zip(parts[::3], parts[1::3], parts[2::3], strict=True))


CHECKS: Final = tuple(check for file in _FILES for check in _read_checks(file))

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
_PLANS = "set local work_mem = '64MB'; set local enable_nestloop = off"

# A row whose account is missing is shown with the account's number.
_WHERE = """
select count(*) over () as count, coalesce(a.account_id, '#' || x.account, '') as account, x.place, x.found
from ({}) as x (account, place, found)
left join accounts as a on a.account = x.account
order by x.account, x.place
limit {}
"""


async def audit(settings: Settings) -> Audit:
    """Audit one snapshot of the ledger's database, while the workers continue.

    Raises:
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    async with open_books(settings) as connection:
        return await audit_books(connection, broker_time=settings.topic_record_time is RecordTime.APPEND)


async def audit_books(connection: Connection, *, broker_time: bool = True) -> Audit:
    """Audit the ledger's database in the caller's transaction.

    Args:
        connection: in a transaction, so that all checks see one snapshot.
        broker_time: whether records have their broker's time: without it, checks that compare times are left out.

    """
    await connection.execute(_PLANS)
    totals = await connection.fetchrow(_TOTALS, timeout=_QUERY_SECONDS)
    assert totals is not None  # noqa: S101 - an aggregate returns its row
    findings = []
    for check in CHECKS:
        if check.name in _BY_BROKER_TIME and not broker_time:
            continue
        rows = await connection.fetch(_WHERE.format(check.sql.strip().rstrip(";"), EXAMPLES), timeout=_QUERY_SECONDS)
        examples = tuple(AuditExample(row["account"], row["place"], row["found"]) for row in rows)
        findings.append(Finding(check.name, check.promise, rows[0]["count"] if rows else 0, examples))
    return Audit(BookTotals(**totals), tuple(findings))
