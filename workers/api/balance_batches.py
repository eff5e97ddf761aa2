"""Balances that are asked for at the same time, read together.

A request that finds nobody at work is read at once. The next read begins a few milliseconds after it, with all that was
asked meanwhile: under load the database answers fewer statements, and the process waits for fewer answers. A request
never joins a read that has begun, so that its answer is not older than itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from workers.api.problems import ApiError, too_busy
from workers.ops.books.current_balance import BalanceQuestion, BalanceVersion, CurrentBalance

__all__ = ["BalanceBatches"]

_SIDE_BY_SIDE: Final = 2  # reads under way at once, so that a slow one does not hold up everybody
_QUESTIONS_AT_MOST: Final = 100  # of one read
_WAITING_AT_MOST: Final = 1000  # for a read to begin: more would only wait for a timeout
# From the start of a read to the start of the next. At 1,000 requests a second, half of which would have been a read
# each, it is an eighth of the reads; a request waits for half of it on average.
_APART_SECONDS: Final = 0.004

_Answer = CurrentBalance | BalanceVersion
_Found = Mapping[BalanceQuestion, _Answer]


@dataclass(slots=True)
class BalanceBatches:
    """Reads balances, several at once where several are asked for."""

    read: Callable[[Collection[BalanceQuestion]], Awaitable[_Found]]
    seconds: float  # until a question is given up, whether its read has begun or not
    give_up: Callable[[TimeoutError], ApiError]  # tells why
    _waiting: list[tuple[BalanceQuestion, "asyncio.Future[_Answer | None]"]] = field(default_factory=list)
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)  # kept alive; one that ends leaves a moment later
    _at_work: int = 0  # tasks that take what waits; one that ends is not counted from that very step on
    _gathers: bool = False  # whether one of those at work has not begun its read yet
    _next_read: float = 0.0  # by the loop's clock

    async def balance(self, question: BalanceQuestion) -> _Answer | None:
        """Return the answer of a read that begins now or later: a balance, or the known version if it still holds.

        None if the account is unknown.

        Raises:
            ApiError: as `read` does, and where it has not answered in time, or too many wait.

        """
        if len(self._waiting) >= _WAITING_AT_MOST:
            raise too_busy()
        answer: asyncio.Future[_Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if not self._gathers and self._at_work < _SIDE_BY_SIDE:
            self._gathers = True
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(self.seconds):
                return await answer
        except TimeoutError as error:
            raise self.give_up(error) from error

    async def _work(self) -> None:
        self._at_work += 1
        try:
            await self._gather_and_read()
        except BaseException:
            if self._at_work == 1:  # nobody is left to take what waits
                _cancel(self._waiting)
            raise
        finally:
            self._at_work -= 1

    async def _gather_and_read(self) -> None:
        """Gather and read, until nobody waits or somebody else gathers."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                if (early := self._next_read - loop.time()) > 0:
                    await asyncio.sleep(early)
            except BaseException:
                self._gathers = False
                _cancel(self._waiting)
                raise
            self._gathers = False
            self._next_read = loop.time() + _APART_SECONDS
            waiting = [each for each in self._waiting if not each[1].done()]  # others have been given up
            batch, self._waiting = waiting[:_QUESTIONS_AT_MOST], waiting[_QUESTIONS_AT_MOST:]
            if batch:
                await self._answer(batch)
            if self._gathers or not self._waiting:
                return
            self._gathers = True

    async def _answer(self, batch: list[tuple[BalanceQuestion, "asyncio.Future[_Answer | None]"]]) -> None:
        try:
            found = await self.read({question for question, _ in batch})
        except ApiError as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(ApiError(error.kind, str(error)))
        except BaseException:
            _cancel(batch)
            raise
        else:
            for question, answer in batch:
                if not answer.done():  # its request may be gone
                    answer.set_result(found.get(question))


def _cancel(batch: list[tuple[BalanceQuestion, "asyncio.Future[_Answer | None]"]]) -> None:
    """End requests that nobody will answer: none may wait for ever."""
    for _, answer in batch:
        answer.cancel()
