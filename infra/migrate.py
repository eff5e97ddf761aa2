"""Migrates the database: numbered files change tables, each once; files of functions are applied on every deploy.

Who waits for a lock on a table keeps all others waiting behind: a migration waits for a moment only, and tries again.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from infra.postgres import Connection

__all__ = ["Migrated", "MigrationError", "migrate", "missing_migrations"]

MIGRATIONS = Path(__file__).parent / "migrations"

# Any constant that every migrating process shares.
_ADVISORY_LOCK = 0x1E_D6E2
_LOCK_TIMEOUT = "set local lock_timeout = '1s'"  # bookings wait behind it as long, and give up after 2 s
_PAUSE_SECONDS = 1.0, 3.0
_RAISED = "exec_stmt_raise"  # the server's function that sends the messages raised by a migration


# Sessions whose transactions hold locks on tables here: one that reads for minutes is enough.
_IN_THE_WAY = """
select distinct a.pid, coalesce(nullif(a.application_name, ''), 'no application') as application, a.usename
from pg_locks as l
join pg_stat_activity as a on a.pid = l.pid
where
    l.locktype = 'relation' and l.granted and l.relation >= 16384 and l.pid <> pg_backend_pid()
    and l.database = (select oid from pg_database where datname = current_database())
order by a.pid
"""


class MigrationError(Exception):
    """The database's migrations are not a prefix of this version's migrations."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """The result of `migrate`."""

    applied: tuple[str, ...]
    functions: int
    notices: tuple[str, ...] = ()  # messages that the migrations raised


async def migrate(
    connection: Connection,
    function_folders: Sequence[Path],
    folder: Path = MIGRATIONS,
    tell: Callable[[str], object] = lambda _: None,
) -> Migrated:
    """Apply the missing migrations, then replace all functions, in one transaction.

    Waits without limit for locks that others hold, such as an audit or a backup that reads for minutes; bookings go on
    meanwhile.

    Args:
        connection: to the database.
        function_folders: where the functions are.
        folder: where the migrations are.
        tell: is told who is waited for, once each time that changes.

    Raises:
        MigrationError: when an applied file was edited or is unknown to this version.

    """
    told = ""
    while True:
        try:
            return await _migrate(connection, function_folders, folder)
        except asyncpg.LockNotAvailableError:
            others = [f"pid {row[0]} ({row[1]}, user {row[2]})" for row in await connection.fetch(_IN_THE_WAY)]
            text = f"waiting for locks on tables, which others hold: {', '.join(others) or 'gone by now'}"
            if text != told:
                tell(text)
                told = text
            await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311 - no secret


async def _migrate(connection: Connection, function_folders: Sequence[Path], folder: Path) -> Migrated:
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", _ADVISORY_LOCK)
        await connection.execute(_LOCK_TIMEOUT)
        await connection.execute("create table if not exists migrations (name text primary key, sha256 text not null)")
        done = {row["name"]: row["sha256"] for row in await connection.fetch("select name, sha256 from migrations")}
        files = _read(folder)
        _check_applied(done, files)
        missing = [name for name in files if name not in done]
        notices: list[str] = []

        def listen(_: object, message: asyncpg.PostgresLogMessage) -> None:
            if message.server_source_function == _RAISED:  # not the server's notices such as "does not exist, skipping"
                notices.append(message.message)

        connection.add_log_listener(listen)
        try:
            for name in missing:
                await connection.execute(files[name])
                await connection.execute("insert into migrations values ($1, $2)", name, _sha256(files[name]))
        finally:
            connection.remove_log_listener(listen)
        # Functions call each other, whatever the order of their files: they are checked after all exist.
        await connection.execute("set local check_function_bodies = off")
        functions = [text for place in function_folders for text in _read(place).values()]
        for function in functions:
            await connection.execute(function)
        await connection.execute("set local check_function_bodies = on")
        for function in functions:
            await connection.execute(function)
    return Migrated(tuple(missing), len(functions), tuple(notices))


async def missing_migrations(connection: Connection) -> list[str]:
    """Return the migrations that the database lacks, by the names of their files.

    Raises:
        MigrationError: when an applied file was edited or is unknown to this version.

    """
    done = {}
    if await connection.fetchval("select to_regclass('migrations')") is not None:
        done = {row["name"]: row["sha256"] for row in await connection.fetch("select name, sha256 from migrations")}
    files = _read(MIGRATIONS)
    _check_applied(done, files)
    return [name for name in files if name not in done]


def _check_applied(done: dict[str, str], files: dict[str, str]) -> None:
    for name, sha256 in done.items():
        if name not in files:
            raise MigrationError(
                f"the database has migration {name}, which this version does not know: install a newer version"
            )
        if _sha256(files[name]) != sha256:
            raise MigrationError(f"{name} was edited after it was applied: restore it and add a new migration")


def _read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.sql"))}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
