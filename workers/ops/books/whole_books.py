"""Whether the only server that is named holds all of the books: somebody may have forgotten INMAIL_DATABASE_SHARDS."""

from pydantic import PostgresDsn

from infra.postgres import Connection, database_address
from infra.settings import Settings, SettingsError
from infra.shards import read_shard, settings_of_shards
from workers.ops.books.snapshot import open_books

__all__ = ["PartOfBooksError", "check_whole", "check_whole_books", "has_one_server", "server_name"]


class PartOfBooksError(SettingsError):
    """The only server that is named holds some of the partition numbers. The message names it, and says what to set."""


def server_name(settings: Settings) -> str:
    """Return a server's hosts and ports, and its database: `db-1:5432/inmail`."""
    path = PostgresDsn(settings.database_url.get_secret_value()).path
    return f"{database_address(settings)}{path or ''}"


def has_one_server(settings: Settings) -> bool:
    """Tell whether one server holds the books."""
    return len(settings_of_shards(settings)) == 1


async def check_whole(connection: Connection, settings: Settings) -> None:
    """Check that a server holds all numbers, where it is the only one that is named; of several nothing is asked.

    Raises:
        PartOfBooksError: when it does not: what it says would be taken for the whole.

    """
    if has_one_server(settings) and not (await read_shard(connection)).is_alone:
        raise PartOfBooksError(
            f"INMAIL_DATABASE_SHARDS names no servers, and {server_name(settings)} holds only some of the partition"
            " numbers: name all servers that hold the books (`inmail shards list`), or a part is taken for the whole"
        )


async def check_whole_books(settings: Settings) -> None:
    """Check the same, over a connection of its own.

    Raises:
        PartOfBooksError: as `check_whole` does.
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    if has_one_server(settings):
        async with open_books(settings) as connection:
            await check_whole(connection, settings)
