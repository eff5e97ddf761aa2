"""Publishes stored answers once more at a steady rate, on record, with the same bytes and event ids.

No worker is stopped and no offset moves. The position is saved after the brokers have acknowledged the events: an
operation that is killed and resumed sends at most the last second's events twice, with the same ids.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

from infra.kafka.sender import Outgoing, Sender
from infra.rate_limit import RateLimit
from infra.settings import Settings
from workers.jobs.job import Message
from workers.ops.operations import Intent, OngoingOperation, Operator, recorded_operation
from workers.ops.replay.reemit_plan import VERB, ReemitPlan, RowFilter, RowPosition, operation_arguments, read_pages

__all__ = ["reemit"]

_CHUNK = 500  # maximum number of events sent twice when a process is killed
_NAMED = 20  # refused events in the operation's result


async def reemit(  # noqa: PLR0913 - what, how and by whom, and how to stop it
    settings: Settings,
    selection: RowFilter,
    plan: ReemitPlan,
    *,
    who: Operator,
    stop: asyncio.Event,
    progress: Callable[[int], None] = lambda _: None,
) -> OngoingOperation:
    """Send the events of a plan; return the operation and its result.

    Rows booked during the reemission are included if their account has not been sent yet.

    Args:
        settings: where Kafka and Postgres are.
        selection: the filter that the plan was made with.
        plan: the accepted plan.
        who: the operator.
        stop: ends the reemission between two events; the same command resumes it.
        progress: called with the number of events sent or refused.

    Raises:
        RefusedError: when another reemission is running.
        KafkaError, OSError, asyncpg.PostgresError: when the reemission fails; the same command resumes it.

    """
    intent = Intent(VERB, *who, operation_arguments(selection, plan.to), plan.summary())
    async with recorded_operation(settings, intent) as operation:
        emitter = _Emitter(settings, operation, plan, stop)
        try:
            await operation.save_progress()  # saves the start, in case the process is killed before the first chunk
            async with aclosing(read_pages(operation.connection, selection, plan.start)) as found:
                async for page in found:
                    await emitter.emit(page, progress)
                    if operation.stopped:
                        break
        finally:
            await emitter.close()
    return operation


class _Emitter:
    """Sends events at a rate, and saves the position."""

    def __init__(self, settings: Settings, operation: OngoingOperation, plan: ReemitPlan, stop: asyncio.Event) -> None:
        self._sender = Sender(settings, f"inmail-{VERB}", self._count, self._record_refusal)
        self._operation = operation
        self._plan = plan
        self._rate_limit = RateLimit(plan.rate, stop)
        self._events: list[Message] = []  # of the current chunk
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
        """Close the producer."""
        await self._sender.close()

    async def emit(self, page: Sequence[tuple[RowPosition, Message]], progress: Callable[[int], None]) -> None:
        """Send a page of events, or a part of it if a stop is requested."""
        # At most one second's events, so that the saved position is recent.
        size = max(1, min(_CHUNK, round(self._plan.rate)))
        for first in range(0, len(page), size):
            await self._send(page[first : first + size])
            self._operation.result["position"] = self._position.summary()
            await self._operation.save_progress()
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
            outgoing = Outgoing(topic, message.key, message.value, headers=tuple(message.headers or ()))
            # A tick's answer has a partition instead of a key; the target topic may have fewer partitions.
            partition = None if message.partition is None else message.partition % self._plan.partitions[topic]
            await self._sender.send(number, outgoing, partition)
            position = place
        await self._sender.settle()
        self._position = position  # the brokers have acknowledged the events

    def _count(self, _: str) -> None:
        self._operation.result["sent"] += 1
        self._dealt_with += 1

    def _record_refusal(self, number: int, why: str) -> None:
        """Record an event that the broker refuses, such as one larger than its topic allows."""
        self._dealt_with += 1
        self._operation.result["refused"] += 1
        if len(self._operation.result["first_refused"]) < _NAMED:
            event = self._events[number]
            named = {"account": None if event.key is None else event.key.decode(), "bytes": len(event.value)}
            self._operation.result["first_refused"].append(named | {"why": why[:300]})
