"""Plans a verb over all servers that hold the books: the part of each, and which operation the run goes on with.

The operation is noted on the server of INMAIL_DATABASE_URL. Its result has an entry for each server: the numbers that
the server's part is of, its position, and whether it is finished (`server_runs.py`). A server that got a number since
begins again.

With one server none of this asks anything: the plan is that of the server, and the result is the operation's own.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Generic, TypeVar

from infra.clock import utc_now
from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.shards import (
    ONE_SERVER,
    Holdings,
    ServerAnswers,
    ServerError,
    ask_each_server,
    has_one_server,
    naming_server,
    server_name,
)
from workers.ops.books.snapshot import open_books
from workers.ops.numbers import check_holders

__all__ = ["PartPlan", "Resumption", "ServerPart", "ServerParts", "Unfinished", "plan_parts"]


@dataclass(slots=True, kw_only=True)
class PartPlan:
    """The plan of a run: of the only server or of one of several, or the sum of the plans of several."""

    client_id: ClassVar[str]  # of the producer

    rate: float  # records a second
    position: Any  # of the record sent last, as JSON has it
    resumes: int | None = None  # the operation to resume
    sent_before: int = 0  # by the resumed operations
    numbers: Sequence[int] | None = None  # of one of several servers, whose rows are sent; None: all
    servers: "ServerParts[Any] | None" = None  # the plans of several servers, of which this one is the sum

    @property
    def silent(self) -> Sequence[ServerError]:
        """The errors of the servers that are left out, as they did not answer."""
        return () if self.servers is None else self.servers.silent

    @property
    def count(self) -> int:
        """The number of records to send."""
        raise NotImplementedError

    @property
    def seconds(self) -> float:
        """The duration at the rate."""
        return self.count / self.rate

    def resume(self, earlier: "Unfinished") -> None:
        """Go on with an operation of the same arguments that did not finish."""
        self.position, self.resumes = earlier.result["position"], earlier.operation
        self.sent_before = earlier.result["sent"] + earlier.result["sent_before"]

    def summary(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        plan = {
            "rate": self.rate,
            "seconds": round(self.seconds, 3),
            "goes_on_with": self.resumes,
            "sent_before": self.sent_before,
        }
        return plan if self.servers is None else plan | {"servers": self.servers.summary()}


Plan = TypeVar("Plan", bound=PartPlan)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An operation that did not finish, and the result that the next one goes on from."""

    operation: int
    result: Mapping[str, Any]

    def of_server(self, holdings: Holdings) -> "Unfinished | None":
        """Return the part of one of several servers; None if there is none, or the server got a number since."""
        for entry in self.result.get("servers", ()):
            if entry["shard"] == _shard_id(holdings) and set(holdings.numbers) <= set(entry["numbers"]):
                return Unfinished(self.operation, entry)
        return None


@dataclass(frozen=True, slots=True)
class Resumption:
    """Which operation a run goes on with: the last one of a verb with the same arguments, if it did not finish."""

    verb: str
    arguments: Mapping[str, Any]
    within: timedelta | None = None  # since its last progress; None: however long ago

    async def find(self, connection: Connection) -> Unfinished | None:
        """Return the operation; None if there is none to go on with."""
        row = await connection.fetchrow(
            "select operation, status, result, noted_at from operations where verb = $1 and arguments = $2"
            " order by operation desc limit 1",
            self.verb,
            dict(self.arguments),
        )
        if row is None or row["status"] == "done":
            return None
        if self.within is not None and utc_now() - row["noted_at"] > self.within:
            return None
        return Unfinished(row["operation"], row["result"])


@dataclass(frozen=True, slots=True)
class ServerPart(Generic[Plan]):
    """What a run does on one of several servers."""

    server: Settings = field(repr=False)
    holdings: Holdings
    plan: Plan | None  # None: the operation that is gone on with has finished it
    before: Mapping[str, Any] | None  # the entry of that operation

    @property
    def name(self) -> str:
        """The server's name."""
        return server_name(self.server)

    def summary(self) -> dict[str, Any]:
        """Return the part for JSON."""
        plan = None if self.plan is None else self.plan.summary()
        return {"server": self.name, "numbers": self.holdings.numbers, "plan": plan, "error": None}

    def entry(self) -> dict[str, Any]:
        """Return what the operation's result has of it before it begins."""
        own = {"server": self.name, "shard": _shard_id(self.holdings), "numbers": self.holdings.numbers}
        return _carried(self.before or {}) | own | {"finished": self.plan is None}


@dataclass(frozen=True, slots=True)
class ServerParts(Generic[Plan]):
    """What a run does on each of several servers, in their order."""

    parts: tuple[ServerPart[Plan], ...]
    silent: tuple[ServerError, ...]
    resumed: Unfinished | None

    @property
    def resumes(self) -> int | None:
        """The operation to go on with."""
        return None if self.resumed is None else self.resumed.operation

    @property
    def plans(self) -> list[Plan]:
        """The plans of the parts that are not finished."""
        return [part.plan for part in self.parts if part.plan is not None]

    @property
    def sent_before(self) -> int:
        """How many records the operation that is gone on with has sent, of the parts that go on or are finished."""
        return sum(part.entry().get("sent_before", 0) for part in self.parts)

    def sums(self) -> dict[str, Any]:
        """Return what the plan that is the sum of these has as a `PartPlan`, but for the rate."""
        return {"resumes": self.resumes, "sent_before": self.sent_before, "servers": self}

    def summary(self) -> list[dict[str, Any]]:
        """Return the parts for JSON, and the servers that did not answer. A finished part has no plan."""
        silent = [
            {"server": server_name(each.settings), "numbers": None, "plan": None, "error": str(each)}
            for each in self.silent
        ]
        return [part.summary() for part in self.parts] + silent

    def entries(self) -> list[dict[str, Any]]:
        """Return what the operation's result has of each server before it begins."""
        return [part.entry() for part in self.parts] + [self._silent_entry(error) for error in self.silent]

    def _silent_entry(self, error: ServerError) -> dict[str, Any]:
        name = server_name(error.settings)
        unknown: dict[str, Any] = {"server": name, "shard": None, "numbers": [], "finished": False}
        entries = () if self.resumed is None else self.resumed.result.get("servers", ())
        before = next((_carried(entry) for entry in entries if entry["server"] == name), {})
        return unknown | before | {"error": str(error)}


def _shard_id(holdings: Holdings) -> str | None:
    return None if holdings.shard is None else str(holdings.shard.shard_id)


def _carried(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a server's entry of the operation before as the next one begins with it."""
    kept = {name: entry[name] for name in ("shard", "numbers", "finished", "position") if name in entry}
    return kept | {"sent": 0, "sent_before": entry.get("sent", 0) + entry.get("sent_before", 0), "refused": 0}


async def plan_parts(
    settings: Settings,
    resumption: Resumption | None,
    plan: Callable[[Connection, Holdings, Unfinished | None], Awaitable[Plan]],
) -> Plan | ServerParts[Plan]:
    """Return the plan of the only server, or those of several.

    Args:
        settings: which servers there are.
        resumption: which operation to go on with; None: begin at the start.
        plan: returns the plan of one server, from a snapshot, what it holds, and what it goes on with.

    Raises:
        NotHeldError: when all of several servers answer, and a number is held by none or two of them.
        ServerError: when none of several servers answers, or that of the operations does not.
        OSError, asyncpg.PostgresError, NotSetUpError: of the only server.

    """

    async def find(connection: Connection) -> Unfinished | None:
        return None if resumption is None else await resumption.find(connection)

    if has_one_server(settings):
        async with open_books(settings) as connection:
            return await plan(connection, ONE_SERVER, await find(connection))
    with naming_server(settings):
        async with open_books(settings) as connection:
            resumed = await find(connection)

    async def plan_part(connection: Connection, holdings: Holdings) -> tuple[Plan | None, Unfinished | None]:
        before = None if resumed is None else resumed.of_server(holdings)
        if before is not None and before.result["finished"]:
            return None, before
        return await plan(connection, holdings, before), before

    answers = await ask_each_server(settings, plan_part)
    if not answers.silent:
        _check_held(answers)
    parts = tuple(
        ServerPart(server, holdings, planned, None if before is None else before.result)
        for server, holdings, (planned, before) in answers.found
    )
    return ServerParts(parts, tuple(answers.silent), resumed)


def _check_held(answers: ServerAnswers[Any]) -> None:
    held = [number for _, holdings, _ in answers.found for number in holdings.numbers]
    partitions = max(holdings.partitions or 0 for _, holdings, _ in answers.found)
    for number in range(partitions):
        check_holders(number, held.count(number))
