"""Forms of the turn with a protection taken out. The matrix has to fail on each: else it proves nothing."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import asyncpg
from aiokafka import TopicPartition

from infra.kafka import transactions
from infra.kafka.transactions import Message, TransactionPair, TransactionTimes
from infra.settings import Settings
from tests.crash.gate import CLAIM
from workers.lane import turn
from workers.lane.turn_queue import TurnQueue

__all__ = ["BROKEN"]


def _no_fence() -> None:
    """Nobody's last transaction is fenced by whoever acquires its lanes."""

    async def unfenced(_settings: Settings, _names: Iterable[str]) -> None: ...

    turn.fence_producers = unfenced


def _no_epoch() -> None:
    """A turn is stored whoever the lanes' owner is."""
    execute = asyncpg.Connection.execute

    async def unchecked(self: Any, query: str, *arguments: Any, **options: Any) -> str:
        if query.startswith(CLAIM):
            query = query.replace("l.epoch = u.epoch and l.owner = u.owner", "u.epoch is not null")
        return await execute(self, query, *arguments, **options)

    asyncpg.Connection.execute = unchecked  # type: ignore[method-assign,assignment]


def _two_at_once() -> None:
    """A turn's Kafka transaction begins while the one before is under way: its offsets may come first, or alone."""
    work = TurnQueue._work

    async def unordered(self: TurnQueue, lanes: Any, decide: Any, publish: Any, _: "asyncio.Task[None] | None") -> None:
        await work(self, lanes, decide, publish, None)

    class Open:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None: ...

    create = turn.LaneOwner.__init__

    def init(self: turn.LaneOwner, *arguments: Any) -> None:
        create(self, *arguments)
        self._one_transaction = Open()  # type: ignore[assignment]

    turn.LaneOwner.__init__ = init  # type: ignore[method-assign]
    TurnQueue._work = unordered  # type: ignore[method-assign]


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

    async def unseen(producer: Any, messages: Any, deliveries: Any) -> None:  # noqa: ARG001 - nothing is added
        await send(producer, messages, [])

    transactions._send = unseen


BROKEN: dict[str, Callable[[], None]] = {
    "no fence": _no_fence,
    "no epoch": _no_epoch,
    "two at once": _two_at_once,
    "offset first": _offset_first,
    "deliveries unawaited": _unawaited,
}
