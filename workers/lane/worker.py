"""A worker process: its clients, and one consumer after the other."""

import asyncio
import contextlib

import structlog
from aiokafka.admin import AIOKafkaAdminClient

from infra.first_of import wait_for_event
from infra.kafka.aiokafka_fixes import ConsumerLostError
from infra.kafka.broker_versions import fetch_version_concerns
from infra.kafka.clients import admin_client, create_consumer
from infra.kafka.end_offsets import EndOffsets
from infra.kafka.shard_assignor import ShardAssignor
from infra.postgres import Pool, close_in_time, create_pool
from infra.postgres_session import find_weak_settings
from infra.probes import serve_probes
from infra.retry import (
    SERVER_ERRORS,
    back_off_seconds,
    describe_error,
    is_retriable,
    suppress_retriable,
)
from infra.settings import Settings
from infra.shards import Shard, read_shard
from workers.errors import WorkerError, task_error
from workers.jobs.job import Job
from workers.lane.circuit_breaker import CircuitBreaker
from workers.lane.clients import Clients
from workers.lane.membership import STOP_SECONDS, Membership
from workers.lane.server_checks import check_topics
from workers.lane.work import Work
from workers.rights import check_rights
from workers.telemetry.collectors import metrics_page, register_pool
from workers.telemetry.health import Health
from workers.telemetry.server_wait import reach_server
from workers.telemetry.tracing import NO_TRACES, Traces, open_traces
from workers.telemetry.watchdog import watch_progress
from workers.telemetry.worker_metrics import WorkerMetrics

__all__ = ["Worker", "run_worker"]

_SHARD_SECONDS = 5.0  # for the answer to what the server holds


class Worker:
    """Works with one consumer until told to stop; with another where aiokafka's goes on no more."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a process has opened
        self,
        job: Job,
        settings: Settings,
        pool: Pool,
        admin: AIOKafkaAdminClient,
        health: Health | None = None,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._job, self._settings, self._pool, self._admin, self._traces = job, settings, pool, admin, traces
        self.health = health or Health(settings.stuck_seconds)
        self._breaker = CircuitBreaker(settings)
        self._log = structlog.get_logger("inmail.worker").bind(worker=job.group)
        self.membership: Membership | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain.

        Raises:
            StuckError: when the worker does not get on for too long.
            BreakerError, WorkerError, NotSetUpError, KafkaError, PostgresError: see `Membership.run`.

        """
        watch = asyncio.create_task(watch_progress(self.health))
        watch.add_done_callback(lambda _: stop.set())
        lost = 0
        try:
            while not stop.is_set():
                try:
                    await self._work(stop)
                except ConsumerLostError as error:
                    self._log.warning("consumer_replaced", error=describe_error(error))
                    await wait_for_event(stop, back_off_seconds(lost))
                    lost += 1
        except WorkerError:
            self._raise_if_stuck(watch)  # one that is stuck cannot drain either
            raise
        finally:
            watch.cancel()
        self._raise_if_stuck(watch)

    def _raise_if_stuck(self, watch: "asyncio.Task[None]") -> None:
        if watch.done() and (error := task_error(watch, stopped=True)) is not None:
            raise error

    async def _work(self, stop: asyncio.Event) -> None:
        if (shard := await self._read_shard(stop)) is None:
            return
        ends = EndOffsets(self._settings, self._admin)
        assignor = ShardAssignor(shard)
        consumer = create_consumer(self._settings, self._job.group, self._settings.drain_seconds * 1.5, assignor)
        clients = Clients(
            consumer, self._admin, self._pool, self._breaker, self.health, ends, self._traces, assignor, topic_ids={}
        )
        self.membership = Membership(Work(self._job, self._settings, clients))
        try:
            await self.membership.run(stop)
        finally:
            await ends.aclose()

    async def _read_shard(self, stop: asyncio.Event) -> Shard | None:
        """Return what the server holds, as soon as it tells; None where the worker is to stop before."""
        failures = 0
        while not stop.is_set():
            try:
                async with asyncio.timeout(_SHARD_SECONDS), self._pool.acquire() as connection:
                    return await read_shard(connection)
            except SERVER_ERRORS as error:
                if not is_retriable(error):
                    raise
                self.health.serves("Postgres", describe_error(error))
                await wait_for_event(stop, back_off_seconds(failures))
                failures += 1
        return None


async def run_worker(job: Job, settings: Settings, stop: asyncio.Event) -> None:
    """Run one worker with a pool of its own until `stop` is set. One that is started while a server is away waits.

    Raises:
        NotSetUpError: when a topic does not exist, or that of balances has too few partitions.
        MissingRightsError: when the brokers' authorizer does not give the user what docs/operate.md lists for workers.
        SettingsError: when its port for probes cannot be had, or what traces need is not installed.
        BreakerError, WorkerError, KafkaError: see `Worker.run`.

    """
    health = Health(settings.stuck_seconds, kept=WorkerMetrics(job.group.removeprefix("inmail-")))
    answers, pages = {"/livez": health.livez, "/readyz": health.readyz}, {"/metrics": metrics_page(health)}
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(structlog.contextvars.bound_contextvars(worker=job.group))  # also for lines of libraries
        traces = await stack.enter_async_context(open_traces(settings, job.group))
        await stack.enter_async_context(serve_probes(settings, answers, pages))
        connecting = asyncio.create_task(_connect(settings, health, stack))
        stopped = asyncio.create_task(stop.wait())
        watch = asyncio.create_task(watch_progress(health))
        await asyncio.wait([connecting, stopped, watch], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        stuck = watch.done()
        if not stuck:
            watch.cancel()
        if not connecting.done():  # a broker that is frozen answers to nobody
            connecting.cancel()
            await asyncio.wait([connecting], timeout=STOP_SECONDS)
            if stuck:
                watch.result()
            return
        admin, pool = connecting.result()
        register_pool(health, pool)
        await Worker(job, settings, pool, admin, health, traces).run(stop)


async def _connect(
    settings: Settings, health: Health, stack: contextlib.AsyncExitStack
) -> tuple[AIOKafkaAdminClient, Pool]:
    async def reach_kafka() -> AIOKafkaAdminClient:
        async with contextlib.AsyncExitStack() as opening:
            admin = await opening.enter_async_context(admin_client(settings))
            await check_rights(settings, "worker")  # a right that is seldom used would be missed when it counts
            await check_topics(admin, settings)  # aiokafka would look for them for 40 s
            stack.push_async_exit(opening.pop_all())
            return admin

    async def reach_postgres() -> Pool:
        pool = await stack.enter_async_context(create_pool(settings))
        stack.push_async_callback(close_in_time, pool, STOP_SECONDS)
        return pool

    log = structlog.get_logger("inmail.worker")
    admin = await reach_server("Kafka", reach_kafka, health, log)
    pool = await reach_server("Postgres", reach_postgres, health, log)
    with suppress_retriable():
        for weak in await find_weak_settings(pool):
            log.warning("weak_database_setting", error=weak)
    with suppress_retriable():
        for concern in await fetch_version_concerns(settings):
            log.warning("kafka_version", error=concern)
    return admin, pool
