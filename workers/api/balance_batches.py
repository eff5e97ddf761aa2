"""Balances that are asked for at the same time, read together.

A read that finds nobody at work is made at once. What is asked while reads are under way is the next read, of many
accounts: under load the database answers fewer statements, and the process waits for fewer answers. A request never
joins a read that has begun, so that its answer is not older than itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from workers.api.problems import ApiError
from workers.ops.books.current_balance import CurrentBalance

__all__ = ["BalanceBatches"]

_SIDE_BY_SIDE: Final = 2  # reads under way at once, so that a slow one does not hold up everybody
_ACCOUNTS_AT_MOST: Final = 100  # of one read

_Found = Mapping[str, CurrentBalance]


@dataclass(slots=True)
class BalanceBatches:
    """Reads balances, several at once where several are asked for."""

    read: Callable[[Collection[str]], Awaitable[_Found]]
    _waiting: list[tuple[str, "asyncio.Future[CurrentBalance | None]"]] = field(default_factory=list)
    _at_work: "set[asyncio.Task[None]]" = field(default_factory=set)

    async def balance(self, account_id: str) -> CurrentBalance | None:
        """Return an account's balance, of a read that begins now or later; None if the account is unknown.

        Raises:
            ApiError: as `read` does.

        """
        answer: asyncio.Future[CurrentBalance | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((account_id, answer))
        if len(self._at_work) < _SIDE_BY_SIDE:
            task = asyncio.create_task(self._work())
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)
        return await answer

    async def _work(self) -> None:
        """Read until nobody waits."""
        while self._waiting:
            batch = self._waiting[:_ACCOUNTS_AT_MOST]
            del self._waiting[:_ACCOUNTS_AT_MOST]
            try:
                found = await self.read({account_id for account_id, _ in batch})
            except ApiError as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(ApiError(error.kind, str(error)))
            except BaseException:
                for _, answer in batch:
                    answer.cancel()  # nobody may wait for ever
                raise
            else:
                for account_id, answer in batch:
                    if not answer.done():  # its request may be gone
                        answer.set_result(found.get(account_id))
