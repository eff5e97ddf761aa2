"""Which server an operator's verb works with, where several Postgres servers hold the books: that of the numbers."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Final, NamedTuple

from pydantic import SecretStr

from infra.postgres import Connection, open_database
from infra.settings import Settings
from workers.ops.books.shards import (
    Holdings,
    NotHeldError,
    ask_each_server,
    has_one_server,
    naming_server,
    server_name,
    settings_of_account,
)
from workers.ops.operations import OngoingOperation, RefusedError, lock_verb

__all__ = [
    "ServerNumbers",
    "all_holdings",
    "check_holders",
    "names_by_number",
    "naming_part",
    "numbers_beside",
    "one_server_of",
    "one_server_of_account",
    "one_server_of_number",
    "open_locked",
    "open_of_books",
    "open_of_operation",
    "require_one_server",
    "servers_of_numbers",
    "set_partition_count",
]

_BESIDE: Final = """
select partition from accounts where partition <> all($1::integer[])
union select partition from lanes where partition <> all($1::integer[])
"""
_BESIDE_SECONDS: Final = 600.0
_SET_COUNT: Final = """
insert into partitioning as p (partitions) values ($1)
on conflict (one) do update set partitions = excluded.partitions
where p.partitions <> excluded.partitions and not exists (select from accounts) and not exists (select from lanes)
"""


class ServerNumbers(NamedTuple):
    """A server, and numbers that it holds."""

    server: Settings
    numbers: tuple[int, ...]  # of the only server: those that are asked for, empty for all


def names_by_number(servers: Sequence[ServerNumbers]) -> Mapping[int, str]:
    """Return the name of the server of each number; nothing where there is one server."""
    return {
        number: server_name(each.server)
        for each in servers
        if not has_one_server(each.server)
        for number in each.numbers
    }


async def _nothing(_connection: Connection, _holdings: Holdings) -> None: ...


async def all_holdings(settings: Settings) -> list[tuple[Settings, Holdings]]:
    """Return every server with what it holds; the only server without a question.

    Raises:
        ServerError: when one of several servers does not answer.

    """
    if has_one_server(settings):
        return [(settings, Holdings())]
    answers = await ask_each_server(settings, _nothing)
    for error in answers.silent:
        raise error
    return [(server, holdings) for server, holdings, _ in answers.found]


async def servers_of_numbers(settings: Settings, numbers: Collection[int]) -> list[ServerNumbers]:
    """Return the servers that hold numbers, or all numbers if none are given; the only server without a question.

    A number that is on its way from a server to another is held by none.

    Raises:
        NotHeldError: when all of several servers answer, and a number is held by none or two of them.
        ServerError: when a number may be held by one of several servers that does not answer.

    """
    if has_one_server(settings):
        return [ServerNumbers(settings, tuple(numbers))]
    answers = await ask_each_server(settings, _nothing)
    partitions = max((holdings.partitions or 0 for _, holdings, _ in answers.found), default=0)
    found: dict[int, list[int]] = {position: [] for position in range(len(answers.found))}
    for number in sorted(numbers) or range(partitions or settings.topic_partitions):
        holders = [
            position
            for position, (_, holdings, _) in enumerate(answers.found)
            if holdings.shard is not None and holdings.shard.holds(number)
        ]
        if not holders:
            for error in answers.silent:
                raise error
        check_holders(number, len(holders))
        found[holders[0]].append(number)
    return [ServerNumbers(answers.found[position][0], tuple(held)) for position, held in found.items() if held]


async def numbers_beside(connection: Connection, numbers: Collection[int]) -> list[int]:
    """Return the numbers, beside these, that a server has accounts or lanes of, current ones or copies."""
    rows = await connection.fetch(_BESIDE, list(numbers), timeout=_BESIDE_SECONDS)
    return [row["partition"] for row in rows]


def check_holders(number: int, holders: int) -> None:
    """Refuse a number that another number of servers than one holds.

    Raises:
        NotHeldError: when none holds it, or two do.

    """
    if holders != 1:
        raise NotHeldError(
            f"partition number {number} is held by {holders or 'no'} server{'s' * (holders > 1)} of"
            " INMAIL_DATABASE_SHARDS: see `inmail shards list`"
        )


@asynccontextmanager
async def open_of_books(server: Settings, *, patient: bool = False) -> AsyncIterator[Connection]:
    """Connect to the only server, or to one of several.

    Raises:
        ServerError: in place of an error of one of several.
        OSError, asyncpg.PostgresError: of the only server.

    """
    with naming_server(server):
        async with open_database(server, patient=patient) as connection:
            yield connection


@asynccontextmanager
async def open_locked(server: Settings, verb: str) -> AsyncIterator[Connection]:
    """Connect to one of several servers, and keep operations of a verb that are noted there away meanwhile.

    Raises:
        RefusedError: when such an operation is running. The message names the server.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

    """
    async with open_database(server) as connection:
        try:
            await lock_verb(connection, verb)
        except RefusedError as error:
            raise RefusedError(f"{server_name(server)}: {error}") from error
        yield connection


@asynccontextmanager
async def open_of_operation(
    settings: Settings, server: Settings, operation: OngoingOperation, verb: str
) -> AsyncIterator[Connection]:
    """Connect to a server for an operation that is noted on that of `settings`, and keep others of the verb away.

    Raises:
        RefusedError: as `open_locked` does. On the operation's own server it keeps others away already.

    """
    if server.database_url == settings.database_url:
        yield operation.connection
        return
    async with open_locked(server, verb) as connection:
        yield connection


async def one_server_of_number(settings: Settings, number: int) -> Settings:
    """Return the settings of the only server, or of the one of several that has the rows of a number, and no other.

    Raises:
        NotHeldError: when all of several servers answer, and the number is held by none or two of them.
        ServerError: when it may be held by one of several servers that does not answer.

    """
    if has_one_server(settings):
        return settings
    answers = await ask_each_server(settings, _nothing)
    holders = [server for server, holdings, _ in answers.found if holdings.has_number(number)]
    if not holders:
        for error in answers.silent:
            raise error
    check_holders(number, len(holders))
    return _alone(holders[0])


async def one_server_of_account(settings: Settings, account_id: str) -> Settings:
    """Return the settings of the only server, or of the one of several that holds an account, and no other.

    Raises:
        NotHeldError, ServerError: as `settings_of_account` does.

    """
    return settings if has_one_server(settings) else _alone(await settings_of_account(settings, account_id))


async def one_server_of(settings: Settings, account: str | None, partition: int | None) -> Settings:
    """Return the settings of the only server, or of the one of several that has the rows of an account or partition.

    Where neither is given they are the given ones: all servers have some of the rows.

    Raises:
        NotHeldError, ServerError: when there are several, and it is not known which one, or it does not answer.

    """
    if account is not None:
        return await one_server_of_account(settings, account)
    return settings if partition is None else await one_server_of_number(settings, partition)


def naming_part(settings: Settings, own: Settings) -> AbstractContextManager[None]:
    """Raise errors of the server that a verb works with as `ServerError`, if it is one of several.

    Args:
        settings: which servers there are.
        own: what `one_server_of` returned: errors would be told as those of the server of INMAIL_DATABASE_URL.

    """
    return naming_server(settings.model_copy(update={"database_url": own.database_url}))


def require_one_server(settings: Settings, verb: str, instead: str) -> None:
    """Refuse a verb that does not work with several servers, and say what does.

    Raises:
        RefusedError: when there are several.

    """
    if not has_one_server(settings):
        raise RefusedError(f"`{verb}` does not work with several Postgres servers (INMAIL_DATABASE_SHARDS): {instead}")


async def set_partition_count(connection: Connection, partitions: int) -> int:
    """Let a server number accounts by a count, where it has none yet, or has no accounts and lanes that had another.

    Return by which count it numbers them now.
    """
    await connection.execute(_SET_COUNT, partitions)
    return int(await connection.fetchval("select partitions from partitioning"))


def _alone(server: Settings) -> Settings:
    """Return settings in which a server is the only one: what is asked with them is not asked of the others."""
    return server.model_copy(update={"database_shards": SecretStr("")})
