"""Accounts whose id is, or begins with, a text."""

from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.snapshot import open_books

__all__ = ["find_accounts", "search_accounts"]

# A range of the unique index, whose collation is "C": ids are compared byte by byte, as their characters are numbered.
_BEGIN_WITH = """
select account_id
from accounts
where account_id >= $1 and account_id < $1 || chr(1114111)
order by account_id
limit $2
"""


async def search_accounts(settings: Settings, text: str, most: int) -> list[str]:
    """Return the ids that begin with a text, in order, so that the text itself comes first where it is one.

    Raises:
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    async with open_books(settings) as connection:
        return await find_accounts(connection, text, most)


async def find_accounts(connection: Connection, text: str, most: int) -> list[str]:
    """Return at most `most` ids that begin with a text; none for a text that no id can begin with."""
    if not text.isascii() or not text.isprintable():  # Postgres takes neither surrogates nor the null character
        return []
    return [str(row["account_id"]) for row in await connection.fetch(_BEGIN_WITH, text, most)]
