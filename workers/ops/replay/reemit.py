"""Sending answers from the books once more: the bytes and event ids they had, at a steady rate, on record.

No worker is stopped and no offset moves. What was sent is noted after the brokers have it: an operation that was killed
sends at most the last second's events again, which whoever drops known ids does not see.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

from infra.kafka.sender import Outgoing, Sender
from infra.rate_limit import RateLimit
from infra.settings import Settings
from workers.jobs.job import Message
from workers.ops.operations import Intent, OngoingOperation, Operator, recorded
from workers.ops.replay.reemit_plan import VERB, ReemitPlan, RowFilter, RowPosition, arguments_of, pages

__all__ = ["reemit"]

_TOGETHER = 500  # events at most that may be sent again when a process is killed
_NAMED = 20  # of the events that a broker refused


async def reemit(  # noqa: PLR0913 - what, how and by whom, and how to stop it
    settings: Settings,
    selection: RowFilter,
    plan: ReemitPlan,
    *,
    who: Operator,
    stop: asyncio.Event,
    progress: Callable[[int], None] = lambda _: None,
) -> OngoingOperation:
    """Send what a plan counted; return the operation and its result.

    What is booked meanwhile comes along where its account's turn is still to come.

    Args:
        settings: where Kafka and Postgres are.
        selection: which rows are meant, as the plan was made for.
        plan: what was agreed to.
        who: who it is, and why.
        stop: ends it between two events. The same again goes on from there.
        progress: called with the number of events dealt with.

    Raises:
        RefusedError: when another reemission is under way.
        KafkaError, OSError, asyncpg.PostgresError: when it cannot go on. The same again goes on.

    """
    intent = Intent(VERB, *who, arguments_of(selection, plan.to), plan.summary())
    async with recorded(settings, intent) as operation:
        emitter = _Emitter(settings, operation, plan, stop)
        try:
            await operation.note()  # killed before its first chunk, it is gone on with from where it was to begin
            async with aclosing(pages(operation.connection, selection, plan.start)) as found:
                async for page in found:
                    await emitter.emit(page, progress)
                    if operation.stopped:
                        break
        finally:
            await emitter.close()
    return operation


class _Emitter:
    """Sends at a rate, and notes how far it has come."""

    def __init__(self, settings: Settings, operation: OngoingOperation, plan: ReemitPlan, stop: asyncio.Event) -> None:
        self._sender = Sender(settings, f"inmail-{VERB}", self._count, self._refuse)
        self._operation = operation
        self._plan = plan
        self._rate_limit = RateLimit(plan.rate, stop)
        self._events: list[Message] = []  # of the chunk at hand
        self._position = plan.start
        self._dealt_with = 0
        operation.result |= {
            "sent": 0,
            "sent_before": plan.sent_before,
            "refused": 0,
            "first_refused": [],
            "position": plan.start.summary(),
        }

    async def close(self) -> None:
        """Stop sending."""
        await self._sender.close()

    async def emit(self, page: Sequence[tuple[RowPosition, Message]], progress: Callable[[int], None]) -> None:
        """Send a page, until asked to stop."""
        # A second's worth at most, so that the note is never far behind.
        size = max(1, min(_TOGETHER, round(self._plan.rate)))
        for first in range(0, len(page), size):
            await self._send(page[first : first + size])
            self._operation.result["position"] = self._position.summary()
            await self._operation.note()
            progress(self._dealt_with)
            if self._operation.stopped:
                return

    async def _send(self, chunk: Sequence[tuple[RowPosition, Message]]) -> None:
        self._events = [message for _, message in chunk]
        position = self._position
        for number, (place, message) in enumerate(chunk):
            if await self._rate_limit.before():
                self._operation.stopped = True
                break
            topic = self._plan.to or message.topic
            outgoing = Outgoing(topic, message.key, message.value)
            # Without a key it is a tick's: a topic of fewer partitions has another place for it.
            partition = None if message.partition is None else message.partition % self._plan.partitions[topic]
            await self._sender.send(number, outgoing, partition)
            position = place
        await self._sender.settle()
        self._position = position  # only now: the brokers have it

    def _count(self, _: str) -> None:
        self._operation.result["sent"] += 1
        self._dealt_with += 1

    def _refuse(self, number: int, why: str) -> None:
        """Note an event that the broker takes from nobody: larger than its topic allows, for one."""
        self._dealt_with += 1
        self._operation.result["refused"] += 1
        if len(self._operation.result["first_refused"]) < _NAMED:
            event = self._events[number]
            named = {"account": None if event.key is None else event.key.decode(), "bytes": len(event.value)}
            self._operation.result["first_refused"].append(named | {"why": why[:300]})
