"""What one lane reports of itself: what it does, its last error, and since when it has made no progress."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import asyncpg

from infra.clock import utc_now
from infra.retry import describe_error
from workers.telemetry.worker_metrics import WorkerMetrics

__all__ = ["LaneActivity", "LaneHealth"]

_SETTLED_SECONDS = 5.0  # a lane that found nothing to do for so long after an error is over it
_BUSY_SECONDS = 1.0  # at one batch, after which somebody may keep the lane

# Errors of a statement that waited for rows or a table which somebody else keeps.
LOCK_ERRORS = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, asyncpg.DeadlockDetectedError)


class LaneActivity(StrEnum):
    """What a lane does."""

    OPENING = "opening"
    WAITING = "waiting"  # for records
    IN_ORDER = "waiting for another lane"  # with a record that comes later than what that one has unread
    DECIDING = "deciding"
    PUBLISHING = "publishing"
    HOLDING = "holding a record of a time far ahead"
    AGAIN = "waiting to begin again"
    HALTED = "halted"  # it cannot go on before an operator decides


@dataclass(slots=True)
class LaneHealth:
    """One lane. `moved_at` is when it last got on, or when a record or an error ended a time of nothing to do."""

    clock: Callable[[], float]
    kept: WorkerMetrics
    counts: "Counter[str]"
    doing: LaneActivity = LaneActivity.OPENING
    error: str | None = None  # the last one, until the lane got on again
    locked_out: bool = False  # whether that error was a lock's in Postgres
    is_shared: bool = False  # whether all lanes of its turns had that error, also those without a record
    halted: str | None = None  # why it cannot go on before an operator decides; until it goes on again
    held: int = 0  # batches taken and not published
    waiting_for: str | None = None  # consumer group whose lane of this number has unread what comes before its batch
    waiting_since: datetime | None = None
    moved_at: float = 0.0
    hold: str = ""  # why it holds a record, while it does
    ahead_seconds: float = 0.0  # and how far ahead of this host's clock that record's time is
    _waits_from: float = 0.0

    def __post_init__(self) -> None:
        self.moved_at = self.clock()

    def opens(self) -> None:
        """It begins, or begins again: what it held it takes once more.

        It was closed for that. If it had nothing to do before, the time without progress begins now.
        """
        if self._is_over_it():
            self.moved_at = self.clock()
        self.doing, self.held = LaneActivity.OPENING if self.halted is None else LaneActivity.HALTED, 0
        self.hold, self.ahead_seconds = "", 0.0

    def waits(self) -> None:
        """It looks for records."""
        self.halted = None
        if not self.held:
            self.doing, self._waits_from = LaneActivity.WAITING, self.clock()

    def takes(self) -> None:
        """It has a batch to decide."""
        if self._is_over_it():
            self.error, self.moved_at = None, self.clock()
        self.held += 1
        self.doing = LaneActivity.DECIDING

    def waits_for(self, neighbour: str | None) -> None:
        """It waits for the lane of a group, which it has looked at now: that is not to be stuck. None: no longer."""
        if neighbour != self.waiting_for:
            self.waiting_since = None if neighbour is None else utc_now()
        if neighbour is not None:
            self.doing, self.moved_at = LaneActivity.IN_ORDER, self.clock()
        elif self.doing is LaneActivity.IN_ORDER:
            self.doing = LaneActivity.DECIDING
        self.waiting_for = neighbour

    def wait_seconds(self, neighbour: str) -> float:
        """Return for how long it has waited for the lane of a group; 0 where it does not."""
        since = self.waiting_since if self.waiting_for == neighbour else None
        return 0.0 if since is None else max(0.0, (utc_now() - since).total_seconds())

    def overtakes(self, neighbour: str | None, records: int) -> None:
        """So many records are stored ahead of a group that has unread what comes before them; None: of nobody."""
        if neighbour is not None:
            self.kept.overtakes(neighbour, records)

    def decided(self) -> None:
        """A batch is stored."""
        self.doing = LaneActivity.PUBLISHING

    def steps(self) -> None:
        """A part of a batch is stored that takes several transactions."""
        self.moved_at = self.clock()

    def published(self) -> None:
        """A batch is done with."""
        self.held = max(0, self.held - 1)
        self.error, self.moved_at = None, self.clock()
        if not self.held:
            self.waits()

    def holds(self, reason: str, ahead_seconds: float) -> None:
        """It waits for an operator, and started again it would again."""
        self.doing, self.moved_at = LaneActivity.HOLDING, self.clock()
        self.hold, self.ahead_seconds = reason, ahead_seconds

    def goes_on(self) -> None:
        """What it held may be decided."""
        self.doing, self.hold, self.ahead_seconds = LaneActivity.DECIDING, "", 0.0

    def fails(self, error: BaseException, *, is_shared: bool = False) -> None:
        """It waits, and begins again, alone or with all lanes of its turns. It was closed before."""
        self.doing, self.error = LaneActivity.AGAIN, describe_error(error)
        self.locked_out, self.is_shared = isinstance(error, LOCK_ERRORS), is_shared
        self.kept.count_restart(error)

    def shares_success(self) -> None:
        """Another lane published: an error that both had is over, if this one has nothing to do."""
        if self.is_shared and self.doing is LaneActivity.WAITING:
            self.error, self.moved_at = None, self.clock()

    def halts(self, reason: str) -> None:
        """It waits for an operator, and looks again now and then."""
        self.doing, self.error, self.halted = LaneActivity.HALTED, None, reason
        self.moved_at = self.clock()

    def _is_over_it(self) -> bool:
        """Tell whether it got on since its last error, or found that there was nothing to do."""
        if self.doing is not LaneActivity.WAITING:
            return False
        return self.error is None or self.clock() - self._waits_from > _SETTLED_SECONDS

    @property
    def trouble(self) -> str | None:
        """Why it does not get on, if it does not."""
        if self.halted is not None:
            return f"is halted: {self.halted}"
        if self.doing is LaneActivity.HOLDING:
            return f"holds: {self.hold}"
        if self.error is not None and not self._is_over_it():
            return f"tries again: {self.error}"
        return "is opening" if self.doing is LaneActivity.OPENING else None

    @property
    def is_kept(self) -> bool:
        """Whether something may keep it from getting on: an error that it is not over, or a second at work."""
        return (self.error is not None and not self._is_over_it()) or self.busy_seconds > _BUSY_SECONDS

    @property
    def busy_seconds(self) -> float:
        """How long it has had something to do and has not got on."""
        return 0.0 if self._is_over_it() or self.halted is not None else self.clock() - self.moved_at
