"""Forms of the lane with a protection taken out. The matrix has to fail on each: else it proves nothing."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import asyncpg
from aiokafka import TopicPartition

from infra.kafka import transactions
from infra.kafka.transactions import Message, TransactionPair, TransactionTimes
from infra.settings import Settings
from tests.crash.gate import CLAIM

__all__ = ["BROKEN"]


def _no_fence() -> None:
    """Transactional ids are a process's own: nobody's last transaction is fenced by starting."""
    create, numbers = TransactionPair.__init__, count()

    def init(self: TransactionPair, settings: Settings, name: str) -> None:
        create(self, settings, f"{name}.{os.getpid()}.{next(numbers)}")

    TransactionPair.__init__ = init  # type: ignore[method-assign]


def _no_epoch() -> None:
    """A batch is stored whoever the lane's owner is."""
    execute = asyncpg.Connection.execute

    async def unchecked(self: Any, query: str, *arguments: Any, **options: Any) -> str:
        if query.startswith(CLAIM):
            query = query.replace("epoch = $4", "$4::bigint is not null")
        return await execute(self, query, *arguments, **options)

    asyncpg.Connection.execute = unchecked  # type: ignore[method-assign,assignment]


def _offset_first() -> None:
    """The offset is committed in a transaction of its own, before the results."""
    publish = TransactionPair.publish

    async def twice(
        self: TransactionPair, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], group: str
    ) -> TransactionTimes:
        await publish(self, [], offsets, group)
        return await publish(self, messages, offsets, group)

    TransactionPair.publish = twice  # type: ignore[method-assign]


def _unawaited() -> None:
    """Results are handed over, and nobody looks what became of them."""
    send = transactions._send

    async def unseen(*arguments: Any) -> "list[asyncio.Future[Any]]":
        await send(*arguments)
        return []

    transactions._send = unseen


BROKEN: dict[str, Callable[[], None]] = {
    "no fence": _no_fence,
    "no epoch": _no_epoch,
    "offset first": _offset_first,
    "deliveries unawaited": _unawaited,
}
