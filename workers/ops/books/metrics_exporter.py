"""The exporter of the ledger's metrics: one process that reads the database periodically and answers scrapes.

Workers do not serve these metrics: each worker would read the same data, and every scrape would query the database. A
failed reading is repeated after its period; until then, scrapes get the last reading and its age.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple, NoReturn

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.clock import utc_now
from infra.first_of import run_until_first
from infra.kafka.clients import admin_client
from infra.postgres import POSTGRES_ERRORS, Connection
from infra.probes import serve_probes
from infra.retry import is_retriable
from infra.settings import Settings
from infra.shards import check_distinct, settings_of_shards
from workers.ops.books.audit_mark import read_audited_at
from workers.ops.books.credit_metrics import CreditTotals
from workers.ops.books.lane_metrics import LaneState, read_misplaced
from workers.ops.books.lanes import read_lanes
from workers.ops.books.server_readings import LastReading, ServerReadings, merge_readings
from workers.ops.books.shards import ONE_SERVER, Holdings, ServerError, naming_server, read_holdings, server_name
from workers.ops.books.snapshot import open_books
from workers.ops.books.whole_books import check_whole
from workers.telemetry import metric_table
from workers.telemetry.collectors import gauge
from workers.telemetry.worker_metrics import render_metrics

__all__ = ["CREDITS_SECONDS", "LANES_SECONDS", "Periods", "read_servers_once", "run_observer"]

CREDITS_SECONDS = 60.0
LANES_SECONDS = 10.0
_LATE_PERIODS = 3  # a reading older than this many periods makes the process not ready


_Read = Callable[[ServerReadings], Awaitable[None]]


class Periods(NamedTuple):
    """Seconds from one reading to the next."""

    credits: float = CREDITS_SECONDS
    lanes: float = LANES_SECONDS


@dataclass(slots=True, eq=False)  # a registry keeps collectors by identity
class BooksCollector(Collector):
    """Collects the last readings of the servers that hold the books."""

    servers: list[ServerReadings]

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the last readings."""
        books = merge_readings(self.servers)
        if books.credits is not None:
            yield from _credit_metrics(books.credits)
        audited = gauge(metric_table.AUDITED_AT)
        for kind, at in books.audited_at.items():
            audited.add_metric([kind], at)
        yield audited
        yield from _lane_metrics(books.lanes)
        misplaced = CounterMetricFamily(
            metric_table.MISPLACED.name, metric_table.MISPLACED.meaning, labels=metric_table.MISPLACED.labels
        )
        for each in books.misplaced:
            misplaced.add_metric([each.topic, each.source], each.records)
        yield misplaced
        read_at, seconds = gauge(metric_table.READ_AT), gauge(metric_table.READ_SECONDS)
        for reading, last in books.read.items():
            read_at.add_metric([reading], last.at)
            seconds.add_metric([reading], last.seconds)
        yield from (read_at, seconds)
        if len(self.servers) > 1:
            yield _server_metric(self.servers)

    def livez(self) -> tuple[bool, dict[str, Any]]:
        """Return that the process is alive: a process that cannot continue ends by itself."""
        return True, {"alive": True}

    def readyz(self, periods: Periods) -> tuple[bool, dict[str, Any]]:
        """Return whether both readings are recent, and the reasons if not."""
        now = utc_now().timestamp()
        reasons = [
            f"{_prefix(self.servers, each)}{reading}:"
            f" {'never read' if last is None else f'read {now - last.at:.0f} s ago'}"
            for each in self.servers
            for reading, period in periods._asdict().items()
            for last in [each.read.get(reading)]
            if last is None or now - last.at > _LATE_PERIODS * period
        ]
        return not reasons, {"ready": not reasons, "reasons": reasons}


def _prefix(servers: list[ServerReadings], server: ServerReadings) -> str:
    return f"{server_name(server.settings)}: " if len(servers) > 1 else ""


def _server_metric(servers: list[ServerReadings]) -> Metric:
    ready = gauge(metric_table.SERVER_READY)
    for each in servers:
        ready.add_metric(
            [server_name(each.settings)], float(each.read.keys() >= set(Periods._fields) and not each.errors)
        )
    return ready


def _credit_metrics(credits_: CreditTotals) -> Iterator[Metric]:
    moved = CounterMetricFamily(
        metric_table.CREDITS.name, metric_table.CREDITS.meaning, labels=metric_table.CREDITS.labels
    )
    for movement, count in credits_.moved.items():
        moved.add_metric([movement], count)
    remaining, difference = gauge(metric_table.REMAINING), gauge(metric_table.CONSERVATION)
    remaining.add_metric([], credits_.remaining)
    difference.add_metric([], credits_.difference)
    yield from (moved, remaining, difference)


def _lane_metrics(lanes: list[LaneState]) -> Iterator[Metric]:
    unpublished, seconds, age = (
        gauge(metric_table.UNPUBLISHED),
        gauge(metric_table.UNPUBLISHED_SECONDS),
        gauge(metric_table.WATERMARK),
    )
    for lane in lanes:
        labels = [lane.topic, str(lane.partition)]
        unpublished.add_metric(labels, lane.unpublished)
        seconds.add_metric(labels, lane.unpublished_seconds)
        if lane.watermark_age is not None:
            age.add_metric(labels, lane.watermark_age)
    yield from (unpublished, seconds, age)


class _ExporterContext:
    """The readings of each server, their collector and its registry."""

    def __init__(self, settings: Settings, clients: AsyncExitStack) -> None:
        self.observed = BooksCollector([ServerReadings(each) for each in settings_of_shards(settings)])
        self.registry = CollectorRegistry()
        self.registry.register(self.observed)
        ProcessCollector(registry=self.registry)
        self._settings, self._clients = settings, clients
        self._admin: AIOKafkaAdminClient | None = None

    async def read_credits(self) -> list[ServerError]:
        async def read(server: ServerReadings) -> None:
            async with self._open(server) as (connection, holdings):
                server.credits = await server.credit_reader.read(connection, holdings)
                server.audited_at = await read_audited_at(connection)

        return await self._read_servers("credits", read)

    async def read_lanes(self) -> list[ServerError]:
        if self._admin is None:  # with the first reading: credits are told while no broker is there
            self._admin = await self._clients.enter_async_context(admin_client(self._settings))
        admin = self._admin

        async def read(server: ServerReadings) -> None:
            async with self._open(server) as (connection, holdings):
                lanes = [lane for lane in await read_lanes(connection) if holdings.has_number(lane.partition)]
                misplaced = await read_misplaced(connection, holdings)
            # Only now: Postgres would end a transaction that is idle while a slow broker is waited for.
            server.lanes, server.misplaced = await server.lane_reader.read(lanes, admin), misplaced

        return await self._read_servers("lanes", read)

    @property
    def errors(self) -> list[ServerError]:
        """The error of each of several servers that gave no answer."""
        return [next(iter(each.errors.values())) for each in self.observed.servers if each.errors]

    async def _read_servers(self, reading: str, read: _Read) -> list[ServerError]:
        """Read all servers side by side; return the errors of some of several, which are kept too.

        Raises:
            RepeatedServerError: when two URLs lead to one server, whose rows would count twice.

        """
        await asyncio.gather(*(self._read_server(each, reading, read) for each in self.observed.servers))
        check_distinct((server_name(each.settings), each.shard) for each in self.observed.servers)
        return [each.errors[reading] for each in self.observed.servers if reading in each.errors]

    async def _read_server(self, server: ServerReadings, reading: str, read: _Read) -> None:
        began = monotonic()
        try:
            with naming_server(server.settings):
                await read(server)
        except ServerError as error:
            server.errors[reading] = error
            return
        server.errors.pop(reading, None)
        server.read[reading] = LastReading(utc_now().timestamp(), monotonic() - began)

    @asynccontextmanager
    async def _open(self, server: ServerReadings) -> AsyncIterator[tuple[Connection, Holdings]]:
        """Open a server's books in one snapshot, with what it holds."""
        async with open_books(server.settings) as connection:
            await check_whole(connection, self._settings)
            holdings = ONE_SERVER if len(self.observed.servers) == 1 else await read_holdings(connection)
            server.shard = holdings.shard
            yield connection, holdings


async def read_servers_once(settings: Settings) -> tuple[bytes, list[ServerError]]:
    """Return the ledger's metrics at this moment, in Prometheus' text format, and the errors of silent servers.

    Raises:
        NotSetUpError: when the only database was never migrated.
        RepeatedServerError: when two URLs lead to one server.
        PartOfBooksError: when the only server that is named holds some of the numbers.
        OSError, asyncpg.PostgresError, KafkaError: when the only server cannot be reached or refuses, or Kafka.

    """
    async with AsyncExitStack() as clients:
        observer = _ExporterContext(settings, clients)
        await observer.read_lanes()
        await observer.read_credits()
        return render_metrics(observer.registry)[0], observer.errors


async def run_observer(settings: Settings, stop: asyncio.Event, periods: Periods = Periods()) -> None:  # noqa: B008 - a constant
    """Read the ledger's metrics periodically and serve them, until `stop` is set. A server that is away is waited for.

    Raises:
        NotSetUpError: when the database was never migrated.
        SettingsError: when the port is not available, two URLs lead to one server, or the only one that is named holds
            some of the numbers.
        KafkaError, PostgresError: when a server refuses a request for good.

    """
    async with AsyncExitStack() as clients:
        observer = _ExporterContext(settings, clients)
        observed = observer.observed
        answers = {"/livez": observed.livez, "/readyz": lambda: observed.readyz(periods)}
        async with serve_probes(settings, answers, {"/metrics": lambda: render_metrics(observer.registry)}):
            await run_until_first(
                _repeat_reading(observer.read_credits, periods.credits),
                _repeat_reading(observer.read_lanes, periods.lanes),
                stop.wait(),
            )


async def _repeat_reading(read: Callable[[], Awaitable[list[ServerError]]], period: float) -> NoReturn:
    log = structlog.get_logger("inmail.metrics")
    while True:
        try:
            for silent in await read():
                log.warning("server_not_read", error=str(silent), again_in_seconds=period)
        except (KafkaError, *POSTGRES_ERRORS) as error:
            if not is_retriable(error):
                raise
            log.warning("reading_failed", error=repr(error), again_in_seconds=period)
        await asyncio.sleep(period)
