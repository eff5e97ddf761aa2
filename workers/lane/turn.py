"""The turn: how one owner works all its lanes. The only file that knows how offsets and transactions fit together.

An owner is a name that nobody else has or had, with two transactional producers. A worker has one, and one more for
each lane that is set apart, as it keeps the others from their turns (`owners.py`). To open lanes, (1) read their rows,
and ask the group whether this worker is still a member; then, of each last owner's lanes together: (2) fence it in
Kafka unless it gave them back: a producer that starts under its name aborts what it left open, and waits for what it
committed; (3) raise the epochs in one statement, each only if it is as read, and write the name; (4) read the committed
offsets, look for answers that may be published (`readback.py`), and seek. From (2) on the last owner publishes nothing,
from (3) on it stores nothing. What lies between committed offset and row is decided once more, and published first.

Then, turn after turn: (1) take what is there from all lanes, fairly, and put back what may not be decided yet, by order
or clock (`admission.py`); (2) decode it; (3) store all outcomes in one Postgres transaction that checks epochs and
owner, or several of disjoint lanes; a tick's lots before, a step in each (`Job.step`); (4) publish them in one Kafka
transaction, with all offsets; (5) after any doubtful error discard the producers, and begin again under a new name with
the lanes still held. Deciding twice finds first answers. Two turns may be decided at once, of disjoint lanes, beside
the publishing of one before. Kafka transactions follow one another in the turns' order: two at once could leave the
older offset as the last written. After a failed turn none is published, nor a lane of it decided.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from time import monotonic
from uuid import uuid4

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from infra.first_of import run_until_first, wait_for_event
from infra.kafka.transactions import Message, TransactionPair, TransactionTimes, UndeliveredError, fence_producers
from infra.retry import LOCK_ERRORS, SERVER_ERRORS, back_off_seconds, describe_error, is_retriable
from workers.errors import FencedError
from workers.lane.admission import Admission
from workers.lane.deciding import Decided, Decider, LaneBatch
from workers.lane.inbox import Taken
from workers.lane.lane import Lane, fail_lanes
from workers.lane.lane_rows import LaneRows
from workers.lane.opening import Opening, split_by_last_owner
from workers.lane.openings import Openings
from workers.lane.turn_queue import TurnQueue
from workers.lane.turn_size import TRANSACTIONS, decide_turn, fill_turn
from workers.lane.work import Work

__all__ = ["LaneOwner"]

_IDLE_SECONDS = 60.0
_TRIES_TOGETHER = 1  # failures in a row of a lane alone, after which it is set apart


class LaneOwner:
    """Works the lanes that it is given. `run` is its task."""

    def __init__(self, work: Work, set_apart: Callable[[Sequence[Lane]], None]) -> None:
        """Take what the owners of a worker share, and what takes over lanes that keep the others from theirs."""
        self._set_apart = set_apart
        self._job, self._settings, self._health = work.job, work.settings, work.clients.health
        self._rows = LaneRows(work.clients.pool, work.job.group, work.job.topic)
        self._admission = Admission(work, self._rows)
        self._decider = Decider(work.job, self._rows, work.clients.breaker, self._health, work.clients.traces)
        self._opening = Opening(work.job, work.clients, self._rows, work.settings)
        self._log = structlog.get_logger("inmail.worker").bind(worker=work.job.group, topic=work.job.topic)
        self.lanes: set[Lane] = set()
        self.published_at: float | None = None  # when a turn was published last
        self._leaving: dict[Lane, asyncio.Future[None]] = {}
        self._stopping, self._failures = False, 0  # failures in a row
        self._changed = asyncio.Event()  # something arrived, failed, or was asked for
        self._turns = TurnQueue(self._changed.set, self._job.gather_seconds)
        self._openings = Openings(self._changed.set, self._fail_to_open)
        self._one_transaction = asyncio.Lock()
        self._failed: Exception | None = None  # of a transaction, or outside of the turns

    def adopt(self, lanes: Sequence[Lane]) -> None:
        """Open lanes, and work them from then on."""
        for lane in lanes:
            lane.changed, lane.open_at = self._changed.set, 0.0
        self.lanes.update(lanes)
        self._changed.set()

    def give_up(self, lanes: Sequence[Lane]) -> "list[asyncio.Future[None]]":
        """Finish what is at hand of lanes and give them back; return what is done when each of them is."""
        mine = self.lanes & set(lanes)
        self._leaving |= {lane: asyncio.get_running_loop().create_future() for lane in mine - self._leaving.keys()}
        self._changed.set()
        return [self._leaving[lane] for lane in mine]

    def stop(self) -> None:
        """Return from `run` once the last lane is given up."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Work until stopped, beginning again after each error that may pass.

        Raises:
            BreakerError: when too much of what is read is bad.
            KafkaError, PostgresError: when a server refuses what it should take: a deployment to mend, or an invariant.

        """
        while self.lanes or not self._stopping:
            # Its producers run before a row has the name: a fence that came before they did would fence nobody.
            self._name = f"{self._job.group}.{uuid4().hex}"
            self._producers = TransactionPair(self._settings, self._name)
            self._failed = None
            error: Exception | None = None
            try:
                await run_until_first(self._producers.start(), self._let_leave())
                await self._take_turns()
            except (FencedError, *SERVER_ERRORS) as doubtful:
                if not (isinstance(doubtful, FencedError) or is_retriable(doubtful)):
                    raise
                error = doubtful
            finally:  # turn (5)
                await self._openings.end()
                for lane in self.lanes:
                    lane.close()
                await self._producers.discard()
            if error is not None:
                await self._begin_again(error)

    # -- opening lanes ------------------------------------------------------------------------------------------------

    async def _open(self, lanes: list[Lane]) -> None:
        """Acquire lanes, fencing their last owners, and find out where each begins."""
        lanes = await self._opening.read(lanes)  # opening (1)
        # One that was frozen must not take lanes from its successor in turn; (3) sees one that comes after (1).
        await self._opening.check_membership()
        for gone, part in split_by_last_owner(lanes, self._name):
            self._openings.begin(part, self._acquire(part, gone))

    async def _acquire(self, lanes: list[Lane], gone: set[str]) -> None:
        await fence_producers(self._settings, gone)  # opening (2)
        acquired = await self._opening.acquire(lanes, self._name)  # opening (3)
        await self._opening.open(acquired, self._transact, self._openings.begin)  # opening (4)

    def _fail_to_open(self, lanes: Sequence[Lane], error: Exception) -> None:
        if not (isinstance(error, FencedError) or is_retriable(error)):
            self._failed = error
        failed = [lane for lane in lanes if lane in self.lanes and lane.open_at == 0 and not lane.is_open]
        may_be_of_one = isinstance(error, (FencedError, *LOCK_ERRORS))
        fail_lanes(dict.fromkeys(failed, error), self._log, None if may_be_of_one else self.lanes)

    def _open_due(self) -> None:
        """Open lanes whose time has come, beside the turns of the others."""
        due = (lane for lane in self.lanes - self._openings.lanes if not lane.is_open and lane.open_at <= monotonic())
        if closed := sorted(due, key=lambda lane: lane.partition):
            for lane in closed:
                lane.open_at = 0.0
                lane.health.opens()
            self._openings.begin(closed, self._open(closed))

    # -- turn after turn ----------------------------------------------------------------------------------------------

    async def _take_turns(self) -> None:
        try:
            while self.lanes or not self._stopping:
                self._changed.clear()
                self._see_failures()
                if self._leaving or any(lane.inbox.error for lane in self.lanes):
                    await self._turns.finish()
                    await self._let_go()
                    continue
                self._open_due()
                received = self._receive()  # turn (1)
                if admitted := await self._admission.admit(received) if received else []:
                    await self._begin_turn(admitted)
                elif not self._changed.is_set():
                    await self._wait()
        finally:
            self._openings.cancel()  # at once: the end of a turn may take long, and a next owner have the lanes by then
            await self._turns.end()

    def _see_failures(self) -> None:
        """Raise what ended a turn or an opening: this loop may be waiting for records that never come."""
        self._turns.raise_failures()
        self._openings.raise_failures()
        if self._failed is not None:
            raise self._failed

    def _receive(self) -> list[tuple[Lane, Taken]]:
        """Take the records of the next turn: while another is being decided, only if there are many."""
        deciding = self._turns.deciding
        ready = [lane for lane in self.lanes - deciding if lane.has_records]
        if self._job.step is not None:
            return [] if deciding or self._turns.is_full else fill_turn(ready, 1, len(ready))
        most = self._settings.batch_records
        if self._turns.is_full or (deciding and sum(lane.inbox.records for lane in ready) < most):
            return []
        return fill_turn(ready, most, TRANSACTIONS * most)

    async def _begin_turn(self, batches: Sequence[LaneBatch]) -> None:
        lanes, is_alone = [batch.lane for batch in batches], any(batch.decidable.is_misplaced for batch in batches)
        await self._turns.begin(lanes, partial(self._decide, batches), self._publish, alone=is_alone)

    async def _decide(self, batches: Sequence[LaneBatch]) -> list[Decided]:
        """Store the outcomes of a turn: in one transaction, or several of disjoint lanes where there are many."""
        if self._job.step is not None:
            batches = await self._decider.finish_steps(batches)
        return await decide_turn(batches, self._decider.decide)  # turn (2) and (3)

    async def _publish(self, decided: Sequence[Decided]) -> None:
        """Publish a turn's answers, its dead letters and all offsets, in one transaction."""
        messages = [message for each in decided for message in each.messages]
        next_offsets = {lane: offset for each in decided for lane, offset in each.next_offsets.items()}
        offsets = {lane.place: offset for lane, offset in next_offsets.items()}
        for found in filter(None, [lane.published_answers for lane in next_offsets]):
            messages, offsets = found.drop_published(messages, offsets)  # an older offset would set the group back
        with ExitStack() as traces:
            for each in decided:
                traces.enter_context(each.trace.trace_publishing(each.messages))
            times = await self._transact(messages, offsets)  # turn (4)
        for lane, offset in next_offsets.items():
            lane.note_published(offset, times.received_at, is_committed=lane.place in offsets)
            lane.failures = 0
        for lane in [lane for each in decided for lane in each.next_offsets]:
            lane.health.published()
        self._failures, self.published_at = 0, monotonic()
        self._health.published(times, [time for each in decided for time in each.record_times])

    async def _transact(self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int]) -> TransactionTimes:
        """Publish in a Kafka transaction, after the one before has ended."""
        async with self._one_transaction:
            if self._failed is not None:  # the producers are of no more use
                raise self._failed
            try:
                return await self._producers.publish(messages, offsets, self._job.group)
            except BaseException as error:
                self._failed = error if isinstance(error, Exception) else KafkaError("a transaction was cancelled")
                self._changed.set()
                raise

    async def _wait(self) -> None:
        """Wait until something has changed, or it is time to look again whether a lane may go on."""
        busy = self._turns.is_full or self._turns.deciding  # the end of that wakes this loop: open lanes wait for it
        others = self.lanes - self._openings.lanes
        times = [time for lane in others if (time := lane.due_at) is not None and not (busy and lane.is_open)]
        seconds = min(times, default=monotonic() + _IDLE_SECONDS) - monotonic()
        await wait_for_event(self._changed, seconds)

    # -- lanes leave, or begin again ----------------------------------------------------------------------------------

    async def _let_go(self) -> None:
        """Give back lanes that leave, and close those that have to begin again. Nothing of theirs is under way."""
        if self._leaving:
            await self._openings.end()
            self._see_failures()
            held = [lane.row for lane in self._leaving if lane.row.owner == self._name]
            is_written = not held or await self._rows.release(held)
            self._depart()
            if not is_written and self.lanes:  # their next owner fences this name: the others go on under another one
                raise FencedError("lanes that leave could not be given back in time")
        for lane, error in [(lane, error) for lane in self.lanes if (error := lane.inbox.error) is not None]:
            lane.fail(error)
            self._openings.forget(lane)  # an opening that opened it may work on others still
            is_alone = lane.failures > _TRIES_TOGETHER and not isinstance(error, KafkaError) and len(self.lanes) > 1
            if is_alone and await self._rows.release([lane.row]):  # else the owner that it gets would fence this one
                self.lanes.discard(lane)
                self._set_apart([lane])

    def _depart(self) -> None:
        for lane, departure in self._leaving.items():
            lane.close()
            self.lanes.discard(lane)
            departure.set_result(None)
        self._leaving.clear()

    async def _begin_again(self, error: Exception) -> None:
        """Wait before all lanes are opened again; set apart those whose answers alone could not be delivered."""
        seconds, self._failures = back_off_seconds(self._failures), self._failures + 1
        for lane in self.lanes:
            lane.health.fails(error, is_shared=True)
        log = self._log.bind(partitions=sorted(lane.partition for lane in self.lanes), error=describe_error(error))
        log.warning("lanes_begin_again", seconds=round(seconds, 3), failures=self._failures)
        undelivered = error.partitions if isinstance(error, UndeliveredError) else frozenset()
        alone = {lane for lane in self.lanes if lane.partition in undelivered and not lane.is_leaving}
        if alone and alone != self.lanes:
            self.lanes -= alone
            self._set_apart(list(alone))
        await run_until_first(asyncio.sleep(seconds), self._let_leave())

    async def _let_leave(self) -> None:
        """Let lanes leave at once while nothing of any is under way; end where nothing is left to work for."""
        self._depart()  # what it held is not given back: the next owner has to fence this one
        while self.lanes or not self._stopping:
            self._changed.clear()
            await wait_for_event(self._changed, _IDLE_SECONDS)
            self._depart()
