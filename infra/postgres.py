"""Connections to Postgres, and which of its errors pass by themselves."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from infra.postgres_session import GIVEN, prepare_session
from infra.settings import Settings

__all__ = [
    "TRANSIENT_ERRORS",
    "WORKER_ROLE",
    "Connection",
    "Pool",
    "close_in_time",
    "connect_database",
    "create_pool",
    "create_reader_pool",
    "is_refusal",
    "is_transient",
]

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:  # only the stubs are generic
    Connection = asyncpg.Connection | PoolConnectionProxy
    Pool = asyncpg.Pool

# Errors that another attempt can survive: the server is away, failing over, full or in a lock cycle. Anything else
# is a mistake of ours and must be seen.
TRANSIENT_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # The functions were replaced under an open connection: the next attempt prepares its statements anew.
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
    # None of several servers is the primary just now.
    asyncpg.TargetServerAttributeNotMatched,
)


def is_transient(error: BaseException) -> bool:
    """Tell whether a database error may pass by itself."""
    if isinstance(error, TRANSIENT_ERRORS):
        return True
    # asyncpg reports a connection that the server has just ended as being in the middle of another operation, one that
    # was lost while its pool took it back as given back twice,
    if isinstance(error, asyncpg.InternalClientError):
        return "another operation" in str(error) or "free connection holder" in str(error)
    # and one that broke in the middle of a call as a misuse of a closed one.
    return isinstance(error, asyncpg.InterfaceError) and "connection" in str(error)


# What the database refuses because of the values it was given. Alone, or after a fix, they may be taken; the same again
# will not be. Everything else that does not pass (a table or a right that is missing, a broken file) is a deployment to
# mend, and no fault of any request.
_REFUSALS = (
    "21",  # cardinality: values that do not go together in one statement
    "22",  # data: out of range, not in the encoding, not what the type holds
    "23",  # integrity: a CHECK, a unique or a foreign key
    "44",  # with check option
    "54",  # a limit of the server: an index row too large, a statement too complex
    "P0",  # what a function raised
)


def is_refusal(error: BaseException) -> bool:
    """Tell whether the database refused the values it was given."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_REFUSALS)


# What the workers take on as they connect; `worker_role.sql` says what it may do. Operators' tools and migrations work
# as the user they connect as.
WORKER_ROLE = "inmail_worker"

_SERVER_SETTINGS = {
    **GIVEN,
    "application_name": "inmail",
    # Every statement that matters is a function call whose plan is fixed by its own settings; compiling costs more
    # than these plans run.
    "jit": "off",
    # A client whose machine vanished must not hold its lane's row and its accounts until TCP gives up, hours later.
    "idle_in_transaction_session_timeout": "10s",
    "client_connection_check_interval": "5s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}


async def _prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await prepare_session(connection)
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


def create_pool(settings: Settings) -> AbstractAsyncContextManager[Pool]:
    """Return a pool for one worker process, opened by `async with`: what it may not do, the database refuses.

    Opening it raises InvalidAuthorizationSpecificationError where `inmail migrate` has not made the workers' role, or
    not for this user; SettingsError where a session lacks what the promises rest on.
    """
    return asyncpg.create_pool(
        settings.database_url.get_secret_value(),
        min_size=1,
        max_size=settings.database_connections,
        command_timeout=settings.database_timeout_seconds,
        timeout=settings.database_timeout_seconds,
        server_settings=_SERVER_SETTINGS | {"role": WORKER_ROLE},
        connect=_connect_as_worker,
        init=_prepare,
        reset=_keep,
    )


def create_reader_pool(settings: Settings) -> AbstractAsyncContextManager[Pool]:
    """Return a pool of read-only sessions for the read API, opened by `async with`.

    Connections are opened as they are needed: a server that is away is told to whoever asks, and not at the start. A
    statement ends after INMAIL_API_TIMEOUT_SECONDS, on the server too.
    """
    milliseconds = str(round(settings.api_timeout_seconds * 1000))

    async def prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        await _prepare(connection)
        # Last: what all sessions are given has no limit on the server, since a long tick or audit must come to its end.
        # Each statement is a look-up by keys: a plan for the values of each call would cost more than it runs.
        await connection.execute(
            "select set_config('statement_timeout', $1, false),"
            " set_config('plan_cache_mode', 'force_generic_plan', false)",
            milliseconds,
        )

    return asyncpg.create_pool(
        settings.database_url.get_secret_value(),
        min_size=0,
        max_size=settings.api_connections,
        command_timeout=settings.api_timeout_seconds,
        timeout=settings.api_timeout_seconds,
        server_settings=_SERVER_SETTINGS | {"application_name": "inmail api", "default_transaction_read_only": "on"},
        init=prepare,
        reset=_keep,
    )


async def _keep(_: Any) -> None:  # noqa: ANN401 - a connection
    """Give a connection back as it is: all that workers set or lock ends with its transaction.

    asyncpg would send `RESET ALL` and more each time, a question that each batch would wait for twice. What is open it
    rolls back all the same.
    """


async def _connect_as_worker(
    *arguments: Any,  # noqa: ANN401 - as the pool calls asyncpg.connect
    **options: Any,  # noqa: ANN401
) -> "asyncpg.Connection[asyncpg.Record]":
    """Connect, and say what to run where the role is missing."""
    try:
        return await asyncpg.connect(*arguments, **options)
    except (asyncpg.InvalidParameterValueError, asyncpg.InsufficientPrivilegeError) as error:
        if WORKER_ROLE not in str(error):
            raise
        raise asyncpg.InvalidAuthorizationSpecificationError(
            f"{error}: run `inmail migrate` as the workers' user, or as a superuser `grant {WORKER_ROLE} to` that user"
        ) from error


async def connect_database(settings: Settings, *, patient: bool = False) -> "asyncpg.Connection[asyncpg.Record]":
    """Return one connection; the caller closes it. A patient one waits for a statement as long as it takes.

    Raises:
        OSError, asyncpg.PostgresError: when the server cannot be reached or refuses.
        SettingsError: when the session lacks what the promises rest on.

    """
    connection = await asyncpg.connect(
        settings.database_url.get_secret_value(),
        command_timeout=None if patient else settings.database_timeout_seconds,
        timeout=settings.database_timeout_seconds,
        server_settings=_SERVER_SETTINGS,
    )
    try:
        await _prepare(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def close_in_time(pool: Pool, seconds: float) -> None:
    """Close a pool politely, or by force where the database does not answer any more."""
    try:
        await asyncio.wait_for(pool.close(), seconds)
    except (OSError, RuntimeError, asyncpg.PostgresError, asyncpg.InterfaceError):
        # No answer in time, or a connection that breaks: uvloop has a RuntimeError of that. None of them may stand in
        # the place of what the process ends of.
        pool.terminate()
