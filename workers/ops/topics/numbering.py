"""Accounts numbered by the partitions that the topics have: a step of `inmail topics apply`.

Only a topic can say how many partitions there are, and only the books know by how many they number their accounts. So
the verb that sees both brings them together: where partitions were added, where books were given other topics, or where
books have accounts and no lane has ever told them of a topic.
"""

import asyncpg

from infra.postgres import open_database
from infra.settings import Settings
from workers.ops.books.shards import has_one_server, server_name
from workers.ops.numbers import all_holdings
from workers.ops.operations import RefusedError

__all__ = ["number_accounts", "plan_numbering"]

_COUNTS = "select (select p.partitions from partitioning as p) as partitions, exists (select from accounts) as accounts"


async def plan_numbering(settings: Settings) -> str | None:
    """Return what numbering the accounts would do, in words; None where there is nothing to do or no books are there.

    Raises:
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    if not has_one_server(settings):
        await _refuse_numbering(settings)
        return None
    try:
        async with open_database(settings) as connection:
            row = await connection.fetchrow(_COUNTS)
    except asyncpg.UndefinedTableError:
        return None
    if row is None or row["partitions"] == settings.topic_partitions or not (row["partitions"] or row["accounts"]):
        return None
    before = "no count yet" if row["partitions"] is None else f"{row['partitions']}"
    return f"number accounts by {settings.topic_partitions} partitions (so far: {before}), each with its lots"


async def _refuse_numbering(settings: Settings) -> None:
    """Check that the accounts of several servers are numbered by what the topics have.

    Raises:
        RefusedError: when they are numbered by another count: numbered anew they would belong to other servers.
        ServerError: when a server does not answer.

    """
    for server, holdings in await all_holdings(settings):
        if holdings.partitions not in (None, settings.topic_partitions):
            raise RefusedError(
                f"{server_name(server)} numbers its accounts by {holdings.partitions} partitions, and"
                f" INMAIL_TOPIC_PARTITIONS is {settings.topic_partitions}: accounts are not numbered anew while several"
                " servers hold them, as they would belong to other servers. Move all numbers to one server first"
                " (`inmail shards move`), take the others out of INMAIL_DATABASE_SHARDS, and run this again"
            )


async def number_accounts(settings: Settings) -> int:
    """Give every account the number that it has by the topics' partitions; return how many had another.

    Raises:
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    async with open_database(settings, patient=True) as connection:  # a large table takes minutes
        return int(await connection.fetchval("select number_accounts($1)", settings.topic_partitions))
