"""The record of operations: who ran which verb, why, with which plan and result.

Every verb that changes something runs inside `recorded_operation`. One operation of a verb runs at a time: it holds an
advisory lock, which Postgres frees when the connection ends, however the process dies. So an operation with the status
`running` and a free lock was broken off.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import chain
from typing import Any, NamedTuple

from asyncpg import Record

from infra.clock import utc_now
from infra.postgres import POSTGRES_ERRORS, Connection, open_database
from infra.settings import Settings
from workers.ops.books.shards import ServerError, ask_each_server

__all__ = [
    "FoundOperations",
    "Intent",
    "NoSuchOperationError",
    "OngoingOperation",
    "Operation",
    "OperationStatus",
    "Operator",
    "RefusedError",
    "count_running_operations",
    "find_operations",
    "lock_verb",
    "read_operation",
    "read_operations",
    "recorded_operation",
]

# The first half of the lock's key: any constant that no other lock uses. The second half is a hash of schema and verb.
_LOCKS = 0x1E_D6E3


class RefusedError(Exception):
    """An operation is refused because it would be unsafe. The message says why, and what to do instead."""


class NoSuchOperationError(Exception):
    """No operation has this number."""


class OperationStatus(StrEnum):
    """The status of an operation."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"  # by its operator; the same command resumes it
    FAILED = "failed"
    BROKEN_OFF = "broken_off"  # the process was killed, or lost its connection to the database


class Operator(NamedTuple):
    """The person who runs a verb, and the reason, for the record."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Intent:
    """An operation to be recorded."""

    verb: str
    actor: str
    reason: str
    arguments: Mapping[str, Any]  # for JSON: everything needed to repeat the operation
    plan: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One recorded operation."""

    operation: int
    verb: str
    actor: str
    reason: str
    arguments: dict[str, Any]
    plan: dict[str, Any]
    started_at: datetime
    noted_at: datetime
    ended_at: datetime | None
    status: str
    result: dict[str, Any]


@dataclass(slots=True)
class OngoingOperation:
    """A running operation: its number, the connection that holds its lock, and its result so far."""

    number: int
    connection: Connection
    result: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False  # whether the operator stopped the operation before its end
    failures: list[Exception] = field(default_factory=list)  # of parts that the operation left out and went on

    @property
    def status(self) -> OperationStatus:
        """The status at the end: an operation that is not done goes on with the same command."""
        if self.stopped:
            return OperationStatus.STOPPED
        return OperationStatus.FAILED if self.failures else OperationStatus.DONE

    async def save_progress(self) -> None:
        """Save the result so far."""
        await self.connection.execute(
            "update operations set result = $2, noted_at = $3 where operation = $1", self.number, self.result, utc_now()
        )

    async def save_end(self, status: OperationStatus) -> None:
        """Save the final result and status."""
        await self.connection.execute(
            "update operations set result = $2, noted_at = $3, ended_at = $3, status = $4 where operation = $1",
            self.number,
            self.result,
            utc_now(),
            status.value,
        )


@asynccontextmanager
async def recorded_operation(settings: Settings, intent: Intent) -> AsyncIterator[OngoingOperation]:
    """Record an operation for the time inside this context manager.

    An error raised inside is recorded as the operation's failure and raised again. If the failure cannot be recorded,
    the status stays `running` while the lock is free.

    Raises:
        RefusedError: when another operation of the verb is running.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    async with open_database(settings) as connection:
        running = await _begin_operation(connection, intent)
        try:
            yield running
        except BaseException as error:
            interrupted = isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
            running.result["error"] = "interrupted" if interrupted else f"{type(error).__name__}: {error}"[:1000]
            # The error itself matters more than a failure to record it.
            with contextlib.suppress(*POSTGRES_ERRORS):
                await running.save_end(OperationStatus.STOPPED if interrupted else OperationStatus.FAILED)
            raise
        await running.save_end(running.status)


async def lock_verb(connection: Connection, verb: str) -> None:
    """Take the lock that one operation of a verb holds on a server, until the connection ends.

    Raises:
        RefusedError: when another operation holds it.

    """
    if await connection.fetchval(
        "select pg_try_advisory_lock($1, hashtext(current_schema() || '.' || $2))", _LOCKS, verb
    ):
        return
    row = await connection.fetchrow(
        "select operation, actor from operations where verb = $1 and status = 'running' order by 1 desc limit 1", verb
    )
    other = f" (operation {row[0]} of {row[1]})" if row else ""
    raise RefusedError(f"another {verb} is under way{other}: wait for it, or stop it")


async def _begin_operation(connection: Connection, intent: Intent) -> OngoingOperation:
    await lock_verb(connection, intent.verb)
    now = utc_now()
    await connection.execute(
        "update operations set status = 'broken_off', ended_at = $2 where verb = $1 and status = 'running'",
        intent.verb,
        now,
    )
    number = await connection.fetchval(
        "insert into operations (verb, actor, reason, arguments, plan, started_at, noted_at, status, result)"
        " values ($1, $2, $3, $4, $5, $6, $6, 'running', '{}') returning operation",
        intent.verb,
        intent.actor,
        intent.reason,
        dict(intent.arguments),
        dict(intent.plan),
        now,
    )
    return OngoingOperation(number, connection)


# An operation with the status `running`, while nobody holds the lock of its verb, was broken off.
_OPERATIONS = """
select
    o.operation, o.verb, o.actor, o.reason, o.arguments, o.plan, o.started_at, o.noted_at, o.ended_at,
    case
        when o.status <> 'running' then o.status
        when exists (
            select from pg_locks as l
            where l.locktype = 'advisory' and l.granted and l.objsubid = 2 and l.classid = $1::bigint::oid
                and l.objid = (hashtext(concat(current_schema(), '.', o.verb))::bigint & 4294967295)::oid
                and l.database = (select d.oid from pg_database as d where d.datname = current_database())
        ) then 'running'
        else 'broken_off'
    end as status,
    o.result
from operations as o
"""


class FoundOperations(NamedTuple):
    """Operations of all servers, the newest first, and the errors of some of several."""

    operations: list[Operation]
    silent: list[ServerError]


async def find_operations(settings: Settings, last: int) -> FoundOperations:
    """Return the newest operations, on whichever server each is noted.

    Raises:
        NotSetUpError: when the only database was never migrated.
        OSError, asyncpg.PostgresError: when it cannot be reached or refuses.
        ServerError: when none of several servers answers.

    """
    told = await ask_each_server(settings, lambda connection, _: read_operations(connection, last), part_will_do=True)
    if len(told.answers) == 1:
        return FoundOperations(told.answers[0], told.silent)
    # A move of a number copies those that its clock decisions name: one of each is told.
    numbered = {each.operation: each for each in sorted(chain(*told.answers), key=lambda each: each.noted_at)}
    newest = sorted(numbered.values(), key=lambda each: each.started_at, reverse=True)
    return FoundOperations(newest[:last], told.silent)


async def read_operations(connection: Connection, last: int) -> list[Operation]:
    """Return the newest operations from an open connection, the newest first."""
    rows = await connection.fetch(_OPERATIONS + " order by o.started_at desc, o.operation desc limit $2", _LOCKS, last)
    return [Operation(*row) for row in rows]


async def count_running_operations(connection: Connection) -> int:
    """Return how many operations run, however many began after them."""
    found = await connection.fetchval(
        f"select count(*) from ({_OPERATIONS} where o.status = 'running') as o where o.status = 'running'",  # noqa: S608
        _LOCKS,
    )
    return int(found)


async def read_operation(settings: Settings, number: int) -> Operation:
    """Return one operation by its number, from whichever server it is noted on.

    Raises:
        NoSuchOperationError: when no operation has the number.
        NotSetUpError: when the only database was never migrated.
        OSError, asyncpg.PostgresError: when it cannot be reached or refuses.
        ServerError: when a server that does not answer may have it.

    """

    async def read(connection: Connection, _: object) -> Record | None:
        return await connection.fetchrow(_OPERATIONS + " where o.operation = $2", _LOCKS, number)

    told = await ask_each_server(settings, read, part_will_do=True)
    if found := [Operation(*row) for row in told.answers if row is not None]:
        return max(found, key=lambda each: each.noted_at)
    for error in told.silent:
        raise error
    raise NoSuchOperationError(f"there is no operation {number}: see `inmail operations list`")
