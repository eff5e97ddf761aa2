"""Accounts whose id is, or begins with, a text."""

from collections.abc import Sequence

from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.shards import Holdings, ask_each_server

__all__ = ["find_accounts", "search_accounts"]

# A range of the unique index, whose collation is "C": ids are compared byte by byte. All their characters come before
# 127, which is one in each encoding that a database may have.
_BEGIN_WITH = """
select account_id
from accounts
where account_id >= $1 and account_id < $1 || chr(127) and partition <> all($3::integer[])
order by account_id
limit $2
"""


async def search_accounts(settings: Settings, text: str, most: int) -> list[str]:
    """Return the ids that begin with a text, in order, so that the text itself comes first where it is one.

    Raises:
        ServerError: when one of several servers does not answer: accounts would be missing without a word.
        OSError, asyncpg.PostgresError, NotSetUpError: of the only server.

    """

    async def find(connection: Connection, holdings: Holdings) -> list[str]:
        return await find_accounts(connection, text, most, holdings.foreign)

    told = await ask_each_server(settings, find)
    for error in told.silent:
        raise error
    return sorted(each for found in told.answers for each in found)[:most]


async def find_accounts(connection: Connection, text: str, most: int, foreign: Sequence[int] = ()) -> list[str]:
    """Return at most `most` ids that begin with a text; none for a text that no id can begin with.

    Args:
        connection: to a server.
        text: how the ids begin.
        most: how many are returned.
        foreign: numbers of accounts that another server holds.

    """
    if not text.isascii() or not text.isprintable():  # Postgres takes neither surrogates nor the null character
        return []
    return [str(row["account_id"]) for row in await connection.fetch(_BEGIN_WITH, text, most, foreign)]
