"""Connections to Postgres, and which of their errors are transient."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from pydantic import PostgresDsn

from infra.postgres_session import CLIENT_SETTINGS, NO_POOLER, check_search_path, check_server_version, prepare_session
from infra.postgres_tls import check_tls_files
from infra.postgres_waits import marked_connection
from infra.settings import Settings, SettingsError
from infra.waiting import waiting_for

__all__ = [
    "POSTGRES_ERRORS",
    "TRANSIENT_ERRORS",
    "WORKER_ROLE",
    "Connection",
    "Pool",
    "close_in_time",
    "connect_database",
    "create_pool",
    "create_reader_pool",
    "database_address",
    "is_refusal",
    "is_transient",
    "login_hint",
    "open_database",
]

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:  # only the stubs are generic
    Connection = asyncpg.Connection | PoolConnectionProxy
    Pool = asyncpg.Pool

# Whatever a question to a server may raise. asyncpg raises an InternalClientError where a server ends a session while a
# statement of it is on its way.
POSTGRES_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# Errors for which another attempt can succeed: the server is unreachable, fails over, is full, or broke a lock cycle.
# Any other error is a defect and must be visible.
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
    # The functions were replaced under an open connection: the next attempt prepares its statements again.
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
    # None of several servers is the primary at this moment.
    asyncpg.TargetServerAttributeNotMatched,
)


def is_transient(error: BaseException) -> bool:
    """Return whether a database error may pass by itself."""
    if isinstance(error, TRANSIENT_ERRORS):
        return True
    # asyncpg reports "another operation" for a connection that the server has just ended, "free connection holder" for
    # a connection that was lost while it returned to its pool,
    if isinstance(error, asyncpg.InternalClientError):
        return "another operation" in str(error) or "free connection holder" in str(error)
    # and the use of a closed connection for a connection that broke in the middle of a call.
    return isinstance(error, asyncpg.InterfaceError) and "connection" in str(error)


def login_hint(error: BaseException) -> str | None:
    """Return what to do where a server let nobody in for a cause of its own; None for any other error."""
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return "make the database (`createdb`), or mend the name at the end of INMAIL_DATABASE_URL"
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return "mend the user or the password in INMAIL_DATABASE_URL, or let that user in (pg_hba.conf)"
    return None


# Classes of errors by which the database refuses values. Other values, or fewer at once, may be accepted; the same
# values will not be. Any other permanent error (a missing table or right, a broken file) is a defect of the deployment,
# not of a request.
_REFUSALS = (
    "21",  # cardinality: values that conflict within one statement
    "22",  # data: out of range, or invalid for the encoding or the type
    "23",  # integrity: a CHECK, a unique or a foreign key
    "44",  # with check option
    "54",  # a limit of the server: an index row too large, a statement too complex
    "P0",  # raised by a function
)


def is_refusal(error: BaseException) -> bool:
    """Return whether the database refused the values of a statement."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_REFUSALS)


# The role of the workers' connections; `worker_role.sql` has its rights. Operators' tools and migrations have the
# rights of their own user.
WORKER_ROLE = "inmail_worker"

# A step of a tick, the longest of what workers do, takes a fraction. An operator's tool then tells who holds the lock
# (infra/postgres_locks.py).
_LOCK_SECONDS = 2

_SERVER_SETTINGS = {
    **CLIENT_SETTINGS,
    "application_name": "inmail",
    # The statements are calls of functions whose settings fix the plans; compiling takes longer than these plans run.
    "jit": "off",
    # A client whose machine vanished must not lock its lane's row and accounts until TCP gives up, hours later.
    "idle_in_transaction_session_timeout": "10s",
    "client_connection_check_interval": "5s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}
_POOLER_SAYS = "unsupported startup parameter"


async def _prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    check_server_version(connection)
    await prepare_session(connection)
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


def _limit_lock_waits(settings: Settings) -> str:
    """Return the statement that ends a wait for a lock before asyncpg ends the statement, and does not tell a lock."""
    return f"set lock_timeout = {max(1, round(1000 * min(_LOCK_SECONDS, settings.database_timeout_seconds / 2)))}"


async def _prepare_worker(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await _prepare(connection)
    await check_search_path(connection)
    if (user := await connection.fetchval("select current_user")) != WORKER_ROLE:
        raise SettingsError(
            f"the session works as {user}, not as {WORKER_ROLE}: a pooler between has dropped the role. {NO_POOLER}"
        )
    # A lock that somebody else holds must not hold a turn of all lanes: `turn.py` sets the lane that needs it apart.
    await connection.execute(_limit_lock_waits(settings))


def create_pool(settings: Settings) -> AbstractAsyncContextManager[Pool]:
    """Return a pool for one worker process, opened by `async with`; its sessions have the workers' role.

    Opening the pool raises InvalidAuthorizationSpecificationError when `inmail migrate` has not created the workers'
    role or not granted it to this user, and SettingsError when a session lacks a required setting.
    """
    return asyncpg.create_pool(
        settings.database_url.get_secret_value(),
        min_size=1,
        max_size=settings.database_connections,
        max_queries=float("inf"),  # else each connection is renewed after 50,000: every few minutes, within a turn
        command_timeout=settings.database_timeout_seconds,
        timeout=settings.database_timeout_seconds,
        server_settings=_SERVER_SETTINGS | {"role": WORKER_ROLE},
        connect=_connect_as_worker,
        init=partial(_prepare_worker, settings),
        reset=_skip_reset,
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
        connect=_connect,
        init=prepare,
        reset=_skip_reset,
    )


async def _skip_reset(_: Any) -> None:  # noqa: ANN401 - a connection
    """Return a connection to the pool without a reset: the settings and locks of workers end with their transaction.

    asyncpg would send `RESET ALL` and more, two more round trips for each batch. A transaction it rolls back anyway.
    """


async def _connect(*arguments: Any, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":  # noqa: ANN401 - asyncpg's
    """Connect, and say what is wrong where a pooler stands between."""
    try:
        with waiting_for(f"Postgres at {_address(arguments[0])}", "connecting"):
            return await asyncpg.connect(*arguments, **options)
    except asyncpg.ProtocolViolationError as error:
        if _POOLER_SAYS not in str(error):
            raise
        raise SettingsError(f"a pooler such as PgBouncer stands between ({error}). {NO_POOLER}") from error
    except OSError as error:
        check_tls_files(arguments[0], error)
        raise


async def _connect_as_worker(
    *arguments: Any,  # noqa: ANN401 - as the pool calls asyncpg.connect
    **options: Any,  # noqa: ANN401
) -> "asyncpg.Connection[asyncpg.Record]":
    """Connect; when the role is missing, raise an error that says what to run."""
    try:
        return await _connect(*arguments, **options)
    except (asyncpg.InvalidParameterValueError, asyncpg.InsufficientPrivilegeError) as error:
        if WORKER_ROLE not in str(error):
            raise
        raise asyncpg.InvalidAuthorizationSpecificationError(
            f"{error}: run `inmail migrate` as the workers' user, or as a superuser `grant {WORKER_ROLE} to` that user"
        ) from error


def database_address(settings: Settings) -> str:
    """Return the hosts and ports of the database, without the user and the password."""
    return _address(settings.database_url.get_secret_value())


def _address(dsn: str) -> str:
    hosts = PostgresDsn(dsn).hosts()
    return ", ".join(f"{host['host'] or 'the local socket'}:{host['port'] or 5432}" for host in hosts)


async def connect_database(settings: Settings, *, patient: bool = False) -> "asyncpg.Connection[asyncpg.Record]":
    """Return one connection, which the caller closes. A statement waits 2 s for a lock at most.

    With `patient`, statements have no time limit, nor have their waits for locks.

    Raises:
        OSError, asyncpg.PostgresError: when the server cannot be reached or refuses.
        SettingsError: when the session lacks a required setting.

    """
    connection = await _connect(
        settings.database_url.get_secret_value(),
        command_timeout=None if patient else settings.database_timeout_seconds,
        timeout=settings.database_timeout_seconds,
        server_settings=_SERVER_SETTINGS,
        connection_class=marked_connection(f"Postgres at {database_address(settings)}"),
    )
    try:
        await _prepare(connection)
        if not patient:
            await connection.execute(_limit_lock_waits(settings))
    except BaseException:
        connection.terminate()
        raise
    return connection


@asynccontextmanager
async def open_database(
    settings: Settings, *, patient: bool = False
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Open one connection for the time of the block, as `connect_database` does."""
    connection = await connect_database(settings, patient=patient)
    try:
        yield connection
    finally:
        await connection.close()


async def close_in_time(pool: Pool, seconds: float) -> None:
    """Close a pool, by force when the database does not answer within `seconds`."""
    try:
        await asyncio.wait_for(pool.close(), seconds)
    except (RuntimeError, *POSTGRES_ERRORS):
        # No answer in time, or a connection that breaks (uvloop raises a RuntimeError). None of these errors may
        # replace the error that ends the process.
        pool.terminate()
