"""A worker process: one consumer, a lane for each partition it is assigned, and an orderly end."""

import asyncio
import contextlib
from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import Any
from uuid import UUID

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from infra.kafka.clients import admin_client, count_partitions, create_consumer, remedy
from infra.kafka.poller import POLL_SECONDS, Polled, Poller
from infra.postgres import Pool, close_in_time, create_pool
from infra.postgres_session import find_weak_settings
from infra.probes import probes
from infra.retry import ignoring_retriable
from infra.settings import Settings
from schemas.catalogue import TOPICS
from workers.errors import WorkerError, task_error
from workers.jobs.job import Job
from workers.lane.circuit_breaker import Breaker
from workers.lane.lane import Clients, Lane
from workers.lane.server_checks import watch_servers
from workers.lane.time_order import Ends
from workers.telemetry.collectors import metrics_page, register_pool
from workers.telemetry.health import Health
from workers.telemetry.tracing import NO_TRACES, Traces, open_traces
from workers.telemetry.watchdog import watch_progress
from workers.telemetry.worker_metrics import WorkerMetrics

__all__ = ["Worker", "run_worker"]

_STOP_SECONDS = 5.0  # what an end may take beyond the drain


class Worker(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka is untyped
    """Feeds lanes from one consumer and keeps them in step with the group's assignment."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a process has opened
        self,
        job: Job,
        settings: Settings,
        pool: Pool,
        admin: AIOKafkaAdminClient,
        health: Health | None = None,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._job = job
        self._settings = settings
        self._health = health or Health(settings.stuck_seconds)
        self._log = structlog.get_logger("inmail.worker").bind(worker=job.group)
        self._consumer: AIOKafkaConsumer = create_consumer(settings, job.group, settings.drain_seconds * 1.5)
        ends = Ends(settings, admin)
        self._clients = Clients(self._consumer, admin, pool, Breaker(settings), self._health, ends, traces)
        self._poller = Poller(self._consumer, self._health.kept.timed_fetch)
        self._lanes: dict[TopicPartition, tuple[Lane, asyncio.Task[None]]] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain.

        Raises:
            BreakerError: when too much of what is read is bad.
            StuckError: when the worker does not get on for too long.
            WorkerError: when the drain, or the consumer, did not end within its time.
            NotSetUpError: when a topic is gone.
            KafkaError, PostgresError: when a server refuses for good.

        """
        self._consumer.subscribe([self._job.topic], listener=self)
        starting = asyncio.create_task(self._consumer.start())
        pump = asyncio.create_task(self._pump(starting, stop))
        watches = [
            asyncio.create_task(watch_servers(self._job, self._clients, self._see_topic)),
            asyncio.create_task(watch_progress(self._health)),
        ]
        stopped = asyncio.create_task(stop.wait())
        reasons: list[asyncio.Future[Any]] = [self._failed, *watches, pump]
        try:
            await asyncio.wait([*reasons, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping = True
            errors = [task_error(each, stopped=False) for each in reasons if each.done()]
            for error in filter(None, errors):
                self._health.ends(error)
            self._health.drains()
            stop.set()
            for task in (starting, *watches):  # joining a group can take longer than a drain may
                task.cancel()
            late = await self._end(pump)
            await self._clients.ends.aclose()
        errors += [task_error(each, stopped=True) for each in (self._failed, pump) if each.done()]
        for error in filter(None, errors):
            raise error
        if late is not None:
            raise WorkerError(late)

    async def _end(self, pump: asyncio.Task[None]) -> str | None:
        """Drain, and leave the group, within the time for it; return what did not end, if anything."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.drain_seconds
        drained = await self._drain(self._lanes)
        await asyncio.wait([pump], timeout=max(_STOP_SECONDS / 2, deadline - clock()))
        stopping = asyncio.create_task(self._consumer.stop())
        # Without lanes it may be about to join, which waits for every other member, and gives up nothing by an end.
        seconds = max(_STOP_SECONDS, deadline - clock()) if self._lanes else _STOP_SECONDS / 2
        await asyncio.wait([stopping], timeout=seconds)
        self._log.info("worker_stopped", drained=drained, left_group=stopping.done())
        if not drained:
            return (
                f"not drained within {self._settings.drain_seconds} s: what was stored and not published goes out"
                " when the partition is assigned next"
            )
        if self._lanes and not stopping.done():
            return (
                f"drained, but Kafka did not let the worker leave group {self._job.group}: the group goes on without"
                f" it after {self._settings.session_seconds} s"
            )
        if stopping.done() and not stopping.cancelled() and (error := stopping.exception()) is not None:
            self._log.warning("stop_failed", error=repr(error))
        return None

    async def _pump(self, starting: asyncio.Task[None], stop: asyncio.Event) -> None:
        """Move records from the consumer to the lanes that have room.

        One task for all lanes, never cancelled inside the poll, which aiokafka does not survive whole; the lanes
        stay responsive to a revocation while the poll waits for the group.
        """
        await starting
        self._log.info("worker_started", topic=self._job.topic)
        failing_since: float | None = None
        while not stop.is_set():
            self._health.polls()
            hungry = [tp for tp, (lane, _) in self._lanes.items() if lane.inbox.hungry]
            if not hungry:
                with ignoring_retriable():  # a worker without partitions polls nothing
                    self._consumer.check()
                await asyncio.sleep(POLL_SECONDS)
                continue
            polled = await self._poller.poll(hungry)
            await self._deliver(hungry, polled)
            if len(polled.failed) < len(hungry):
                failing_since = None
                continue
            if (error := next((each for each in polled.failed.values() if remedy(each) is not None), None)) is not None:
                raise error
            failing_since = monotonic() if failing_since is None else failing_since
            if monotonic() - failing_since > self._settings.session_seconds:
                # aiokafka's tasks end for good at an error they did not expect: only a new consumer helps.
                raise WorkerError(
                    f"no poll succeeded for {self._settings.session_seconds} s: {next(iter(polled.failed.values()))!r}"
                )

    async def _deliver(self, hungry: Iterable[TopicPartition], polled: Polled) -> None:
        """Give the lanes what was polled for them: records, an error, or how far the consumer has come without either.

        The lanes may have been replaced while the poll waited: a closed inbox takes nothing, and its lane will seek; an
        open one has sought, and the poll went on from there. A lane that is given an error begins again from its
        offsets: its opening checks them all and finds out what the error means. Until then it is not polled.
        """
        for tp in hungry:
            if tp not in self._lanes:
                continue
            inbox = self._lanes[tp][0].inbox
            if tp in polled.failed:
                inbox.interrupt(polled.failed[tp])
            elif tp in polled.records:
                inbox.offer(polled.records[tp], polled.records[tp][-1].offset + 1)
            elif inbox.hungry:
                inbox.offer([], await self._consumer.position(tp))

    # -- the group's assignment; aiokafka swallows what these raise, so nothing may ---------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finish and close the lanes of partitions that go elsewhere."""
        leaving = {tp: self._lanes[tp] for tp in revoked if tp in self._lanes}
        self._health.joins()
        drained = await self._drain(leaving)
        for tp in leaving:
            del self._lanes[tp]
            self._health.lost(tp)
        if leaving:
            self._log.info("revoked", partitions=sorted(tp.partition for tp in leaving), drained=drained)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Open a lane for each partition. Opening happens in the lane's own task."""
        if self._stopping:
            return
        for tp in sorted(assigned):
            lane = Lane(self._job, tp, self._clients, self._settings)
            task = asyncio.create_task(lane.run(), name=f"lane {tp.topic}/{tp.partition}")
            task.add_done_callback(partial(self._lane_ended, lane))
            self._lanes[tp] = (lane, task)
        self._health.joined()
        self._log.info("assigned", partitions=sorted(tp.partition for tp in assigned))

    def _see_topic(self, topic_id: UUID) -> None:
        for lane, _ in self._lanes.values():
            lane.see_topic(topic_id)

    def _lane_ended(self, lane: Lane, task: asyncio.Task[None]) -> None:
        """Let the worker end of what a lane ended of."""
        error = task_error(task, stopped=lane.stopping)
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _drain(self, lanes: dict[TopicPartition, tuple[Lane, asyncio.Task[None]]]) -> bool:
        """Let lanes finish what they hold, within the time for it. Tell whether all did."""
        for lane, _ in lanes.values():
            lane.stop()
        tasks = [task for _, task in lanes.values()]
        if not tasks:
            return True
        _, late = await asyncio.wait(tasks, timeout=self._settings.drain_seconds)
        for task in late:
            task.cancel()
        return not late


async def run_worker(job: Job, settings: Settings, stop: asyncio.Event) -> None:
    """Run one worker with a pool of its own until `stop` is set.

    Raises:
        NotSetUpError: when a topic does not exist.
        SettingsError: when its port for probes cannot be had, or what traces need is not installed.
        BreakerError, WorkerError, KafkaError: see `Worker.run`.

    """
    health = Health(settings.stuck_seconds, kept=WorkerMetrics(job.group.removeprefix("inmail-")))
    answers, pages = {"/livez": health.livez, "/readyz": health.readyz}, {"/metrics": metrics_page(health)}
    async with contextlib.AsyncExitStack() as stack:
        traces = await stack.enter_async_context(open_traces(settings, job.group))
        await stack.enter_async_context(probes(settings, answers, pages))
        connecting = asyncio.create_task(_connect(settings, stack))
        stopped = asyncio.create_task(stop.wait())
        watch = asyncio.create_task(watch_progress(health))
        await asyncio.wait([connecting, stopped, watch], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        stuck = watch.done()
        if not stuck:
            watch.cancel()
        if not connecting.done():  # a broker that is frozen answers to nobody
            connecting.cancel()
            await asyncio.wait([connecting], timeout=_STOP_SECONDS)
            if stuck:
                watch.result()
            return
        admin, pool = connecting.result()
        register_pool(health, pool)
        await Worker(job, settings, pool, admin, health, traces).run(stop)


async def _connect(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[AIOKafkaAdminClient, Pool]:
    admin = await stack.enter_async_context(admin_client(settings))
    await count_partitions(admin, TOPICS)  # aiokafka would look for them for 40 s
    pool = await stack.enter_async_context(create_pool(settings))
    stack.push_async_callback(close_in_time, pool, _STOP_SECONDS)
    for weak in await find_weak_settings(pool):
        structlog.get_logger("inmail.worker").warning("weak_database_setting", error=weak)
    return admin, pool
