"""The API's reads of one server: over a pool of few read-only sessions, each bounded in time."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import asyncpg
import structlog

from infra.clock import utc_now
from infra.postgres import Connection, Pool
from infra.settings import Settings
from infra.shards import read_shard
from workers.api.balance_batches import BalanceBatches
from workers.api.lock_watch import ReadLockWatch
from workers.api.problems import DATABASE_ERRORS, ApiError, database_problem, part_of_books, too_busy
from workers.ops.books.current_balance import BalanceQuestion, BalanceVersion, CurrentBalance, read_current_balances
from workers.ops.books.shards import ONE_SERVER, Holdings, has_one_server, server_name
from workers.ops.books.whole_books import PartOfBooksError, check_whole

__all__ = ["ServerReads"]

_WAITING_AT_MOST: Final = 1000  # requests of one process for its connections: more would only wait for a timeout
# What every read begins with. Each process asks it: what it tells takes all of them out of service at once.
_CHECK: Final = "select exists (select from accounts)"
# Tables of some reads only, of which a lock keeps those reads and no others.
_CHECK_OTHERS: Final = (
    "select exists (select from subscriptions), exists (select from lots), exists (select from journal),"
    " exists (select from original_ids)"
)


@dataclass(slots=True)
class ServerReads:
    """The connections to one server. What it cannot answer is raised as an `ApiError`."""

    settings: Settings
    pool: Pool
    ready: bool = False  # whether the last check, or a read since, went well
    is_partly_silent: bool = False  # whether some tables could not be read at the last check
    # As of after the last read, so that the read of an account that is here was of its newest rows. None: not known.
    holdings: Holdings | None = field(default=None, init=False)
    part: PartOfBooksError | None = field(default=None, init=False)  # why the only server is not asked: it has a part
    batches: BalanceBatches = field(init=False)
    locks: ReadLockWatch = field(init=False)
    _held_at: float = field(default=0.0, init=False)
    _is_checked: bool = field(default=False, init=False)  # whether the only server was asked if it has a part
    _reading: int = 0
    _told: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.locks = ReadLockWatch(self.settings)
        self.batches = BalanceBatches(self._read_balances, self.settings.api_timeout_seconds, self._give_up)
        if has_one_server(self.settings):
            self.holdings = ONE_SERVER

    def has_account(self, account_id: str) -> bool:
        """Tell whether the server holds an account, as of after the last read."""
        return self.holdings is not None and self.holdings.has_account(account_id)

    async def check(self) -> None:
        """Note whether the server answers, and whether it is the only one if no other is named."""
        answers = await self._answers(_CHECK, is_check=True)
        self.ready = answers and self.part is None
        self.is_partly_silent = answers and not await self._answers(_CHECK_OTHERS)

    async def _answers(self, question: str, *, is_check: bool = False) -> bool:
        try:
            async with self._lend() as connection:
                await connection.fetchval(question)
                if is_check and self.holdings is ONE_SERVER:
                    await self._check_whole(connection)
        except ApiError:  # noted, and logged as it changed
            return False
        return True

    async def _check_whole(self, connection: Connection) -> None:
        """Note whether the only server that is named holds all of the books."""
        before = self.part
        try:
            await check_whole(connection, self.settings)
        except PartOfBooksError as error:
            self.part, self.ready = error, False
            if before is None:
                structlog.get_logger("inmail.api").warning("part_of_books", error=str(error))
        else:
            self.part = None
        self._is_checked = True

    async def _read_balances(
        self, questions: Collection[BalanceQuestion]
    ) -> dict[BalanceQuestion, CurrentBalance | BalanceVersion]:
        async with self.connection() as connection:
            try:
                return await read_current_balances(connection, questions, utc_now())
            except asyncpg.UntranslatableCharacterError:
                return await _read_one_by_one(connection, questions)

    def _give_up(self, error: TimeoutError) -> ApiError:
        return database_problem(error, self.locks.holder)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection for as long as INMAIL_API_TIMEOUT_SECONDS.

        Raises:
            ApiError: for what the database cannot answer, when too many wait, and when the only server that is named
                has a part of the books.
            UntranslatableCharacterError: when the database, which is not UTF-8, cannot have an id that was asked for.

        """
        async with self._lend() as connection:
            if self.holdings is ONE_SERVER and not self._is_checked:
                await self._check_whole(connection)
            if self.part is not None:
                raise part_of_books()
            yield connection

    @asynccontextmanager
    async def _lend(self) -> AsyncIterator[Connection]:
        if self._reading >= _WAITING_AT_MOST:
            raise too_busy()
        self._reading += 1
        token = self.locks.begin()
        try:
            async with asyncio.timeout(self.settings.api_timeout_seconds), self.pool.acquire() as connection:
                yield connection
                if self.holdings is not ONE_SERVER:
                    await self._read_holdings(connection)
        except asyncpg.UntranslatableCharacterError:
            raise
        except DATABASE_ERRORS as error:
            self._note(repr(error))
            raise database_problem(error, self.locks.holder) from error
        finally:
            self.locks.end(token)
            self._reading -= 1
        self._note(None)

    async def _read_holdings(self, connection: Connection) -> None:
        asked_at = monotonic()
        partitions = None if self.holdings is None else self.holdings.partitions  # it changes in no running system
        if partitions is None:
            partitions = await connection.fetchval("select partitions from partitioning")
        holdings = Holdings(await read_shard(connection), partitions)
        if asked_at >= self._held_at:  # an answer that was overtaken by a later one's says nothing of its read
            self.holdings, self._held_at = holdings, asked_at

    def _note(self, trouble: str | None) -> None:
        """Log once that the database does not answer, and once that it answers again."""
        # Every read begins with what the check reads.
        self.ready = self.ready or (trouble is None and self.part is None)
        kind = None if trouble is None else trouble.partition("(")[0]
        if kind == self._told:
            return
        self._told = kind
        log = structlog.get_logger("inmail.api")
        if not has_one_server(self.settings):
            log = log.bind(server=server_name(self.settings))
        if trouble is None:
            log.info("database_answers")
        else:
            log.warning("database_cannot_answer", error=trouble)


async def _read_one_by_one(
    connection: Connection, questions: Collection[BalanceQuestion]
) -> dict[BalanceQuestion, CurrentBalance | BalanceVersion]:
    """Read balances where a question has characters that the database has not: no account is called so."""
    found: dict[BalanceQuestion, CurrentBalance | BalanceVersion] = {}
    for question in questions:
        with suppress(asyncpg.UntranslatableCharacterError):
            found |= await read_current_balances(connection, [question], utc_now())
    return found
