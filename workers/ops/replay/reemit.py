"""Publishes stored answers once more at a steady rate, on record, with the same bytes and event ids.

No worker is stopped and no offset moves. The position is saved after the brokers have acknowledged the events: an
operation that is killed and resumed sends at most the last second's events twice, with the same ids.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from aiokafka.errors import BrokerResponseError

from infra.kafka.chunk_sender import ChunkResult, ChunkSender
from infra.kafka.sender import Outgoing
from infra.settings import Settings
from workers.jobs.job import Message
from workers.ops.numbers import one_server_of
from workers.ops.operations import Intent, OngoingOperation, Operator
from workers.ops.replay.reemit_plan import VERB, ReemitPlan, operation_arguments
from workers.ops.replay.reemit_rows import RowFilter, RowPosition, read_pages
from workers.ops.replay.server_runs import Progress, run_parts

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
    progress: Progress = lambda _: None,
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
    settings = await one_server_of(settings, selection.account, selection.partition)

    async def work(operation: OngoingOperation, part: ReemitPlan, progress: Progress) -> None:
        emitter = _Emitter(settings, operation, part, stop, progress)
        try:
            await operation.save_progress()  # saves the start, in case the process is killed before the first chunk
            async with aclosing(read_pages(operation.connection, selection, part.start, part.numbers)) as found:
                async for page in found:
                    await emitter.emit(page)
                    if operation.stopped:
                        break
        finally:
            await emitter.close()

    intent = Intent(VERB, *who, operation_arguments(selection, plan.to, plan.topic_ids), plan.summary())
    return await run_parts(settings, intent, plan, work, stop=stop, progress=progress)


class _Emitter(ChunkSender[tuple[RowPosition, Message]]):
    """Sends events at a rate; saves the position after each chunk."""

    def __init__(
        self,
        settings: Settings,
        operation: OngoingOperation,
        plan: ReemitPlan,
        stop: asyncio.Event,
        progress: Progress,
    ) -> None:
        super().__init__(settings, f"inmail-{VERB}", plan.rate, stop, chunk_size=_CHUNK)
        self._operation = operation
        self._plan = plan
        self._progress = progress
        self._dealt_with = 0
        operation.result |= {
            "sent": 0,
            "sent_before": plan.sent_before,
            "refused": 0,
            "first_refused": [],
            "position": plan.start.summary(),
        }

    async def emit(self, page: Sequence[tuple[RowPosition, Message]]) -> None:
        """Send a page of events, or a part of it if a stop is requested."""
        self._operation.stopped = await self.send_all([(row, self._outgoing(row[1])) for row in page])

    async def after_chunk(self, result: ChunkResult[tuple[RowPosition, Message]]) -> None:
        """Count the events and, if the brokers have answered all, save the position of the last."""
        self._operation.result["sent"] += len(result.sent)
        for (_, event), error in result.refused:
            self._record_refusal(event, error)
        self._dealt_with += len(result.sent) + len(result.refused)
        if result.failed:
            return
        if result.handed_over:
            position, _ = result.handed_over[-1]
            self._operation.result["position"] = position.summary()
        await self._operation.save_progress()
        self._progress(self._dealt_with)

    def _outgoing(self, message: Message) -> Outgoing:
        topic = self._plan.to or message.topic
        # A tick's answer has a partition instead of a key; the target topic may have fewer partitions.
        partition = None if message.partition is None else message.partition % self._plan.partitions[topic]
        return Outgoing(topic, message.key, message.value, None, tuple(message.headers or ()), partition=partition)

    def _record_refusal(self, event: Message, error: BrokerResponseError) -> None:
        """Record an event that the broker refuses, such as one larger than its topic allows."""
        self._operation.result["refused"] += 1
        if len(self._operation.result["first_refused"]) < _NAMED:
            named = {"account": None if event.key is None else event.key.decode(), "bytes": len(event.value)}
            self._operation.result["first_refused"].append(named | {"why": f"refused: {error!r}"[:300]})
