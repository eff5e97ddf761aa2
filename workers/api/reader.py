"""Reads of the ledger for the API: each of the server that holds the account, however many servers there are."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, NoReturn, TypeVar
from uuid import UUID

import asyncpg

from infra.lock_holder import LockHolder
from infra.settings import Settings
from infra.shards import RepeatedServerError, find_repeated
from workers.api.problems import ApiError, ProblemKind
from workers.api.server_reads import ServerReads
from workers.ops.books.current_balance import BalanceQuestion, BalanceVersion, CurrentBalance, read_sequence
from workers.ops.books.original_ids import find_request_ids
from workers.ops.books.shards import server_name
from workers.ops.books.statement_page import RequestAnswers, StatementPage, read_answers, read_statement_page

__all__ = ["CHECK_SECONDS", "LedgerReader"]

Answer = TypeVar("Answer")

CHECK_SECONDS: Final = 2.0
_NAMED: Final = 5
# Between two looks for a sequence: twice as long each time, so that many who wait for a replica do not keep it busy.
_FIRST_PAUSE_SECONDS: Final = 0.01
_LONGEST_PAUSE_SECONDS: Final = 0.5
_ATTEMPTS: Final = 3  # to find an account whose number moves
_ASK_AGAIN_SECONDS: Final = 0.1  # what servers hold is asked at most so often


@dataclass(slots=True)
class LedgerReader:
    """The reads of the API. What the database cannot answer is raised as an `ApiError`."""

    settings: Settings
    servers: Sequence[ServerReads]
    stopping: bool = False  # whether the process is to end soon, and new requests are for others
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _asked_at: float = field(default=0.0, init=False)

    @property
    def ready(self) -> bool:
        """Whether the last check of a server, or a read since, went well: one that is away keeps no other's reads.

        A list of servers that is wrong does: whoever replaces this process by one with such a list is stopped. So does
        the end of this process.
        """
        return any(each.ready for each in self.servers) and self.repeated is None and not self.stopping

    @property
    def repeated(self) -> RepeatedServerError | None:
        """Which two URLs lead to one server."""
        said = [
            (server_name(each.settings), None if each.holdings is None else each.holdings.shard)
            for each in self.servers
        ]
        return next(iter(find_repeated(said).values()), None)

    @property
    def holder(self) -> LockHolder | None:
        """Who keeps reads waiting on a server, or did a moment ago."""
        return next((each.locks.holder for each in self.servers if each.locks.holder is not None), None)

    async def balance(self, question: BalanceQuestion, wait_for: int) -> CurrentBalance | BalanceVersion:
        """Return an account's balance now, of the sequence `wait_for` or a later one; its known version if that holds.

        Raises:
            ApiError: when the account is unknown, the sequence does not come, or the database cannot answer.

        """

        async def read(server: ServerReads) -> tuple[int | None, CurrentBalance | BalanceVersion | None]:
            found = await server.batches.balance(question)
            return None if found is None else found.sequence, found

        found = await self._read_from(question.account_id, wait_for, read, None)
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

        async def read(server: ServerReads) -> tuple[int | None, StatementPage | None]:
            async with server.connection() as connection:
                page = await read_statement_page(connection, account_id, limit, after=after, before=before)
            return None if page is None else page.sequence, page

        page = await self._read_from(account_id, wait_for, read, None)
        if page is None:
            raise _unknown_account()
        return page

    async def answers(self, account_id: str, request: UUID | str, wait_for: int) -> RequestAnswers:
        """Return the stored answers to a request, named by its request id or by its producer's id that is no UUID.

        Raises:
            ApiError: when there is none or are several such requests, the sequence does not come, or the database
                cannot answer.

        """

        async def read(server: ServerReads) -> tuple[int | None, tuple[list[UUID], RequestAnswers | None]]:
            async with server.connection() as connection:
                # Before the answers, in the same session: they are then of this sequence or a later one.
                sequence = await read_sequence(connection, account_id) if wait_for else None
                ids = (
                    [request] if isinstance(request, UUID) else await find_request_ids(connection, request, account_id)
                )
                found = await read_answers(connection, account_id, ids[0]) if len(ids) == 1 else None
            return sequence, (ids, found)

        none: tuple[list[UUID], RequestAnswers | None] = [], None
        ids, answers = await self._read_from(account_id, wait_for, read, none)
        if len(ids) > 1:
            raise ApiError(
                ProblemKind.AMBIGUOUS_REQUEST,
                f"requests of {len(ids)} sources have this id: give `source`, or the request id of one:"
                f" {', '.join(map(str, ids[:_NAMED]))}",
            )
        if answers is None:
            raise ApiError(
                ProblemKind.UNKNOWN_REQUEST,
                "this account has no answer to this request id: it may not be decided yet, or it is a dead letter. Its"
                " result comes on the result topic; ask again later",
            )
        return answers

    async def watch(self) -> NoReturn:
        """Check every two seconds that each server answers, so that health needs no request to be known."""
        while True:
            await asyncio.gather(*(each.check() for each in self.servers))
            await asyncio.sleep(CHECK_SECONDS)

    async def _read(self, account_id: str, read: Callable[[ServerReads], Awaitable[Answer]]) -> Answer:
        """Read an account on the server that holds it; again where its number left that server meanwhile."""
        if len(self.servers) == 1:
            return await read(self.servers[0])
        for _ in range(_ATTEMPTS):
            server = await self._find_server(account_id)
            found = await read(server)
            if server.has_account(account_id):
                return found
        raise self._not_held()

    async def _find_server(self, account_id: str) -> ServerReads:
        holders = [each for each in self.servers if each.has_account(account_id)]
        if len(holders) != 1:
            await self._ask_servers()
            holders = [each for each in self.servers if each.has_account(account_id)]
        if len(holders) != 1:
            raise self._not_held()
        return holders[0]

    def _not_held(self) -> ApiError:
        return ApiError(
            ProblemKind.DATABASE_AWAY,
            "no server that answers holds this account's partition number: it is on its way to another server, or its"
            " server is away. Ask again a little later"
            if self.repeated is None
            else "two addresses of this API's servers are one server: its operator sees which at /readyz",
        )

    async def _ask_servers(self) -> None:
        """Ask every server what it holds; a check ends with that. One that does not answer is taken as before."""
        async with self._asking:
            if monotonic() - self._asked_at >= _ASK_AGAIN_SECONDS:
                await asyncio.gather(*(each.check() for each in self.servers))
                self._asked_at = monotonic()

    async def _read_from(
        self,
        account_id: str,
        wait_for: int,
        read: Callable[[ServerReads], Awaitable[tuple[int | None, Answer]]],
        nothing: Answer,
    ) -> Answer:
        """Read an account once it has a sequence, looking again and again: between two looks no connection is held.

        A look may have been at another replica than a read: the sequence of the read itself counts.

        Args:
            account_id: whose rows.
            wait_for: the sequence; 0: any, and of an account that is not there as well.
            read: returns the account's sequence, as of the read or of before, and what was read.
            nothing: what to return where the database, which is not UTF-8, can have no such account or request.

        """
        try:
            return await self._read_once_there(account_id, wait_for, read)
        except asyncpg.UntranslatableCharacterError:
            return nothing

    async def _read_once_there(
        self, account_id: str, wait_for: int, read: Callable[[ServerReads], Awaitable[tuple[int | None, Answer]]]
    ) -> Answer:

        async def look(server: ServerReads) -> int | None:
            async with server.connection() as connection:
                return await read_sequence(connection, account_id)

        until, pause = monotonic() + self.settings.api_wait_seconds, _FIRST_PAUSE_SECONDS
        sequence, found = await self._read(account_id, read)
        while wait_for > (sequence or 0):
            if (left := until - monotonic()) <= 0:
                raise _not_yet(wait_for, sequence, self.settings.api_wait_seconds)
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            sequence = await self._read(account_id, look)
            if wait_for <= (sequence or 0):
                sequence, found = await self._read(account_id, read)
        return found


def _not_yet(wait_for: int, sequence: int | None, seconds: float) -> ApiError:
    has = "does not know the account" if sequence is None else f"is at {sequence}"
    return ApiError(
        ProblemKind.NOT_YET,
        f"wait_for={wait_for}: this database {has} after {seconds:g} s. Ask again after Retry-After; without wait_for"
        " the answer is what there is",
    )


def _unknown_account() -> ApiError:
    return ApiError(
        ProblemKind.UNKNOWN_ACCOUNT, "no event was decided for this account id: check it, or wait until one is decided"
    )
