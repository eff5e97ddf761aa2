"""What a process is at, told by those who do it, and what follows for who watches it: is it alive, is it ready.

Alive: started again, it would be no better. Ready: it gets on with its work. A worker that is not ready holds what it
has and tries again; one that is not alive ends by itself, and the probe is for one that cannot even do that.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic, time
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from infra.kafka.transactions import TransactionTimes
from workers.telemetry.lane_health import LaneHealth
from workers.telemetry.worker_metrics import Stage, WorkerMetrics

__all__ = ["Cause", "Dead", "Health"]

_JOIN_SECONDS = 5.0  # that a group takes at most to let a member in, where none was killed
_WAITS_FOR_KILLED = "a group waits for a member that was killed, for up to INMAIL_SESSION_SECONDS"


class Cause(StrEnum):
    """Why a process is not alive."""

    FATAL = "fatal"  # it is ending, of an error
    STUCK_JOIN = "stuck_join"  # the group, or a server it has to connect to, does not let it in
    STUCK_POLL = "stuck_poll"  # the consumer was asked and does not come back
    STUCK_HANDLER = "stuck_handler"  # a lane has work and does not get on


class Dead(NamedTuple):
    """Why a process is not alive, for machines and for people."""

    cause: Cause
    text: str


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
    _lock: str | None = None  # in Postgres, that kept lanes at the last look, and who holds it
    _lock_seen_at: float = 0.0

    def __post_init__(self) -> None:
        self._joining_from = self.clock()

    def joins(self) -> None:
        """It waits for its group, or for servers to connect to."""
        if self._joining_from is None:
            self._joining_from = self.clock()

    def joined(self) -> None:
        """It has its share of the work, be it none."""
        self._joining_from = None

    def rejoins(self) -> None:
        """It joins its group with another consumer: the last one is asked no more."""
        self._polled_at = None
        self.joins()

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

    def is_locked(self, holder: str | None) -> None:
        """Somebody was seen to hold in Postgres what lanes need, now; None: nobody was."""
        self._lock, self._lock_seen_at = holder, self.clock()

    def drains(self) -> None:
        """It ends, as it was asked to."""
        self._draining = True
        self._polled_at = None

    def ends(self, error: BaseException) -> None:
        """It ends, of an error."""
        self._fatal = self._fatal or str(error) or repr(error)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Observe how long a turn, or a part of it, is at a stage."""
        began = self.clock()
        yield
        self.kept.observe_stage(stage, self.clock() - began)

    def stored(self, records: int, codes: Mapping[str, int], reasons: Sequence[str]) -> None:
        """So many records are stored, with outcomes by code, and dead letters for these reasons."""
        self.counts.update(reasons)
        self.kept.count_batch(records, codes, reasons)

    def published(self, times: TransactionTimes, record_times: Sequence[int]) -> None:
        """A turn is published, of records of these times in milliseconds: what all lanes failed of together is over."""
        for lane in self.lanes.values():
            lane.shares_success()
        self.kept.observe_stage(Stage.PUBLISH, times.publish)
        self.kept.observe_stage(Stage.COMMIT, times.commit)
        self.kept.answer_times.observe(record_times, time() * 1000)

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
            why = "".join(f"; {trouble}" for trouble in self._server_troubles())
            return Dead(Cause.STUCK_JOIN, f"not in its group for {now - self._joining_from:.0f} s{why}")
        for tp, lane in self.lanes.items():
            if lane.busy_seconds > self.stuck_seconds:
                why = f"the last error: {lane.error}" if lane.error else "there was no error"
                return Dead(
                    Cause.STUCK_HANDLER,
                    f"lane {tp.topic}/{tp.partition} has not got on for {lane.busy_seconds:.0f} s while it is"
                    f" {lane.doing}: {why}",
                )
        return None

    def not_ready(self) -> list[str]:
        """Return why the process does not get on with its work; nothing where it does."""
        return list(self._reasons())

    def _server_troubles(self) -> list[str]:
        """Return which servers do not serve, and why. A lock counts until the lanes that it kept have got on."""
        troubles = [f"{server}: {error}" for server, error in self._servers.items()]
        kept = (lane.is_kept and lane.moved_at <= self._lock_seen_at for lane in self.lanes.values())
        return [*troubles, f"Postgres: {self._lock}"] if self._lock is not None and any(kept) else troubles

    def _reasons(self) -> Iterator[str]:
        if (dead := self.dead()) is not None:
            yield f"{dead.cause}: {dead.text}"
        if self._draining:
            yield "draining"
        servers = self._server_troubles()
        if (since := self._joining_from) is not None:
            is_long = not servers and self.clock() - since > _JOIN_SECONDS  # a server in the way is named below
            yield f"joining: {_WAITS_FOR_KILLED}" if is_long else "joining"
        yield from servers
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
