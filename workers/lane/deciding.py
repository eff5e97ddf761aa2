"""Decides what some lanes may decide, in one Postgres transaction of their owner."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import asyncpg
import structlog
from aiokafka.structs import ConsumerRecord

from infra.clock import LATEST
from infra.kafka.transactions import Message
from infra.postgres import Connection, is_refusal
from infra.retry import LOCK_ERRORS, describe_error, suppress_retriable
from workers.errors import BreakerError
from workers.jobs.bisection import decide_bisected
from workers.jobs.dead_letters import dead_letters
from workers.jobs.decoding import DecodedBatch, decode_records
from workers.jobs.job import Batch, Decision, Job
from workers.lane.circuit_breaker import CircuitBreaker
from workers.lane.inbox import Taken
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRows, Progress
from workers.lane.time_order import Decidable, Overtaken
from workers.telemetry.health import Health
from workers.telemetry.tracing import NO_TRACE, BatchTrace, Traces
from workers.telemetry.worker_metrics import Stage

__all__ = ["Decided", "Decider", "LaneBatch"]

_FEW_STEPS = 2
_MOST_LOCKED = 2  # lanes, before one that is not: with more the trouble counts as the database's


class LaneBatch(NamedTuple):
    """What one lane may decide now."""

    lane: Lane
    taken: Taken
    decidable: Decidable


class Decided(NamedTuple):
    """Where the next batches of lanes begin whose outcomes are stored, and the answers that are to publish."""

    next_offsets: dict[Lane, int]
    messages: list[Message]
    trace: BatchTrace = NO_TRACE
    record_times: Sequence[int] = ()  # of the records that are answered: the broker's, in milliseconds


class Decider:
    """Stores outcomes, and how far each lane has read, in transactions that only the lanes' owner can commit."""

    def __init__(self, job: Job, rows: LaneRows, breaker: CircuitBreaker, health: Health, traces: Traces) -> None:
        self._job, self._rows, self._breaker, self._health, self._traces = job, rows, breaker, health, traces
        self._log = structlog.get_logger("inmail.worker").bind(worker=job.group)

    async def finish_steps(self, batches: Sequence[LaneBatch]) -> list[LaneBatch]:
        """Do a step of each batch; return the batches of which none is left.

        A lane that is kept from its rows is interrupted, and begins again; the others go on.

        Raises:
            FencedError: when a lane has a newer owner.
            PostgresError, OSError: when the first of several lanes were kept: each waits as long as a lock may.

        """
        finished: list[LaneBatch] = []
        locked, got_on = 0, False
        for batch in batches:
            try:
                if await self._finish_step(batch):
                    finished.append(batch)
                got_on = True
            except LOCK_ERRORS as error:
                locked += 1
                batch.lane.come_last()
                if locked > _MOST_LOCKED and not got_on:
                    raise
                batch.lane.inbox.interrupt(error)
        return finished

    async def _finish_step(self, batch: LaneBatch) -> bool:
        """Do a step of a lane's batch, in a transaction of its own; return whether none is left.

        Otherwise the lane's next turn goes on with the next one; after a stop its next owner does.

        Raises:
            FencedError: when there is a newer owner.

        """
        step, lane = self._job.step, batch.lane
        assert step is not None  # noqa: S101 - the job has steps
        found = _decode(batch)
        async with self._rows.fenced([Progress(lane.row)]) as connection:
            is_left = await step(connection, Batch(found.requests, read_to=batch.decidable.read_to))
            lane.steps += 1
            if is_left and lane.steps == _FEW_STEPS:  # a longer tick runs beside the others: they do not wait for it
                await self._rows.release_waiters(connection, lane.row)
        lane.health.steps()
        if is_left:
            lane.inbox.put_back(batch.taken)
            lane.changed()
        return not is_left

    async def decide(self, batches: Sequence[LaneBatch]) -> list[Decided]:
        """Store the outcomes of some lanes' batches: of each alone where one waits for a lock that somebody holds.

        A lane that is kept from its rows then is interrupted, and begins again; the others are decided.

        Raises:
            BreakerError, FencedError: see `_decide`.
            PostgresError, OSError: when none of several lanes could be decided. The next turn begins with others.

        """
        try:
            return [await self._decide(batches)]
        except LOCK_ERRORS as error:
            if len(batches) == 1:
                batches[0].lane.inbox.interrupt(error)
                return []
            self._log.warning("lanes_decided_apart", error=describe_error(error), partitions=_partitions(batches))
        decided: list[Decided] = []
        locked: dict[Lane, Exception] = {}
        for batch in sorted(batches, key=lambda each: each.lane.received_at):
            try:
                decided.append(await self._decide([batch]))
            except LOCK_ERRORS as still:
                batch.lane.come_last()
                locked[batch.lane] = still
                if len(locked) > _MOST_LOCKED and not decided:
                    raise
        if not decided:
            raise locked.popitem()[1]
        for lane, kept in locked.items():
            lane.inbox.interrupt(kept)
        return decided

    async def _decide(self, batches: Sequence[LaneBatch]) -> Decided:
        """Store the outcomes of some lanes' batches, in parts where the database refuses them together.

        Raises:
            BreakerError: when too much of what is read is bad; noted in the lane's row.
            FencedError: when one of the lanes has a newer owner.

        """
        with self._health.stage(Stage.DECODE):
            found = list(map(_decode, batches))
        requests = [request for each in found for request in each.requests]
        if len(batches) > 1 and any(batch.decidable.is_misplaced for batch in batches):
            requests.sort(key=attrgetter("as_of"))  # an account may have requests in several of the lanes
        batch = Batch(requests, batches[0].decidable.waited_for, since=_since(batches))
        with self._health.stage(Stage.DECIDE):
            try:
                return await self._store(batches, found, partial(self._job.decide, batch=batch))
            except asyncpg.PostgresError as error:
                # A tick brings no values: the database would be at fault.
                if self._job.step is not None or not is_refusal(error):
                    raise
                self._health.counts["batches_decided_apart"] += 1
                self._log.warning(
                    "batch_decided_apart", error=repr(error), records=len(requests), partitions=_partitions(batches)
                )
                return await self._store(batches, found, partial(decide_bisected, self._job, batch=batch))

    async def _store(
        self,
        batches: Sequence[LaneBatch],
        found: Sequence[DecodedBatch],
        decide: Callable[[Connection], Awaitable[Decision]],
    ) -> Decided:
        records = [record for _, taken, _ in batches for record in taken.records]
        progress = [
            Progress(lane.row, taken.next_offset, decoded.as_of, decidable.head)
            for (lane, taken, decidable), decoded in zip(batches, found, strict=True)
        ]
        bad: dict[Lane, int] = {}
        with self._traces.trace_batch(self._rows.topic, records) as trace:
            try:
                async with self._rows.fenced(progress) as connection:
                    answers, refused, codes = await decide(connection)
                    for (lane, taken, decidable), decoded in zip(batches, found, strict=True):
                        refused |= decoded.refused
                        bad[lane] = self._breaker.record(taken.records, refused, lane.stored_at_start)
                        if decidable.overtaken:
                            await _record_overtaken(connection, lane, decidable.overtaken, taken.records, decoded.as_of)
                    if any(bad.values()):  # what is good passes, whatever the others have
                        self._breaker.judge()
            except BreakerError as error:
                with suppress_retriable():  # the worker ends anyway
                    await self._rows.pause(max(bad, key=lambda each: bad[each]).row, str(error))
                raise
        for (lane, taken, decidable), decoded in zip(batches, found, strict=True):
            lane.as_of, lane.steps, lane.at_hand, lane.told_head = decoded.as_of, 0, False, decidable.head
            lane.health.decided()
            lane.health.overtakes(decidable.waited_for, len(taken.records))
        self._health.stored(len(records), codes, [each.reason.value for each in refused.values()])
        next_offsets = {lane: taken.next_offset for lane, taken, _ in batches}
        messages = trace.add_headers(answers + dead_letters(records, refused, _since(batches)))
        return Decided(next_offsets, messages, trace, [record.timestamp for record in records])


def _partitions(batches: Sequence[LaneBatch]) -> list[int]:
    return sorted(batch.lane.partition for batch in batches)


def _since(batches: Sequence[LaneBatch]) -> dict[int, datetime]:
    """Return the partitions whose topic followed another one of its name, with the watermark then."""
    rows = [each.lane.row for each in batches]
    return {row.partition: row.topic_since for row in rows if row.topic_since is not None}


def _decode(batch: LaneBatch) -> DecodedBatch:
    """Decode a lane's batch. What was decided before its clock was set back does not carry it off again."""
    lane, records = batch.lane, batch.taken.records
    is_stored = records and records[-1].offset < lane.stored_at_start
    is_capped = is_stored and records[0].offset < lane.guard.set_back_before
    return decode_records(records, lane.as_of, lane.times, lane.as_of if is_capped else LATEST)


async def _record_overtaken(
    connection: Connection,
    lane: Lane,
    overtaken: Sequence[Overtaken],
    records: Sequence[ConsumerRecord],
    as_of: datetime,
) -> None:
    """Note, in the transaction that decides them, records that are ahead of other lanes, or late for them.

    Records before the lane's `stored_at_start` are only published again: what there was to note was noted before.
    """
    first, end = max(records[0].offset, lane.stored_at_start), records[-1].offset + 1
    if first >= end:
        return
    await connection.executemany(
        "insert into decided_ahead as d"
        " (consumer_group, partition, neighbour, neighbour_offset, first_offset, next_offset, as_of)"
        " values ($1, $2, $3, $4, $5, $6, $7) on conflict (consumer_group, partition, neighbour, neighbour_offset)"
        " do update set first_offset = least(d.first_offset, excluded.first_offset),"
        " next_offset = greatest(d.next_offset, excluded.next_offset), as_of = greatest(d.as_of, excluded.as_of)",
        [(lane.group, lane.partition, other, at, first, end, as_of) for other, at in overtaken],
    )
