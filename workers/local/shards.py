"""Prepares several Postgres servers of one machine for one set of books, as `inmail shards add` does for one."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from pydantic import SecretStr

from infra.postgres import Connection, database_address, open_database
from infra.settings import Settings
from infra.shards import number_ranges, read_shard, settings_of_shards
from workers.ops.operations import Operator
from workers.ops.shards.add import add_server, plan_add

__all__ = ["prepare_shards"]

_WHO = Operator("inmail up", "a Postgres server of the local stack")
_EMPTY = "select not exists (select from lanes) and not exists (select from accounts)"
_SPREAD_PARTITIONS = "insert into partitioning (partitions) values ($1) on conflict (one) do update set partitions = $1"
_HOLD = "insert into shard_numbers (number, state) select unnest($1::integer[]), 'held'"
_LEAVE = "insert into shard_numbers (number, state, other_shard) select unnest($1::integer[]), 'left', $2"


async def prepare_shards(settings: Settings) -> list[str]:
    """Make each server that is new one of the books, and spread the numbers of empty books; return a line for each.

    Books that are not empty stay as they are: a server that is new holds nothing until numbers are moved to it.

    Raises:
        RefusedError: when a server cannot become one of the books.
        UnreachableServerError, OSError, asyncpg.PostgresError: when a server fails.

    """
    servers = settings_of_shards(settings)
    for place, server in enumerate(servers[1:], 1):
        await _prepare(servers[:place], server)
    async with AsyncExitStack() as opened:
        connections = [await opened.enter_async_context(open_database(server)) for server in servers]
        if all([await each.fetchval(_EMPTY) for each in connections]):
            await _spread(connections, settings.topic_partitions)
        return [
            await _line(number, server, connection, settings.topic_partitions)
            for number, (server, connection) in enumerate(zip(servers, connections, strict=True), 1)
        ]


async def _prepare(before: list[Settings], server: Settings) -> None:
    """Make a server that is new one of the books, beside those before it."""
    async with open_database(server) as connection:
        if (await read_shard(connection)).ordinal:
            return
    urls = " ".join(each.database_url.get_secret_value() for each in before)
    settings = before[0].model_copy(update={"database_shards": SecretStr(urls)})
    await add_server(settings, await plan_add(settings, server.database_url.get_secret_value()), _WHO)


async def _spread(connections: Sequence[Connection], partitions: int) -> None:
    """Spread the numbers of empty books in ranges. At no moment does a number have two servers, also after a crash."""
    first, *later = connections
    for each in later:
        await each.execute("delete from shard_numbers")
    shares = [
        [n for n in range(partitions) if n * len(connections) // partitions == k] for k in range(len(connections))
    ]
    async with first.transaction():
        await first.execute("delete from shard_numbers")
        await first.execute(_SPREAD_PARTITIONS, partitions)
        for each, share in zip(later, shares[1:], strict=True):
            await first.execute(_LEAVE, share, (await read_shard(each)).shard_id)
    for each, share in zip(later, shares[1:], strict=True):
        async with each.transaction():
            await each.execute(_SPREAD_PARTITIONS, partitions)
            await each.execute(_HOLD, share)


async def _line(number: int, server: Settings, connection: Connection, partitions: int) -> str:
    shard = await read_shard(connection)
    held = [each for each in range(partitions) if shard.holds(each)]
    url = server.database_url.get_secret_value()
    what = f"partitions {number_ranges(held)}" if held else f"nothing: `inmail shards move NUMBERS --to {url}`"
    return f"Postgres {number} ({database_address(server)}) holds {what}"
