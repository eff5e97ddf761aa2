"""The lane: one assigned partition being worked. The only file that knows how offsets and transactions fit together.

To open a lane, in this order: note its epoch; start its two transactional producers, which fences the last owner in
Kafka; raise the epoch, if nobody else has, which fences it in Postgres; read the committed offset and seek. Kafka's
committed offset says how far answers are published, the lane's row how far outcomes are stored: what lies between is
published first.

Then, batch after batch: decide in one Postgres transaction, publish in one Kafka transaction. A batch may be decided
while the one before it is published, but transactions follow one another: two at once could leave the older offset
as the last one written. After any doubtful error the lane begins again; deciding twice finds the first answers.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple
from uuid import UUID

import asyncpg
import structlog
from aiokafka import TopicPartition

from infra.kafka.clients import committed_offsets
from infra.kafka.topic_ids import topic_ids
from infra.kafka.transactions import Message, TransactionPair
from infra.postgres import Connection, is_refusal
from infra.retry import SERVER_ERRORS, ignoring_retriable, is_retriable
from infra.settings import Settings
from workers.errors import BreakerError, FencedError, LaneError
from workers.jobs.bisection import decide_bisected
from workers.jobs.dead_letters import dead_letters
from workers.jobs.decoding import DecodedBatch, decode_records
from workers.jobs.job import Batch, Decision, Job, StoredRange
from workers.lane.admission import Admission
from workers.lane.clients import Clients
from workers.lane.ended_topics import EndedTopics
from workers.lane.inbox import Inbox, Taken
from workers.lane.lane_row import LaneRow
from workers.lane.pauses import Pauses
from workers.lane.readback import Visible, find_visible
from workers.lane.recovery import Doubts, check_topic, published_to
from workers.lane.steps import finish_steps
from workers.lane.time_order import Turn, note_ahead
from workers.telemetry.tracing import NO_TRACE, BatchTrace

__all__ = ["Lane"]

_LEAVE_SECONDS = 2.0


class _Decided(NamedTuple):
    """A batch whose outcomes are stored and whose answers are to publish."""

    messages: list[Message]
    next_offset: int
    trace: BatchTrace = NO_TRACE


class Lane:
    """One partition's owner, from assignment to revocation: `run` is its task, the inbox its only way in."""

    def __init__(self, job: Job, tp: TopicPartition, clients: Clients, settings: Settings) -> None:
        self.inbox = Inbox()
        self._job, self._tp, self._settings = job, tp, settings
        self._consumer, self._admin, self._pool, self._breaker, worker, ends, self._traces = clients
        self._row = LaneRow(self._pool, job.group, tp.topic, tp.partition)
        self._ended = EndedTopics(settings, self._pool, job, self._row)
        self._counts, self._health = worker.counts, worker.lane(tp)
        self._admission = Admission(self._pool, ends, self._row, self.inbox, self._health, settings)
        self._log = structlog.get_logger("inmail.lane").bind(topic=tp.topic, partition=tp.partition)
        self.stopping = False
        self._pauses, self._doubts = Pauses(self._row, self.inbox, self._health, self._counts), Doubts()
        self._visible: Visible | None = None  # while it is in doubt how far answers are published

    def stop(self) -> None:
        """Finish the batch at hand, publish it, and return from `run`."""
        self.stopping = True
        self.inbox.stop()

    async def run(self) -> None:
        """Work until stopped.

        Where only an operator can let it go on, it says so and looks again: the worker's other lanes go on meanwhile.

        Raises:
            BreakerError: when too much of what is read is bad.
            KafkaError, PostgresError: when a server refuses what it should take: a deployment to mend, or an invariant.

        """
        while not self.stopping:
            self._producers = TransactionPair(self._settings, self._row.name)
            doubtful: Exception | None = None
            try:
                await self._open()
                await self._work()
            except BreakerError:
                raise
            except (FencedError, LaneError) as error:
                doubtful = error
            except SERVER_ERRORS as error:
                if not is_retriable(error):
                    raise
                doubtful = error
            finally:
                self.inbox.close()
                await self._producers.discard()
            if doubtful is not None:
                await self._pauses.after(doubtful)
        await self._leave()

    async def _leave(self) -> None:
        """Let the other lanes not wait for ticks of this one. Where that cannot be told, they wait in vain once."""
        with ignoring_retriable():
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._row.be_not_awaited()

    async def _open(self) -> None:
        self._health.opens()
        await self._row.look()
        await self._producers.start()
        stored, self._as_of = await self._row.take()
        self._stored = stored or 0
        await self._admission.open(len(self._consumer.partitions_for_topic(self._tp.topic) or ()))
        found = await topic_ids(self._admin, [self._tp.topic])
        topic_id = check_topic(self._tp, found.get(self._tp.topic), self._row.topic_id, stored)
        await self._ended.publish(self._producers, self._health.steps)
        published = (await committed_offsets(self._admin, self._job.group, [self._tp]))[self._tp]
        oldest = (await self._consumer.beginning_offsets([self._tp]))[self._tp]
        end = (await self._consumer.end_offsets([self._tp]))[self._tp]
        published, unsure_to = self._doubts.judge(published, self._row.published, self._stored, end)
        async with self._row.fenced():
            pass  # were there a newer owner, the group's offset could be beyond what was stored when this one began
        published = published_to(self._job.group, self._tp, published, stored, kept=(oldest, end))
        await self._row.go_on(topic_id)
        self._row.published, start = unsure_to or published, max(published, oldest)
        span = (published, unsure_to)
        self._visible = await find_visible(self._settings, self._tp, span, self._health.steps) if unsure_to else None
        if published < oldest:
            self._log.warning("publishing_from_books", offset=published, end=oldest)
            async with self._pool.acquire() as connection:
                gone = StoredRange(published, oldest, self._row.topic_since)
                messages = await self._job.replay_answers(connection, self._tp.partition, gone)
            await self._publish(_Decided(messages, oldest))
        self._consumer.seek(self._tp, start)
        self.inbox.open(start)
        self._log.info("lane_open", epoch=self._row.epoch, offset=start, stored=stored)

    async def _work(self) -> None:
        publishing: asyncio.Task[None] | None = None
        try:
            most = 1 if self._job.step is not None else self._settings.batch_records
            self._health.waits()
            while (taken := await self.inbox.take(most)) is not None:
                self._health.takes()
                turn = await self._admission.admit(taken, self._as_of, self._stored, lambda: self.stopping)
                if turn is None or (decided := await self._decide(*turn)) is None:
                    break
                self._health.decided()
                await _finished(publishing)
                publishing = asyncio.create_task(self._publish(decided))
                publishing.add_done_callback(self._wake)
            await _finished(publishing)
        finally:
            if publishing is not None:
                await asyncio.wait([publishing])
                publishing.exception()  # seen: whatever ended the loop is on its way up already

    async def _decide(self, taken: Taken, turn: Turn) -> _Decided | None:
        """Store the outcomes of a batch, in parts where the database refuses it whole; None where a stop came first."""
        found = self._health.decodes(decode_records, taken.records, self._as_of, self._admission.times)
        batch = Batch(found.requests, turn.waited_for)
        step = self._job.step
        if step is not None and not await finish_steps(step, batch, self._row, self._health, lambda: self.stopping):
            return None
        try:
            return await self._store(taken, turn, found, partial(self._job.decide, batch=batch))
        except asyncpg.PostgresError as error:
            if step is not None or not is_refusal(error):  # a tick brings no values: the books would be at fault
                raise
            self._counts["batches_decided_apart"] += 1
            self._log.warning("batch_decided_apart", error=repr(error), records=len(taken.records))
            return await self._store(taken, turn, found, partial(decide_bisected, self._job, batch=batch))

    async def _store(
        self,
        taken: Taken,
        turn: Turn,
        found: DecodedBatch,
        decide: Callable[[Connection], Awaitable[Decision]],
    ) -> _Decided:
        """Store the outcomes of a batch, and how far the lane has read, in one transaction; unless too much is bad."""
        with self._traces.trace_batch(self._tp, taken.records) as trace:
            async with self._row.fenced(taken.next_offset, found.as_of) as connection:
                answers, refused_by_job, codes = await decide(connection)
                refused = found.refused | refused_by_job
                self._breaker.judge(taken.records, refused, self._stored)
                if turn.ahead:
                    await note_ahead(connection, self._row, turn.ahead, taken, found.as_of, self._stored)
        self._as_of = found.as_of
        self._health.stored(len(taken.records), codes, [each.reason.value for each in refused.values()])
        self._health.overtakes(turn.waited_for, len(taken.records))
        messages = trace.add_headers(answers + dead_letters(taken.records, refused))
        return _Decided(messages, taken.next_offset, trace)

    async def _publish(self, decided: _Decided) -> None:
        """Publish a batch's answers, its dead letters and the offset after it, in one transaction."""
        messages, offsets = decided.messages, {self._tp: decided.next_offset}
        if self._visible is not None:
            messages, offsets = self._visible.missing(messages, offsets)
        with decided.trace.trace_publishing(messages):
            spent = await self._producers.publish(messages, offsets, self._job.group)
        if offsets:
            self._row.published, self._visible = decided.next_offset, None
        self._pauses.failures = 0
        self._health.published(spent)

    def _wake(self, publishing: asyncio.Task[None]) -> None:
        """Let the lane see that publishing failed: it may be waiting for records that never come."""
        error = None if publishing.cancelled() else publishing.exception()
        if isinstance(error, Exception):
            self.inbox.interrupt(error)

    def see_topic(self, found: UUID) -> None:
        """Take note of the id that the topic has now: another one ends what the lane does with the last one."""
        if self._row.topic_id not in (None, found):
            self.inbox.interrupt(LaneError(f"{self._tp.topic} has another id by now, {found}"))


async def _finished(publishing: asyncio.Task[None] | None) -> None:
    """Wait for the batch before, and raise what it raised.

    Waits beside the task instead of awaiting it: whoever cancels this lane must not cancel a commit.
    """
    if publishing is not None:
        await asyncio.wait([publishing])
        publishing.result()
