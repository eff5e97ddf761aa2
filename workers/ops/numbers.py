"""Which server an operator's verb works with, where several Postgres servers hold the books: that of the numbers."""

from collections.abc import Collection

from pydantic import SecretStr

from infra.postgres import Connection
from infra.settings import Settings
from infra.shards import number_ranges
from workers.ops.books.shards import Holdings, ask_each_server, has_one_server, server_name, settings_of_account
from workers.ops.operations import RefusedError

__all__ = ["all_holdings", "one_server_of", "one_server_of_account", "one_server_of_numbers", "require_one_server"]


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


async def one_server_of_numbers(settings: Settings, numbers: Collection[int], verb: str) -> Settings:
    """Return the settings of the only server, or of the one of several that holds all of these numbers, and no other.

    Raises:
        RefusedError: when there are several servers and none holds them all, or no number is given.
        ServerError: when no server answers.

    """
    if has_one_server(settings):
        return settings
    answers = await ask_each_server(settings, _nothing)
    found = [(server, holdings) for server, holdings, _ in answers.found]
    holders = [server for server, holdings in found if numbers and all(map(holdings.has_number, numbers))]
    if len(holders) == 1:
        return _alone(holders[0])
    if numbers:
        for error in answers.silent:
            raise error
    told = "; ".join(
        f"{server_name(server)} holds {number_ranges([n for n in range(partitions) if holdings.has_number(n)])}"
        for server, holdings in found
        if (partitions := holdings.partitions or settings.topic_partitions)
    )
    raise RefusedError(
        f"`{verb}` works with one of several servers at a time: give --partition of one of them ({told})"
    )


async def one_server_of_account(settings: Settings, account_id: str) -> Settings:
    """Return the settings of the only server, or of the one of several that holds an account, and no other.

    Raises:
        NotHeldError, ServerError: as `settings_of_account` does.

    """
    return settings if has_one_server(settings) else _alone(await settings_of_account(settings, account_id))


async def one_server_of(settings: Settings, account: str | None, partition: int | None, verb: str) -> Settings:
    """Return the settings of the only server, or of the one of several that has the rows of an account or partition.

    Where neither is given they are the given ones: all servers have some of the rows.

    Raises:
        RefusedError: when there are several, and none has the partition.
        NotHeldError, ServerError: when there are several, and it is not known which one, or it does not answer.

    """
    if account is not None:
        return await one_server_of_account(settings, account)
    return settings if partition is None else await one_server_of_numbers(settings, [partition], verb)


def require_one_server(settings: Settings, verb: str, instead: str) -> None:
    """Refuse a verb that does not work with several servers, and say what does.

    Raises:
        RefusedError: when there are several.

    """
    if not has_one_server(settings):
        raise RefusedError(f"`{verb}` does not work with several Postgres servers (INMAIL_DATABASE_SHARDS): {instead}")


def _alone(server: Settings) -> Settings:
    """Return settings in which a server is the only one: what is asked with them is not asked of the others."""
    return server.model_copy(update={"database_shards": SecretStr("")})
