"""The audit of books that several servers hold: each audited in turn, and one report of all.

Each server is read as of a moment of its own. So a number may have moved meanwhile, or be on its way: one that was
counted by no server, or by two, is told.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from infra.settings import Settings
from infra.shards import number_ranges, settings_of_shards
from workers.ops.books.audit import Audit, AuditExample, BookTotals, Finding, Report
from workers.ops.books.audit_mark import AuditUnderWayError
from workers.ops.books.shards import NotHeldError, ServerError, check_servers, naming_server, server_name

__all__ = ["BooksAudit", "FoundExample", "ServerAudit", "audit_each_server"]

OneAudit = Callable[[Settings, Report | None], Awaitable[Audit]]


class FoundExample(NamedTuple):
    """One row for which a check fails, and the server that has it."""

    server: str
    example: AuditExample


@dataclass(frozen=True, slots=True)
class ServerAudit:
    """The audit of one server, or the error because of which it was not audited."""

    server: str
    audit: Audit | None = None
    error: ServerError | None = None


@dataclass(frozen=True, slots=True)
class BooksAudit:
    """The audits of all servers."""

    servers: tuple[ServerAudit, ...]

    @property
    def audits(self) -> list[tuple[str, Audit]]:
        """The audits of the servers that answered, with the servers' names."""
        return [(each.server, each.audit) for each in self.servers if each.audit is not None]

    @property
    def errors(self) -> list[ServerError]:
        """Why servers were not audited."""
        return [each.error for each in self.servers if each.error is not None]

    @property
    def uncounted(self) -> list[int]:
        """The numbers that no server counted, though all were audited."""
        return [] if self.errors else [number for number, count in self._counts() if not count]

    @property
    def counted_twice(self) -> list[int]:
        """The numbers that more than one server counted."""
        return [number for number, count in self._counts() if count > 1]

    @property
    def problems(self) -> list[Exception]:
        """Why this is no audit of the whole: servers that were not audited, and numbers that were not counted once."""
        told = ((self.uncounted, "no server"), (self.counted_twice, "more than one server"))
        wrong = [
            NotHeldError(
                f"partition numbers {number_ranges(numbers)} were counted by {who}: a move is on its way (`inmail"
                " shards list` names it; the same `inmail shards move` finishes it), or was done meanwhile: run this"
                " command again"
            )
            for numbers, who in told
            if numbers
        ]
        return [*self.errors, *wrong]

    def _counts(self) -> list[tuple[int, int]]:
        """Return each number, and how many servers counted it."""
        held = [audit.holdings for _, audit in self.audits]
        partitions = max((each.partitions or 0 for each in held), default=0)
        return [(number, sum(each.has_number(number) for each in held)) for number in range(partitions)]

    @property
    def balances(self) -> bool:
        """Whether all that was audited passes."""
        return all(audit.passed for _, audit in self.audits)

    @property
    def totals(self) -> BookTotals:
        """The totals of all servers that were audited."""
        names = [field.name for field in fields(BookTotals)]
        return BookTotals(**{name: sum(getattr(each.totals, name) for _, each in self.audits) for name in names})

    def findings(self) -> list[tuple[Finding, list[FoundExample]]]:
        """Return each check with its failures on all servers, and their examples by server."""
        found: dict[str, tuple[Finding, list[FoundExample]]] = {}
        for server, audit in self.audits:
            for each in audit.findings:
                before, examples = found.get(each.name, (Finding(each.name, each.promise, 0, ()), []))
                examples += [FoundExample(server, example) for example in each.examples]
                found[each.name] = Finding(each.name, each.promise, before.count + each.count, ()), examples
        return list(found.values())

    def summary(self) -> dict[str, Any]:
        """Return the result for JSON, with the members of one server's; beside them, what each server's is."""
        checks = [
            {"name": finding.name, "promise": finding.promise, "count": finding.count}
            | {"examples": [{"server": server} | asdict(example) for server, example in examples]}
            for finding, examples in self.findings()
        ]
        servers = [
            {"server": each.server, "not_audited": None if each.error is None else str(each.error)}
            | (
                {"passed": None, "new": None, "totals": None}
                if each.audit is None
                else {"passed": each.audit.passed, "new": each.audit.new, "totals": each.audit.totals}
            )
            for each in self.servers
        ]
        numbers = {"not_counted": self.uncounted, "counted_twice": self.counted_twice}
        passed = self.balances and not self.problems
        return {"passed": passed, "new": None, "totals": self.totals, "checks": checks, "servers": servers} | numbers


async def audit_each_server(settings: Settings, run: OneAudit, report: Report | None = None) -> BooksAudit:
    """Audit every server in turn; one that does not answer keeps none of the others.

    Raises:
        RepeatedServerError: when two URLs lead to one server; before anything is audited.

    Args:
        settings: which servers there are.
        run: audits one.
        report: called before each check, with the checks of all servers.

    """
    await check_servers(settings)
    servers = settings_of_shards(settings)
    audits = []
    for number, server in enumerate(servers):

        def report_all(done: int, count: int, name: str, number: int = number) -> None:
            if report is not None:
                report(number * count + done, len(servers) * count, name)

        try:
            with naming_server(server):
                audits.append(ServerAudit(server_name(server), await run(server, report_all)))
        except AuditUnderWayError as error:
            audits.append(ServerAudit(server_name(server), error=ServerError(server, error)))
        except ServerError as error:
            audits.append(ServerAudit(server_name(server), error=error))
    return BooksAudit(tuple(audits))
