"""Questions to the servers that hold the books together: to the one that holds an account, or to each of them.

A server alone is asked one thing more: whether it holds all of the books, or somebody has left the others out.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from infra.kafka.clients import NotSetUpError, partition_of
from infra.migrate import MigrationError
from infra.postgres import POSTGRES_ERRORS, Connection
from infra.postgres_rights import MissingPrivilegesError
from infra.settings import Settings, SettingsError
from infra.shards import NumberState, Shard, check_distinct, read_shard, settings_of_shards
from workers.ops.books.snapshot import open_books
from workers.ops.books.whole_books import check_whole, has_one_server, server_name

__all__ = [
    "ONE_SERVER",
    "AccountQuestion",
    "Holdings",
    "NotHeldError",
    "ServerAnswers",
    "ServerError",
    "ask_each_server",
    "by_account",
    "check_servers",
    "choose_server",
    "has_one_server",
    "naming_server",
    "open_books_of",
    "read_holdings",
    "server_name",
    "settings_of_account",
]

Answer = TypeVar("Answer")
_Result_co = TypeVar("_Result_co", covariant=True)

# What one server may raise while the others answer.
_SERVER_ERRORS: Final = (
    *POSTGRES_ERRORS,
    NotSetUpError,
    MissingPrivilegesError,
    MigrationError,
    SettingsError,
)
_ATTEMPTS: Final = 5  # a number that moves between two of them is found at its new server by the next


class ServerError(Exception):
    """An error of one of several servers: `error`, and the settings that lead to the server."""

    def __init__(self, settings: Settings, error: Exception) -> None:
        super().__init__(f"Postgres at {server_name(settings)}: {error or type(error).__name__}")
        self.settings = settings
        self.error = error


class NotHeldError(Exception):
    """No server or more than one holds an account's number. The message says which number, and what to do."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a server holds, as of one moment; the only server holds everything."""

    shard: Shard | None = None  # None: the only server
    partitions: int | None = None  # by which accounts are numbered; None before the first lane

    def has_number(self, number: int) -> bool:
        """Tell whether the rows of a partition number are current here: those of a leaving one are until it left."""
        if self.shard is None or self.shard.holds(number):
            return True
        said = self.shard.numbers.get(number)
        return said is not None and said.state is NumberState.LEAVING

    def has_account(self, account_id: str) -> bool:
        """Tell whether an account's rows are current here, and would be here if it is unknown."""
        if self.shard is None or self.partitions is None:
            return self.shard is None or self.shard.holds_all
        return self.has_number(self.number_of(account_id))

    def number_of(self, account_id: str) -> int:
        """Return an account's partition number. A shell passes bytes that are not UTF-8 as surrogates."""
        return partition_of(account_id.encode(errors="backslashreplace"), self.partitions or 1)

    @property
    def numbers(self) -> list[int]:
        """The numbers whose rows are current here; none before the first lane, as there are no rows then."""
        return [each for each in range(self.partitions or 0) if self.has_number(each)]

    @property
    def counted(self) -> list[int] | None:
        """The numbers that this server counts for, of several; None: it is the only one, and all rows count."""
        return None if self.shard is None else self.numbers

    @property
    def foreign(self) -> list[int]:
        """The numbers whose rows here, if there are any, are copies: another server has the current ones."""
        return [] if self.shard is None else [each for each in self.shard.numbers if not self.has_number(each)]


ONE_SERVER: Final = Holdings()


@dataclass(frozen=True, slots=True)
class ServerAnswers(Generic[Answer]):
    """The answers of the servers, and the errors of those that gave none."""

    found: list[tuple[Settings, Holdings, Answer]]
    silent: list[ServerError]

    @property
    def answers(self) -> list[Answer]:
        """The answers alone, in the order of the servers."""
        return [answer for _, _, answer in self.found]

    def has_account(self, account_id: str) -> bool:
        """Tell whether a server that answered holds an account."""
        return any(holdings.has_account(account_id) for _, holdings, _ in self.found)

    def has_number(self, number: int) -> bool:
        """Tell whether a server that answered holds a partition number."""
        return any(holdings.has_number(number) for _, holdings, _ in self.found)


@contextmanager
def naming_server(settings: Settings) -> Iterator[None]:
    """Raise errors of one of several servers as `ServerError`; those of the only server as they are."""
    try:
        yield
    except _SERVER_ERRORS as error:
        if has_one_server(settings):
            raise
        raise ServerError(settings, error) from error


async def read_holdings(connection: Connection) -> Holdings:
    """Return what a server holds."""
    return Holdings(await read_shard(connection), await connection.fetchval("select partitions from partitioning"))


async def ask_each_server(
    settings: Settings,
    question: Callable[[Connection, Holdings], Awaitable[Answer]],
    only: Connection | None = None,
    *,
    part_will_do: bool = False,
) -> ServerAnswers[Answer]:
    """Ask every server side by side, each in one snapshot of its own, with what it holds.

    Where there is one server, it is asked over `only`, if that connection is given, and not in a snapshot. If it is one
    of several, it is asked where `part_will_do`.

    Raises:
        PartOfBooksError: when the only server that is named is one of several.
        RepeatedServerError: when two of several URLs lead to one server, whose answer would count twice.
        ServerError: when none of several servers answers: that of the first.
        OSError, asyncpg.PostgresError, NotSetUpError: of the only server.

    """
    servers = settings_of_shards(settings)
    if len(servers) == 1:
        async with open_books(settings) if only is None else nullcontext(only) as connection:
            if not part_will_do:
                await check_whole(connection, settings)
            return ServerAnswers([(settings, ONE_SERVER, await question(connection, ONE_SERVER))], [])

    async def ask(server: Settings) -> tuple[Settings, Holdings, Answer] | ServerError:
        try:
            with naming_server(server):
                async with open_books(server) as connection:
                    holdings = await read_holdings(connection)
                    return server, holdings, await question(connection, holdings)
        except ServerError as error:
            return error

    told = await asyncio.gather(*map(ask, servers))
    check_distinct(
        (server_name(server), None if isinstance(each, ServerError) else each[1].shard)
        for server, each in zip(servers, told, strict=True)
    )
    silent = [each for each in told if isinstance(each, ServerError)]
    if len(silent) == len(told):
        raise silent[0]
    return ServerAnswers([each for each in told if not isinstance(each, ServerError)], silent)


async def check_servers(settings: Settings) -> None:
    """Check that no two of several servers are one, as far as they answer; the only server is not asked.

    Raises:
        RepeatedServerError: when two are.

    """
    if not has_one_server(settings):
        with suppress(ServerError):
            await ask_each_server(settings, _nothing)


async def settings_of_account(settings: Settings, account_id: str) -> Settings:
    """Return the settings that lead to the server that holds an account, or would hold it if it is unknown.

    With one server they are the given ones, and nothing is asked.

    Raises:
        NotHeldError: when no server holds the account's number, or two do.
        ServerError: when the number's server may be one that does not answer.

    """
    if has_one_server(settings):
        return settings
    answers = await ask_each_server(settings, _nothing)
    return choose_server(((server, holdings) for server, holdings, _ in answers.found), answers.silent, account_id)


async def _nothing(_connection: Connection, _holdings: Holdings) -> None: ...


def choose_server(
    servers: Iterable[tuple[Settings, Holdings]], silent: Iterable[ServerError], account_id: str
) -> Settings:
    """Return the server that holds an account, of those that answered; `settings_of_account` describes the errors."""
    asked = list(servers)
    holders = [(server, holdings) for server, holdings in asked if holdings.has_account(account_id)]
    if len(holders) == 1:
        return holders[0][0]
    if not holders:
        for error in silent:
            raise error
    number = next((holdings.number_of(account_id) for _, holdings in asked if holdings.partitions), None)
    who = " and ".join(server_name(server) for server, _ in holders)
    raise NotHeldError(
        f"partition number {number} of account {account_id.encode(errors='backslashreplace').decode()} is held by"
        f" {who or 'no server of INMAIL_DATABASE_SHARDS'}: see `inmail shards list`, and whether INMAIL_DATABASE_SHARDS"
        " names each server once"
    )


@asynccontextmanager
async def open_books_of(settings: Settings, account_id: str) -> AsyncIterator[Connection]:
    """Open a read-only connection to the server that holds an account, whose queries all see one snapshot.

    Raises:
        NotHeldError, ServerError: as `settings_of_account` does.
        OSError, asyncpg.PostgresError, NotSetUpError, PartOfBooksError: of the only server.

    """
    if has_one_server(settings):
        async with open_books(settings) as connection:
            await check_whole(connection, settings)
            yield connection
        return
    for _ in range(_ATTEMPTS):
        server = await settings_of_account(settings, account_id)
        with naming_server(server):
            async with open_books(server) as connection:
                if (await read_holdings(connection)).has_account(account_id):
                    yield connection
                    return
    raise NotHeldError(f"the partition number of account {account_id} moves from server to server: ask again")


class AccountQuestion(Protocol[_Result_co]):
    """Reads an account from one snapshot of the server that holds it."""

    async def __call__(self, settings: Settings, account_id: str, as_of: datetime | None = None) -> _Result_co:
        """Return what is read.

        Raises:
            UnknownAccountError: when the ledger has no such account.
            NotHeldError, ServerError: as `settings_of_account` does.
            OSError, asyncpg.PostgresError, NotSetUpError, PartOfBooksError: of the only server.

        """
        ...


def by_account(
    question: Callable[[Connection, str, datetime | None], Awaitable[Answer]],
) -> AccountQuestion[Answer]:
    """Return a question about an account that opens its connection itself."""

    async def read(settings: Settings, account_id: str, as_of: datetime | None = None) -> Answer:
        async with open_books_of(settings, account_id) as connection:
            return await question(connection, account_id, as_of)

    return read
