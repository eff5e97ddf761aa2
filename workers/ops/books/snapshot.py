"""The books as an operator reads them: one snapshot, and nothing can be changed by it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from infra.kafka.records import NotSetUpError
from infra.postgres import Connection, connect_database
from infra.settings import Settings

__all__ = ["is_unmigrated", "open_books", "snapshot"]


@asynccontextmanager
async def open_books(settings: Settings) -> AsyncIterator[Connection]:
    """Open a connection to the books whose every question is answered from one snapshot.

    Raises:
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when it cannot be reached or refuses.

    """
    connection = await connect_database(settings)
    try:
        async with snapshot(connection):
            yield connection
    except asyncpg.PostgresError as error:
        if not is_unmigrated(error):
            raise
        raise NotSetUpError(f"the database is not that of this version ({error}): run `inmail migrate`") from error
    finally:
        await connection.close()


def is_unmigrated(error: BaseException) -> bool:
    """Tell whether an error says that the database lacks what this version's migrations make."""
    if isinstance(error, asyncpg.UndefinedFunctionError):
        return str(error).startswith("function ")  # the same class tells of operators: a mistake in our own text
    return isinstance(error, (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError))


@asynccontextmanager
async def snapshot(connection: Connection) -> AsyncIterator[None]:
    """Answer every question inside from one snapshot, and refuse every change."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        yield
