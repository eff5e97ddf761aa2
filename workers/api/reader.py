"""Reads of the ledger for the API: over a pool of few read-only sessions, each bounded in time."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, NoReturn
from uuid import UUID

import structlog

from infra.clock import utc_now
from infra.postgres import Connection, Pool
from infra.settings import Settings
from workers.api.balance_batches import BalanceBatches
from workers.api.lock_watch import ReadLockWatch
from workers.api.problems import DATABASE_ERRORS, ApiError, ProblemKind, database_problem
from workers.ops.books.current_balance import (
    BalanceQuestion,
    BalanceVersion,
    CurrentBalance,
    read_current_balances,
    read_sequence,
)
from workers.ops.books.original_ids import find_request_ids
from workers.ops.books.statement_page import RequestAnswers, StatementPage, read_answers, read_statement_page

__all__ = ["CHECK_SECONDS", "LedgerReader"]

CHECK_SECONDS: Final = 2.0
_NAMED: Final = 5
_WAITING_AT_MOST: Final = 1000  # requests of one process for its connections: more would only wait for a timeout
# What every read begins with. Each process asks it: what it tells takes all of them out of service at once.
_CHECK: Final = "select exists (select from accounts)"
# Tables of some reads only, of which a lock keeps those reads and no others.
_CHECK_OTHERS: Final = (
    "select exists (select from subscriptions), exists (select from lots), exists (select from journal),"
    " exists (select from original_ids)"
)
_POLL_SECONDS: Final = (0.01, 0.02, 0.05)  # between two looks for a sequence; the last one goes on


@dataclass(slots=True)
class LedgerReader:
    """The reads of the API. What the database cannot answer is raised as an `ApiError`."""

    settings: Settings
    pool: Pool
    ready: bool = False  # whether the last check, or a read since, went well
    is_partly_silent: bool = False  # whether some tables could not be read at the last check
    _reading: int = 0
    _told: str | None = field(default=None, init=False)
    _batches: BalanceBatches = field(init=False)
    locks: ReadLockWatch = field(init=False)

    def __post_init__(self) -> None:
        self.locks = ReadLockWatch(self.settings)
        self._batches = BalanceBatches(self._read_balances)

    async def balance(self, question: BalanceQuestion, wait_for: int) -> CurrentBalance | BalanceVersion:
        """Return an account's balance now, of the sequence `wait_for` or a later one; its known version if that holds.

        Raises:
            ApiError: when the account is unknown, the sequence does not come, or the database cannot answer.

        """
        found = await self._batches.balance(question)
        if wait_for > (found.sequence if found is not None else 0):
            await self._wait(question.account_id, wait_for)
            found = await self._batches.balance(question)
        if found is None:
            raise _unknown_account()
        return found

    async def statement(
        self, account_id: str, limit: int, after: int | None, before: int | None, wait_for: int
    ) -> StatementPage:
        """Return a page of an account's statement. `read_statement_page` describes the arguments.

        Raises:
            ApiError: as for `balance`.

        """
        page = await self._read_page(account_id, limit, after, before)
        if wait_for > (page.sequence if page is not None else 0):
            await self._wait(account_id, wait_for)
            page = await self._read_page(account_id, limit, after, before)
        if page is None:
            raise _unknown_account()
        return page

    async def answers(self, account_id: str, request: UUID | str, wait_for: int) -> RequestAnswers:
        """Return the stored answers to a request, named by its request id or by its producer's id that is no UUID.

        Raises:
            ApiError: when there is none or are several such requests, the sequence does not come, or the database
                cannot answer.

        """
        await self._wait(account_id, wait_for)
        async with self._connection() as connection:
            ids = [request] if isinstance(request, UUID) else await find_request_ids(connection, request, account_id)
            if len(ids) > 1:
                raise ApiError(
                    ProblemKind.AMBIGUOUS_REQUEST,
                    f"requests of {len(ids)} sources have this id: give `source`, or the request id of one:"
                    f" {', '.join(map(str, ids[:_NAMED]))}",
                )
            answers = await read_answers(connection, account_id, ids[0]) if ids else None
        if answers is None:
            raise ApiError(
                ProblemKind.UNKNOWN_REQUEST,
                "this account has no answer to this request id: it may not be decided yet, or it is a dead letter. Its"
                " result comes on the result topic; ask again later",
            )
        return answers

    async def watch(self) -> NoReturn:
        """Check every two seconds that the database answers, so that health needs no request to be known."""
        while True:
            self.ready = await self._answers(_CHECK)
            self.is_partly_silent = self.ready and not await self._answers(_CHECK_OTHERS)
            await asyncio.sleep(CHECK_SECONDS)

    async def _answers(self, question: str) -> bool:
        try:
            async with self._connection() as connection:
                await connection.fetchval(question)
        except ApiError:  # noted, and logged as it changed
            return False
        return True

    async def _read_balances(
        self, questions: Collection[BalanceQuestion]
    ) -> dict[BalanceQuestion, CurrentBalance | BalanceVersion]:
        async with self._connection() as connection:
            return await read_current_balances(connection, questions, utc_now())

    async def _read_page(
        self, account_id: str, limit: int, after: int | None, before: int | None
    ) -> StatementPage | None:
        async with self._connection() as connection:
            return await read_statement_page(connection, account_id, limit, after=after, before=before)

    async def _wait(self, account_id: str, wait_for: int) -> None:
        """Wait until an account has a sequence, looking again and again: between two looks no connection is held."""
        if wait_for <= 0:
            return
        pauses = iter(_POLL_SECONDS)
        until, pause = monotonic() + self.settings.api_wait_seconds, 0.0
        while True:
            async with self._connection() as connection:
                sequence = await read_sequence(connection, account_id)
            if sequence is not None and sequence >= wait_for:
                return
            pause = next(pauses, pause)
            if monotonic() + pause > until:
                has = "does not know the account" if sequence is None else f"is at {sequence}"
                raise ApiError(
                    ProblemKind.NOT_YET,
                    f"wait_for={wait_for}: this database {has} after {self.settings.api_wait_seconds:g} s. Ask again"
                    " after Retry-After; without wait_for the answer is what there is",
                )
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Lend a connection for as long as INMAIL_API_TIMEOUT_SECONDS.

        Raises:
            ApiError: for what the database cannot answer, and when too many wait.

        """
        if self._reading >= _WAITING_AT_MOST:
            raise ApiError(
                ProblemKind.BUSY, "too many requests wait for the database: ask again, or run more processes"
            )
        self._reading += 1
        token = self.locks.begin()
        try:
            async with asyncio.timeout(self.settings.api_timeout_seconds), self.pool.acquire() as connection:
                yield connection
        except DATABASE_ERRORS as error:
            self._note(repr(error))
            raise database_problem(error, self.locks.holder) from error
        finally:
            self.locks.end(token)
            self._reading -= 1
        self._note(None)

    def _note(self, trouble: str | None) -> None:
        """Log once that the database does not answer, and once that it answers again."""
        self.ready = self.ready or trouble is None  # every read begins with what the check reads
        kind = None if trouble is None else trouble.partition("(")[0]
        if kind == self._told:
            return
        self._told = kind
        log = structlog.get_logger("inmail.api")
        if trouble is None:
            log.info("database_answers")
        else:
            log.warning("database_cannot_answer", error=trouble)


def _unknown_account() -> ApiError:
    return ApiError(
        ProblemKind.UNKNOWN_ACCOUNT, "no event was decided for this account id: check it, or wait until one is decided"
    )
