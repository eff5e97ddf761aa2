"""The audit of books that several servers hold: each audited in turn, and one report of all."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from infra.settings import Settings
from infra.shards import settings_of_shards
from workers.ops.books.audit import Audit, AuditExample, BookTotals, Finding, Report
from workers.ops.books.audit_mark import AuditUnderWayError
from workers.ops.books.shards import ServerError, check_servers, naming_server, server_name

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
        passed = self.balances and not self.errors
        return {"passed": passed, "new": None, "totals": self.totals, "checks": checks, "servers": servers}


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
