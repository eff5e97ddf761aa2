"""What a process is at, told by those who do it, and what follows for who watches it: is it alive, is it ready.

Alive: started again, it would be no better. Ready: it gets on with its work. A worker that is not ready holds what it
has and tries again; one that is not alive ends by itself, and the probe is for one that cannot even do that.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from time import monotonic
from typing import Any, NamedTuple, ParamSpec, TypeVar

from aiokafka import TopicPartition

from infra.clock import utc_now
from infra.kafka.transactions import TransactionTimes
from workers.telemetry.worker_metrics import Stage, WorkerMetrics

__all__ = ["Cause", "Dead", "Health", "LaneActivity", "LaneHealth"]

_Given = ParamSpec("_Given")
_Decoded = TypeVar("_Decoded")

_SETTLED_SECONDS = 5.0  # a lane that found nothing to do for so long after an error is over it


class Cause(StrEnum):
    """Why a process is not alive."""

    FATAL = "fatal"  # it is ending, of an error
    STUCK_JOIN = "stuck_join"  # the group, or a server it has to connect to, does not let it in
    STUCK_POLL = "stuck_poll"  # the consumer was asked and does not come back
    STUCK_HANDLER = "stuck_handler"  # a lane has work and does not get on


class LaneActivity(StrEnum):
    """What a lane does."""

    OPENING = "opening"
    WAITING = "waiting"  # for records
    DECIDING = "deciding"
    PUBLISHING = "publishing"
    AGAIN = "waiting to begin again"
    HALTED = "halted"  # it cannot go on before an operator decides


class Dead(NamedTuple):
    """Why a process is not alive, for machines and for people."""

    cause: Cause
    text: str


@dataclass(slots=True)
class LaneHealth:
    """One lane. A moment of its clock is when it last got on, or was given something after it had nothing to do."""

    clock: Callable[[], float]
    kept: WorkerMetrics
    counts: "Counter[str]"
    doing: LaneActivity = LaneActivity.OPENING
    error: str | None = None  # the last one, until the lane got on again
    halted: str | None = None  # why it cannot go on before an operator decides; until it goes on again
    held: int = 0  # batches taken and not published
    waiting_for: str | None = None  # consumer group whose lane of this number has unread what comes before its batch
    waiting_since: datetime | None = None
    moved_at: float = 0.0
    _waits_from: float = 0.0
    _stage_from: float = 0.0

    def __post_init__(self) -> None:
        self.moved_at = self.clock()

    def opens(self) -> None:
        """It begins, or begins again: what it held it takes once more."""
        self.doing, self.held = LaneActivity.OPENING if self.halted is None else LaneActivity.HALTED, 0

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
        self._stage_from = self.clock()

    def waits_for(self, neighbour: str | None) -> None:
        """It waits for the lane of a group, which it has looked at now: that is not to be stuck. None: no longer."""
        if neighbour != self.waiting_for:
            self.waiting_since = None if neighbour is None else utc_now()
        if neighbour is not None:
            self.moved_at = self.clock()
        self.waiting_for = neighbour

    def wait_seconds(self, neighbour: str) -> float:
        """Return for how long it has waited for the lane of a group; 0 where it does not."""
        since = self.waiting_since if self.waiting_for == neighbour else None
        return 0.0 if since is None else max(0.0, (utc_now() - since).total_seconds())

    def overtakes(self, neighbour: str | None, records: int) -> None:
        """So many records are stored ahead of a group that has unread what comes before them; None: of nobody."""
        if neighbour is not None:
            self.kept.overtakes(neighbour, records)

    def decodes(self, decode: Callable[_Given, _Decoded], *given: _Given.args, **named: _Given.kwargs) -> _Decoded:
        """The batch may be decided, other lanes have come as far: call what decodes it."""
        self._ends(Stage.WAIT)
        decoded = decode(*given, **named)
        self._ends(Stage.DECODE)
        return decoded

    def decided(self) -> None:
        """A batch is stored."""
        self.doing = LaneActivity.PUBLISHING
        self._ends(Stage.DECIDE)

    def stored(self, records: int, codes: Mapping[str, int], reasons: Sequence[str]) -> None:
        """So many records are stored, with outcomes by code, and dead letters for these reasons."""
        self.counts.update(reasons)
        self.kept.count_batch(records, codes, reasons)

    def steps(self) -> None:
        """A part of a batch is stored that takes several transactions."""
        self.moved_at = self.clock()

    def published(self, spent: TransactionTimes) -> None:
        """A batch is done with."""
        self.kept.observe_stage(Stage.PUBLISH, spent.publish)
        self.kept.observe_stage(Stage.COMMIT, spent.commit)
        self.held = max(0, self.held - 1)
        self.error, self.moved_at = None, self.clock()
        if not self.held:
            self.waits()

    def fails(self, error: BaseException) -> None:
        """It waits, and begins again."""
        if self._is_over_it():
            self.moved_at = self.clock()
        self.doing, self.error = LaneActivity.AGAIN, repr(error)
        self.kept.count_restart(error)

    def halts(self, reason: str) -> None:
        """It waits for an operator, and looks again now and then."""
        self.doing, self.error, self.halted = LaneActivity.HALTED, None, reason
        self.moved_at = self.clock()

    def _ends(self, stage: Stage) -> None:
        """A stage of the batch at hand is over, and the next one begins."""
        now = self.clock()
        self.kept.observe_stage(stage, now - self._stage_from)
        self._stage_from = now

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
        if self.error is not None and not self._is_over_it():
            return f"tries again because of {self.error}"
        return "is opening" if self.doing is LaneActivity.OPENING else None

    @property
    def busy_seconds(self) -> float:
        """How long it has had something to do and has not got on."""
        return 0.0 if self._is_over_it() or self.halted is not None else self.clock() - self.moved_at


@dataclass(slots=True)
class Health:
    """A process: where it is in its life, its lanes, and the servers it needs."""

    stuck_seconds: float
    clock: Callable[[], float] = monotonic
    lanes: dict[TopicPartition, LaneHealth] = field(default_factory=dict)
    counts: "Counter[str]" = field(default_factory=Counter)
    kept: WorkerMetrics = field(default_factory=WorkerMetrics)
    _joining_from: float | None = None  # None: it is in
    _polled_at: float | None = None  # None: it does not poll
    _draining: bool = False
    _fatal: str | None = None
    _servers: dict[str, str] = field(default_factory=dict)  # those that do not serve, and why

    def __post_init__(self) -> None:
        self._joining_from = self.clock()

    def joins(self) -> None:
        """It waits for its group, or for servers to connect to."""
        if self._joining_from is None:
            self._joining_from = self.clock()

    def joined(self) -> None:
        """It has its share of the work, be it none."""
        self._joining_from = None

    def polls(self) -> None:
        """The consumer is asked, now."""
        self._polled_at = self.clock()

    def lane(self, tp: TopicPartition) -> LaneHealth:
        """Return what a new lane tells of itself."""
        self.lanes[tp] = LaneHealth(self.clock, self.kept, self.counts)
        return self.lanes[tp]

    def lost(self, tp: TopicPartition) -> None:
        """Its lane is gone."""
        self.lanes.pop(tp, None)

    def serves(self, server: str, error: str | None) -> None:
        """A server answered, or this is why not."""
        if error is None:
            self._servers.pop(server, None)
        else:
            self._servers[server] = error

    def drains(self) -> None:
        """It ends, as it was asked to."""
        self._draining = True
        self._polled_at = None

    def ends(self, error: BaseException) -> None:
        """It ends, of an error."""
        self._fatal = self._fatal or str(error) or repr(error)

    def dead(self) -> Dead | None:
        """Return why the process is not alive, if it is not."""
        now = self.clock()
        if self._fatal is not None:
            return Dead(Cause.FATAL, self._fatal)
        if self._draining:
            return None  # which has a deadline of its own
        if self._polled_at is not None and now - self._polled_at > self.stuck_seconds:
            return Dead(Cause.STUCK_POLL, f"the consumer has not come back for {now - self._polled_at:.0f} s")
        if self._joining_from is not None and now - self._joining_from > self.stuck_seconds:
            why = "".join(f"; {server}: {error}" for server, error in self._servers.items())
            return Dead(Cause.STUCK_JOIN, f"not in its group for {now - self._joining_from:.0f} s{why}")
        for tp, lane in self.lanes.items():
            if lane.busy_seconds > self.stuck_seconds:
                why = f"the last error was {lane.error}" if lane.error else "there was no error"
                return Dead(
                    Cause.STUCK_HANDLER,
                    f"lane {tp.topic}/{tp.partition} has not got on for {lane.busy_seconds:.0f} s while it is"
                    f" {lane.doing}: {why}",
                )
        return None

    def not_ready(self) -> list[str]:
        """Return why the process does not get on with its work; nothing where it does."""
        return list(self._reasons())

    def _reasons(self) -> Iterator[str]:
        if (dead := self.dead()) is not None:
            yield f"{dead.cause}: {dead.text}"
        if self._draining:
            yield "draining"
        if self._joining_from is not None:
            yield "joining"
        yield from (f"{server}: {error}" for server, error in self._servers.items())
        for tp, lane in sorted(self.lanes.items()):
            if (trouble := lane.trouble) is not None:
                yield f"lane {tp.topic}/{tp.partition} {trouble}"

    # -- as HTTP answers ----------------------------------------------------------------------------------------------

    def livez(self) -> tuple[bool, dict[str, Any]]:
        """Answer whether the process is alive."""
        dead = self.dead()
        if dead is None:
            return True, {"alive": True}
        return False, {"alive": False, "cause": dead.cause, "text": dead.text}

    def readyz(self) -> tuple[bool, dict[str, Any]]:
        """Answer whether the process is ready."""
        reasons = self.not_ready()
        lanes = {f"{tp.topic}/{tp.partition}": lane.doing for tp, lane in sorted(self.lanes.items())}
        # A lane that waits for another one is ready: were it not, a deployment that starts one kind of worker after the
        # other would wait for a worker that waits for the next.
        waits = {
            f"{tp.topic}/{tp.partition}": f"waits for {lane.waiting_for}, partition {tp.partition}, since"
            f" {lane.waiting_since:%Y-%m-%d %H:%M:%S} UTC"
            for tp, lane in sorted(self.lanes.items())
            if lane.waiting_for is not None
        }
        told = {"reasons": reasons, "lanes": lanes, "waits": waits, "counts": dict(self.counts)}
        return not reasons, {"ready": not reasons, **told}
