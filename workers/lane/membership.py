"""One consumer's membership of the worker's group: the assignment, the poll loop, and an orderly end."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from time import monotonic
from typing import Any
from uuid import UUID

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition

from infra.kafka.aiokafka_fixes import ConsumerLostError
from infra.kafka.clients import leave_group
from infra.kafka.permanent_errors import operator_hint
from infra.kafka.poller import POLL_SECONDS, Polled, Poller
from infra.retry import SERVER_ERRORS, describe_error, is_retriable, suppress_retriable
from workers.errors import LaneError, WorkerError, task_error
from workers.lane.lane import Lane
from workers.lane.owners import Owners
from workers.lane.recovery import CommittedOffsetCheck
from workers.lane.server_checks import watch_servers
from workers.lane.work import Work

__all__ = ["STOP_SECONDS", "Membership"]

STOP_SECONDS = 5.0  # what an end may take beyond the drain
_LEAVE_SECONDS = 1.0  # for a consumer to leave its group by itself


class Membership(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka is untyped
    """Feeds lanes from one consumer and keeps them in step with the group's assignment."""

    def __init__(self, work: Work) -> None:
        self._job, self._settings, self._clients = work.job, work.settings, work.clients
        self._consumer, self._health = work.clients.consumer, work.clients.health
        self._poller = Poller(self._consumer, self._health.kept.timed_fetch)
        self._log = structlog.get_logger("inmail.worker").bind(worker=work.job.group)
        self._owners = Owners(work)
        self.lanes: dict[TopicPartition, Lane] = {}
        self._checks: dict[TopicPartition, CommittedOffsetCheck] = defaultdict(CommittedOffsetCheck)
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain and leave the group.

        Raises:
            BreakerError: when too much of what is read is bad.
            ConsumerLostError: when the consumer goes on no more: only a new one does.
            WorkerError: when the drain, or the consumer, did not end within its time.
            NotSetUpError: when a topic is gone.
            KafkaError, PostgresError: when a server refuses for good.

        """
        self._consumer.subscribe([self._job.topic], listener=self)
        starting = asyncio.create_task(self._consumer.start())
        ending = asyncio.Event()
        pump = asyncio.create_task(self._pump(starting, ending))
        watch = asyncio.create_task(watch_servers(self._job, self._settings, self._clients, self._see_topic))
        stopped = asyncio.create_task(stop.wait())
        reasons: list[asyncio.Future[Any]] = [self._owners.failed, watch, pump]
        try:
            await asyncio.wait([*reasons, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping = True
            errors = [task_error(each, stopped=False) for each in reasons if each.done()]
            final = [error for error in errors if error is not None and not isinstance(error, ConsumerLostError)]
            for error in final:
                self._health.ends(error)
            if stopped.done() or final:
                self._health.drains()
            elif any(errors):
                self._health.rejoins()
            ending.set()
            for task in (starting, watch, stopped):  # joining a group can take longer than a drain may
                task.cancel()
            late = await self._end(pump)
            self._forget(list(self.lanes))  # a consumer that stops tells no listener
        errors += [task_error(each, stopped=True) for each in (self._owners.failed, pump) if each.done()]
        if late is not None and stop.is_set():  # no next consumer makes up for what did not end
            errors = [error for error in errors if not isinstance(error, ConsumerLostError)]
        for error in filter(None, errors):
            raise error
        if late is not None:
            raise WorkerError(late)

    async def _end(self, pump: asyncio.Task[None]) -> str | None:
        """Drain, and leave the group, within the time for it; return what did not end, if anything."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.drain_seconds
        drained = await self._owners.give_up(list(self.lanes.values()), self._settings.drain_seconds)
        await self._owners.stop()
        await asyncio.wait([pump], timeout=max(STOP_SECONDS / 2, deadline - clock()))
        member = self._consumer.membership
        stopping = asyncio.create_task(self._consumer.stop())
        await asyncio.wait([stopping], timeout=_LEAVE_SECONDS)
        # One that has left has no member id any more; one that is stopped while it joins has not left.
        left = member is None or self._consumer.membership is None or await self._leave(*member)
        await asyncio.wait(
            [stopping], timeout=max(STOP_SECONDS - _LEAVE_SECONDS, deadline - clock()) if not left else 1
        )
        self._log.info("worker_stopped", drained=drained, left_group=left)
        if not drained:
            return (
                f"not drained within {self._settings.drain_seconds} s: what was stored and not published goes out"
                " when the partition is assigned next"
            )
        if not left:
            return (
                f"drained, but Kafka did not let the worker leave group {self._job.group}: the group goes on without"
                f" it after {self._settings.session_seconds} s"
            )
        if stopping.done() and not stopping.cancelled() and (error := stopping.exception()) is not None:
            self._log.warning("stop_failed", error=repr(error))
        return None

    async def _leave(self, node: int, member: str) -> bool:
        """Leave the group through another client: the consumer's own waits until the group lets it in."""
        leaving = asyncio.ensure_future(leave_group(self._clients.admin, self._job.group, node, member))
        done, _ = await asyncio.wait([leaving], timeout=_LEAVE_SECONDS)
        if not done:
            leaving.cancel()
            return False
        try:
            leaving.result()
        except SERVER_ERRORS as error:
            self._log.warning("leave_failed", error=describe_error(error))
            return False
        return True

    async def _pump(self, starting: asyncio.Task[None], ending: asyncio.Event) -> None:
        """Move records from the consumer to the lanes that have room.

        One task for all lanes, never cancelled inside the poll, which aiokafka does not survive whole; the lanes
        stay responsive to a revocation while the poll waits for the group.
        """
        try:
            await starting
        except SERVER_ERRORS as error:
            if not is_retriable(error):
                raise
            # It is half started: aiokafka starts no consumer twice.
            raise ConsumerLostError(f"the consumer did not start: {describe_error(error)}") from error
        self._log.info("worker_started", topic=self._job.topic)
        failing_since: float | None = None
        while not ending.is_set():
            self._health.polls()
            hungry = [place for place, lane in self.lanes.items() if lane.inbox.hungry]
            if not hungry:
                with suppress_retriable():  # a worker without partitions polls nothing
                    self._consumer.check()
                await asyncio.sleep(POLL_SECONDS)
                continue
            polled = await self._poller.poll(hungry, are_all=len(hungry) == len(self.lanes))
            await self._deliver(hungry, polled)
            if len(polled.failed) < len(hungry):
                failing_since = None
                continue
            for failure in polled.failed.values():
                if operator_hint(failure) is not None:
                    raise failure
            failing_since = monotonic() if failing_since is None else failing_since
            if monotonic() - failing_since > self._settings.session_seconds:
                # aiokafka's tasks end for good at an error they did not expect: only a new consumer helps.
                first = next(iter(polled.failed.values()))
                raise ConsumerLostError(f"no poll succeeded for {self._settings.session_seconds} s: {first!r}")

    async def _deliver(self, hungry: Iterable[TopicPartition], polled: Polled) -> None:
        """Give the lanes what was polled for them: records, an error, or how far the consumer has come without either.

        The lanes may have been replaced while the poll waited, or have begun again: a closed inbox takes nothing, and
        its lane will seek; one that was opened has sought, and what was polled before that is not the next it is to
        have. A lane that is given an error begins again from its offsets: its opening checks them all and finds out
        what the error means. Until then it is not polled.
        """
        for place in hungry:
            if place not in self.lanes:
                continue
            inbox = self.lanes[place].inbox
            if place in polled.failed:
                inbox.interrupt(polled.failed[place])
            elif inbox.is_open:
                records = polled.records.get(place, ())
                position = await self._consumer.position(place)
                if not records:
                    inbox.offer([], position)
                elif position > records[-1].offset:  # otherwise the lane has sought to before them
                    inbox.offer(records, records[-1].offset + 1)

    # -- the group's assignment; aiokafka swallows what these raise, so nothing may ---------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finish and give back the lanes of partitions that go elsewhere."""
        leaving = {place: self.lanes[place] for place in revoked if place in self.lanes}
        self._health.joins()
        drained = await self._owners.give_up(list(leaving.values()), self._settings.drain_seconds)
        self._forget(leaving)
        if leaving:
            self._log.info("revoked", partitions=sorted(place.partition for place in leaving), drained=drained)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Give lanes of partitions to the owner of all lanes, whose own task opens them."""
        if self._stopping:
            return
        pool, settings = self._clients.pool, self._settings
        lanes = {
            place: Lane(self._job.group, place, pool, settings, self._health.lane(place), self._checks[place])
            for place in sorted(assigned)
        }
        self.lanes |= lanes
        self._poller.expect_records()
        self._owners.adopt(list(lanes.values()))
        self._health.joined()
        self._log.info("assigned", partitions=sorted(place.partition for place in lanes))

    def _forget(self, places: Iterable[TopicPartition]) -> None:
        """Forget lanes. The next consumer may have a lane of a place already: its health is not of this membership."""
        for place in places:
            if self.lanes.pop(place, None) is not None:
                self._health.lost(place)

    def _see_topic(self, topic_id: UUID) -> None:
        """Take note of the id that the topic has now: another one ends what lanes do with the last one."""
        for lane in self.lanes.values():
            if lane.is_open and lane.row.topic_id not in (None, topic_id):
                lane.inbox.interrupt(LaneError(f"{self._job.topic} has another id by now, {topic_id}"))
