"""The Postgres servers of the books: what each says that it holds, and sessions on it that nobody else's move has."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import asyncpg

from infra.migrate import MigrationError, missing_migrations
from infra.postgres import (
    POSTGRES_ERRORS,
    Connection,
    connect_database,
    database_address,
    is_transient,
    login_hint,
    open_database,
)
from infra.settings import Settings
from infra.shards import Shard, check_distinct, read_shard, settings_of_shards
from workers.ops.books.audit_mark import LOCK as AUDIT_LOCK
from workers.ops.books.shards import server_name
from workers.ops.books.snapshot import is_unmigrated
from workers.ops.operations import RefusedError

__all__ = [
    "ShardServer",
    "ShardSession",
    "UnreachableServerError",
    "books_partitions",
    "check_prepared",
    "open_session",
    "read_server",
    "read_servers",
]

# The first half of a lock's key: any constant that no other lock uses. The second is a hash of the schema.
_LOCK: Final = 0x1E_D6E8
_LOCK_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.1
_MIGRATE: Final = "`inmail migrate`"
_BUSY_ERRORS: Final = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)  # of a server that is there
_IS_EMPTY: Final = "select not exists (select from accounts) and not exists (select from lanes)"
_TRY_LOCK: Final = "select pg_try_advisory_lock($1, hashtext(current_schema()))"


class UnreachableServerError(Exception):
    """A server of the books does not answer or is not set up. The message names it, and says why.

    Args:
        message: the sentence.
        do: what to do, where the sentence alone does not say it.
        answered: whether the server is there, and lacks something or lets nobody in.

    """

    def __init__(self, message: str, do: str = "", *, answered: bool = False) -> None:
        super().__init__(message)
        self.do = do
        self.answered = answered


@dataclass(frozen=True, slots=True)
class ShardServer:
    """A server of the books, and what it said of itself."""

    settings: Settings = field(repr=False)
    shard: Shard
    partitions: int | None  # by which accounts are numbered; None before the first lane
    is_empty: bool  # without accounts and lanes
    migrations: frozenset[tuple[str, str]] = field(repr=False)  # names and contents

    @property
    def address(self) -> str:
        """Its hosts and ports, without the user and the password."""
        return database_address(self.settings)

    @property
    def name(self) -> str:
        """How sentences call it."""
        return f"server {self.shard.ordinal} ({self.address})"


@dataclass(frozen=True, slots=True)
class ShardSession:
    """A session on a server, the only one that may change what the server holds."""

    server: ShardServer
    connection: Connection


async def read_servers(settings: Settings) -> list[ShardServer]:
    """Return all servers of the books, in the order of INMAIL_DATABASE_SHARDS.

    Raises:
        UnreachableServerError: when one of them does not answer or is not set up.
        RepeatedServerError, RefusedError: as `check_prepared` raises them.

    """
    servers = [await read_server(each) for each in settings_of_shards(settings)]
    check_prepared(servers)
    return servers


def check_prepared(servers: Sequence[ShardServer]) -> None:
    """Check that no two servers are one, or have one ordinal, by which their keys are told apart.

    Raises:
        RepeatedServerError: when two are one.
        RefusedError: when two have one ordinal.

    """
    check_distinct((server_name(each.settings), each.shard) for each in servers)
    for place, server in enumerate(servers):
        for other in servers[:place]:
            if server.shard.ordinal == other.shard.ordinal:
                raise RefusedError(
                    f"{server_name(other.settings)} and {server_name(server.settings)} are both server"
                    f" {server.shard.ordinal}: `inmail shards add` has not prepared one of them beside the other"
                )


def books_partitions(servers: Sequence[ShardServer]) -> int | None:
    """Return by how many partitions the books number accounts; None before the first lane.

    A server without accounts and lanes may have an older count.
    """
    counts = [each.partitions for each in sorted(servers, key=lambda each: each.is_empty)]
    return next((count for count in counts if count is not None), None)


async def read_server(settings: Settings) -> ShardServer:
    """Return what a server says of itself.

    Raises:
        UnreachableServerError: when it does not answer or is not set up.

    """
    try:
        async with open_database(settings) as connection:
            return await _read(settings, connection)
    except (MigrationError, *POSTGRES_ERRORS) as error:
        raise _unreachable(settings, error) from error


async def _read(settings: Settings, connection: Connection) -> ShardServer:
    shard = await read_shard(connection)
    if missing := await missing_migrations(connection):
        words = f"it lacks {', '.join(missing)}: run `inmail migrate` with its INMAIL_DATABASE_URL"
        raise UnreachableServerError(f"{database_address(settings)}: {words}", _MIGRATE, answered=True)
    rows = await connection.fetch("select name, sha256 from migrations")
    return ShardServer(
        settings,
        shard,
        await connection.fetchval("select partitions from partitioning"),
        await connection.fetchval(_IS_EMPTY),
        frozenset((row["name"], row["sha256"]) for row in rows),
    )


def _unreachable(settings: Settings, error: Exception) -> UnreachableServerError:
    address = database_address(settings)
    if is_unmigrated(error):
        return UnreachableServerError(
            f"{address} does not have this version's tables ({error}): run `inmail migrate` with its"
            " INMAIL_DATABASE_URL",
            _MIGRATE,
            answered=True,
        )
    if isinstance(error, MigrationError):
        return UnreachableServerError(f"{address}: {error}", answered=True)
    answered = isinstance(error, _BUSY_ERRORS) or not is_transient(error)
    do = login_hint(error) or "" if answered else "start it"
    words = f"Postgres cannot be reached at {address} ({error or type(error).__name__})"
    return UnreachableServerError(words, do, answered=answered)


@asynccontextmanager
async def open_session(settings: Settings) -> AsyncIterator[ShardSession]:
    """Open the session on a server that may change what the server holds, without a limit of time.

    Raises:
        RefusedError: when another one is open, or an audit that moves its mark is under way.
        UnreachableServerError: when the server does not answer or is not set up.

    """
    async with AsyncExitStack() as opened:
        try:
            connection = await connect_database(settings, patient=True)
            opened.push_async_callback(_unlock_and_close, connection)
            # It waits in a transaction while the other server works.
            await connection.execute("set idle_in_transaction_session_timeout = 0; set lock_timeout = '30s'")
            locked = [await _lock(connection, each) for each in (_LOCK, AUDIT_LOCK)]
            server = await _read(settings, connection)
        except (MigrationError, *POSTGRES_ERRORS) as error:
            raise _unreachable(settings, error) from error
        if not locked[0]:
            raise RefusedError(f"another `inmail shards` command changes {server.name}: wait for it, or stop it")
        if not locked[1]:  # a mark of accounts that come or go meanwhile would be wrong
            raise RefusedError(f"an audit that moves the mark is under way on {server.name}: wait for it, or stop it")
        yield ShardSession(server, connection)


async def _lock(connection: Connection, key: int) -> bool:
    """Take a lock for the session; wait a moment for that of a process that was killed."""
    deadline = monotonic() + _LOCK_SECONDS
    while not await connection.fetchval(_TRY_LOCK, key):
        if monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def _unlock_and_close(connection: Connection) -> None:
    """Free the locks at once: the server would some time after the connection has ended."""
    with contextlib.suppress(*POSTGRES_ERRORS):
        await connection.execute("select pg_advisory_unlock_all()")
    await connection.close()
