"""A lane: one assigned partition, as its owner knows it. The turns of the owner work it (`turn.py`)."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from time import monotonic

import structlog
from aiokafka import TopicPartition
from structlog.typing import FilteringBoundLogger

from infra.clock import EPOCH
from infra.postgres import Pool
from infra.retry import back_off_seconds, describe_error
from infra.settings import Settings
from workers.errors import LaneError
from workers.jobs.record_times import TimePolicy
from workers.lane.clock_guard import ClockGuard
from workers.lane.inbox import Inbox, Taken
from workers.lane.lane_rows import LaneRow
from workers.lane.readback import PublishedAnswers
from workers.lane.recovery import CommittedOffsetCheck
from workers.lane.wait import Wait
from workers.telemetry.lane_health import LaneHealth

__all__ = ["Lane", "fail_lanes"]

_HALTED_SECONDS = 10.0  # after which a lane that waits for an operator is opened again, to see whether it can go on


class Lane:
    """One partition from assignment to revocation: what it has received, how far it has come, what is in its way."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it is, and what it works with
        self,
        group: str,
        place: TopicPartition,
        pool: Pool,
        settings: Settings,
        health: LaneHealth,
        check: CommittedOffsetCheck,
    ) -> None:
        self.group, self.place, self.partition = group, place, place.partition
        self.health = health
        self.changed: Callable[[], None] = lambda: None  # wakes the owner that has the lane
        self.inbox = Inbox(self._wake)
        self.row = LaneRow(place.partition)
        self.guard = ClockGuard(pool, place, settings)
        self.wait = Wait()
        self.check = check  # which outlives it: the partition may go elsewhere and come back
        self.as_of: datetime = EPOCH  # of what its owner has decided
        self.told_head: datetime | None = None  # time of the record that the last batch left, as the lane's row has it
        self.stored_at_start = 0  # the offset before which outcomes were stored when it was opened
        self.published_answers: PublishedAnswers | None = None  # while it is in doubt how far answers are published
        self.steps = 0  # done of the batch that it is at, where that takes several transactions
        self.received_at = 0.0  # when a turn took records last, by the monotonic clock
        self.at_hand = False  # whether a batch was taken and is not decided
        self.partitions = 1  # of its topic
        self.is_open = False
        self.is_leaving = False  # it was revoked
        self.failures = 0  # in a row
        self.open_at = 0.0  # when to open it, by the monotonic clock
        self._log = structlog.get_logger("inmail.lane").bind(topic=place.topic, partition=place.partition)

    def _wake(self) -> None:
        self.changed()

    @property
    def times(self) -> TimePolicy:
        """Whose word for a record's time is taken."""
        return self.guard.times

    @property
    def has_records(self) -> bool:
        """Whether something is there that a turn may take now."""
        return self.is_open and len(self.inbox) > 0 and self.wait.look_at <= monotonic()

    @property
    def due_at(self) -> float | None:
        """When a turn, or an opening, is to look at the lane again if nothing comes; None: it need not."""
        if not self.is_open:
            return self.open_at
        return self.wait.look_at if self.wait.look_at and len(self.inbox) else None

    def receive(self, limit: int, most_bytes: int) -> Taken:
        """Take records for a turn, up to so many or so many bytes, and one at least."""
        self.received_at = monotonic()
        if not self.at_hand:
            self.at_hand = True
            self.health.takes()
        return self.inbox.take(limit, most_bytes)

    def come_last(self) -> None:
        """Let others go first in the next turn, since what this one needs is locked: they may need nothing of that."""
        self.received_at = monotonic()

    def open(self, offset: int) -> None:
        """Let turns work the lane from an offset that the consumer was made to seek."""
        self.is_open = True
        self.inbox.open(offset)
        self.health.waits()

    def close(self) -> None:
        """Forget what was received: the lane has to be opened before a turn works it again."""
        self.is_open, self.at_hand, self.steps, self.told_head = False, False, 0, None
        self.inbox.close()
        self.wait.end()
        self.health.waits_for(None)
        self.health.opens()

    def fail(self, error: Exception, *, quietly: bool = False) -> None:
        """Close the lane and open it again later: after longer with each failure, or once an operator may act."""
        self.close()
        if isinstance(error, LaneError):
            self._halt(str(error))
            return
        seconds = back_off_seconds(self.failures)
        self.failures += 1
        self.open_at = monotonic() + seconds
        self.health.fails(error)
        if not quietly:
            self._log.warning(
                "lane_begins_again", error=describe_error(error), seconds=round(seconds, 3), failures=self.failures
            )

    def note_published(self, offset: int, received_at: datetime | None, *, is_committed: bool) -> None:
        """Note that all answers up to an offset are published; the group's offset with them ends all doubt.

        Args:
            offset: the one after the last record answered.
            received_at: a broker's time of the transaction; None: it had no message, and the time before it stays.
            is_committed: whether the group's offset was in it.

        """
        row = self.row
        if is_committed:
            row.maybe_published, row.doubted, self.published_answers = None, None, None
            row.published, row.published_time = offset, received_at or row.published_time
        else:  # what was found, and left out, was received earlier, and so was what may be found beyond it
            row.published = max(row.published or 0, offset)

    def _halt(self, reason: str) -> None:
        self.failures = 0
        self.open_at = monotonic() + _HALTED_SECONDS
        self.health.halts(reason)
        if reason != self.row.halted:
            self._log.error("lane_halted", error=reason)

    def hold(self) -> None:
        """Report the record that the clock guard holds."""
        held, self.wait.look_at = self.guard.held, self.guard.look_at
        assert held is not None  # noqa: S101 - it holds one
        if self.health.hold != held.reason:
            self._log.error("time_far_ahead", offset=held.offset, time=held.time.isoformat(), hint=held.reason)
        self.health.holds(held.reason, held.ahead_seconds)

    def goes_on(self, offset: int) -> None:
        """Report that the record that the clock guard held may be decided."""
        if self.health.hold:
            self._log.warning("time_far_ahead_over", offset=offset)
            self.health.goes_on()


def fail_lanes(errors: Mapping[Lane, Exception], log: FilteringBoundLogger, beside: Iterable[Lane] | None = ()) -> None:
    """Close lanes that one cause keeps, to open them again later, all at one time, and log it once.

    Each at a time of its own, each would ask for the server that is away, and fence the owner that others wait for.

    Args:
        errors: of each lane its error.
        log: of the worker.
        beside: lanes of the same owner: with those that wait already because of the same error, these are opened. None:
            the cause may be one of them, and each is opened at its own time.

    """
    if not errors:
        return
    waiting = {lane.health.error: lane.open_at for lane in beside or () if lane.open_at > monotonic()}
    for lane, error in errors.items():
        lane.fail(error, quietly=len(errors) > 1)
    last = max(errors, key=lambda lane: lane.open_at)
    if beside is not None:
        for lane in errors:
            lane.open_at = waiting.get(lane.health.error, last.open_at)
    if len(errors) > 1:
        log.warning(
            "lanes_begin_again",
            partitions=sorted(lane.partition for lane in errors),
            error=describe_error(errors[last]),
            seconds=round(last.open_at - monotonic(), 3),
            failures=last.failures,
        )
