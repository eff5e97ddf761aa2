"""The audit: do the books balance, and if not, where."""

from collections.abc import Iterator
from dataclasses import dataclass

from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books import open_books
from workers.ops.checks import CHECKS, TOTALS

__all__ = ["Audit", "Example", "Finding", "Totals", "audit", "audit_books"]

EXAMPLES = 20
_QUERY_SECONDS = 3600.0  # it reads everything there is


@dataclass(frozen=True, slots=True)
class Example:
    """One place where a check fails."""

    account: str
    place: str
    found: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check: nothing, or how often it fails and the first places."""

    name: str
    promise: str
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """The whole book, in credits but for the first three."""

    accounts: int
    lots: int
    rows: int
    granted: int
    spent: int
    expired: int
    remaining: int

    @property
    def balanced(self) -> bool:
        """Whether every credit that was granted is accounted for."""
        return self.granted == self.spent + self.expired + self.remaining


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found in one snapshot of the books."""

    totals: Totals
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.totals.balanced and not any(self.failures())

    def failures(self) -> Iterator[Finding]:
        """Yield the checks that fail."""
        return (finding for finding in self.findings if finding.count)


async def audit(settings: Settings) -> Audit:
    """Check the books as they are at one instant, while the workers go on.

    Raises:
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when it cannot be reached or refuses.

    """
    async with open_books(settings) as connection:
        return await audit_books(connection)


async def audit_books(connection: Connection) -> Audit:
    """Check the books in the caller's transaction."""
    totals = await connection.fetchrow(TOTALS, timeout=_QUERY_SECONDS)
    assert totals is not None  # noqa: S101 - an aggregate returns its row
    findings = []
    for check in CHECKS:
        rows = await connection.fetch(
            f"select count(*) over () as count, found.* from ({check.sql}) as found"  # noqa: S608 - our own text
            f" order by account, place limit {EXAMPLES}",
            timeout=_QUERY_SECONDS,
        )
        examples = tuple(Example(row["account"], row["place"], row["found"]) for row in rows)
        findings.append(Finding(check.name, check.promise, rows[0]["count"] if rows else 0, examples))
    return Audit(Totals(**totals), tuple(findings))
