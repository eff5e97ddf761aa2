"""Accounts numbered by the partitions that the topics have: a step of `inmail topics apply`.

Only a topic can say how many partitions there are, and only the books know by how many they number their accounts. So
the verb that sees both brings them together: where partitions were added, where books were given other topics, or where
books have accounts and no lane has ever told them of a topic.
"""

import asyncpg

from infra.postgres import Connection, open_database
from infra.settings import Settings
from workers.ops.books.shards import Holdings, ask_each_server, has_one_server, naming_server, server_name
from workers.ops.books.whole_books import check_whole
from workers.ops.numbers import set_partition_count
from workers.ops.operations import RefusedError

__all__ = ["number_accounts", "plan_numbering"]

_COUNTS = "select (select p.partitions from partitioning as p) as partitions, exists (select from accounts) as accounts"


async def plan_numbering(settings: Settings) -> str | None:
    """Return what numbering the accounts would do, in words; None where there is nothing to do or no books are there.

    Raises:
        PartOfBooksError: when the only server that is named is one of several, and has another count.
        RefusedError: when accounts of several servers are numbered by another count.
        ServerError: when one of several servers does not answer.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    if not has_one_server(settings):
        if not (servers := await _servers_to_count(settings)):
            return None
        names = ", ".join(map(server_name, servers))
        return f"count {settings.topic_partitions} partitions on {names}: no account there is numbered anew"
    try:
        async with open_database(settings) as connection:
            row = await connection.fetchrow(_COUNTS)
            if row is None or row["partitions"] == settings.topic_partitions:
                return None
            if not (row["partitions"] or row["accounts"]):
                return None
            await check_whole(connection, settings)
    except asyncpg.UndefinedTableError:
        return None
    before = "no count yet" if row["partitions"] is None else f"{row['partitions']}"
    return f"number accounts by {settings.topic_partitions} partitions (so far: {before}), each with its lots"


async def _servers_to_count(settings: Settings) -> list[Settings]:
    """Return the servers of several that have to be told by how many partitions accounts are numbered.

    Those without accounts and lanes have an old count where partitions were added, or none. One without a count has
    none but accounts of numbers that were moved to it, which are numbered by the other servers' count.

    Raises:
        RefusedError: when accounts are numbered by another count: numbered anew they would belong to other servers.
        ServerError: when a server does not answer.

    """
    answers = await ask_each_server(settings, _is_empty)
    for error in answers.silent:
        raise error
    wanted = settings.topic_partitions
    for server, holdings, is_empty in answers.found:
        if holdings.partitions not in (None, wanted) and not is_empty:
            raise RefusedError(
                f"{server_name(server)} numbers its accounts by {holdings.partitions} partitions, and"
                f" INMAIL_TOPIC_PARTITIONS is {wanted}: {_what_to_move(holdings)}"
            )
    counts = {holdings.partitions for _, holdings, _ in answers.found}
    if counts == {None}:  # the first lane tells it
        return []
    is_known = wanted in counts
    return [
        server
        for server, holdings, is_empty in answers.found
        if holdings.partitions != wanted and (is_empty or is_known)
    ]


def _what_to_move(holdings: Holdings) -> str:
    """Return what to do about a server whose accounts are numbered by another count."""
    if not holdings.numbers:
        return (
            "they are copies of accounts that another server holds. Delete them: `inmail shards move` of their numbers"
            " to the server that holds them, without --keep; then run this again"
        )
    return (
        "accounts are not numbered anew while several servers hold them, as they would belong to other servers. Move"
        " all numbers to server 0 first (`inmail shards move` without --keep), take the others out of"
        " INMAIL_DATABASE_SHARDS, and run this again"
    )


async def _is_empty(connection: Connection, _: Holdings) -> bool:
    return not await connection.fetchval("select exists (select from accounts) or exists (select from lanes)")


async def number_accounts(settings: Settings) -> int:
    """Give every account the number that it has by the topics' partitions; return how many had another.

    Of several servers, those without accounts are told by how many partitions accounts are numbered.

    Raises:
        PartOfBooksError: when the only server that is named is one of several.
        RefusedError, ServerError: of several servers, as `plan_numbering` raises them.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    if not has_one_server(settings):
        for server in await _servers_to_count(settings):
            with naming_server(server):
                async with open_database(server) as connection:
                    await set_partition_count(connection, settings.topic_partitions)
        return 0
    async with open_database(settings, patient=True) as connection:  # a large table takes minutes
        await check_whole(connection, settings)
        return int(await connection.fetchval("select number_accounts($1)", settings.topic_partitions))
