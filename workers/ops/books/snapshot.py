"""Read-only connections to the ledger's database, each with one snapshot."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from infra.kafka.clients import NotSetUpError
from infra.postgres import Connection, open_database
from infra.settings import Settings

__all__ = ["connect_to_books", "is_unmigrated", "open_books", "snapshot"]


@asynccontextmanager
async def open_books(settings: Settings) -> AsyncIterator[Connection]:
    """Open a read-only connection to the ledger's database whose queries all see one snapshot.

    Raises:
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    async with connect_to_books(settings) as connection, snapshot(connection):
        yield connection


@asynccontextmanager
async def connect_to_books(settings: Settings) -> AsyncIterator[Connection]:
    """Open a connection to the ledger's database, without a transaction.

    Raises:
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    async with open_database(settings) as connection:
        try:
            yield connection
        except asyncpg.PostgresError as error:
            if not is_unmigrated(error):
                raise
            raise NotSetUpError(
                f"the database does not have this version's tables ({error}): run `inmail migrate`"
            ) from error


def is_unmigrated(error: BaseException) -> bool:
    """Return whether an error means that the database lacks this version's migrations."""
    if isinstance(error, asyncpg.UndefinedFunctionError):
        return str(error).startswith("function ")  # a missing operator raises the same class: a mistake in our own SQL
    return isinstance(error, (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError))


@asynccontextmanager
async def snapshot(connection: Connection) -> AsyncIterator[None]:
    """Open a read-only transaction in which all queries see one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        yield
