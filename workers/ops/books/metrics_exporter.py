"""The exporter of the ledger's metrics: one process that reads the database periodically and answers scrapes.

Workers do not serve these metrics: each worker would read the same data, and every scrape would query the database. A
failed reading is repeated after its period; until then, scrapes get the last reading and its age.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple, NoReturn

import asyncpg
import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.clock import utc_now
from infra.first_of import run_until_first
from infra.kafka.clients import admin_client
from infra.probes import serve_probes
from infra.retry import is_retriable
from infra.settings import Settings
from workers.ops.books.audit_mark import read_audited_at
from workers.ops.books.credit_metrics import CreditReader, CreditTotals
from workers.ops.books.lane_metrics import LaneReader, LaneState, MisplacedRecords, read_misplaced
from workers.ops.books.snapshot import open_books
from workers.telemetry import metric_table
from workers.telemetry.collectors import gauge
from workers.telemetry.worker_metrics import render_metrics

__all__ = ["CREDITS_SECONDS", "LANES_SECONDS", "Periods", "read_once", "run_observer"]

CREDITS_SECONDS = 60.0
LANES_SECONDS = 10.0
_LATE_PERIODS = 3  # a reading older than this many periods makes the process not ready


class Periods(NamedTuple):
    """Seconds from one reading to the next."""

    credits: float = CREDITS_SECONDS
    lanes: float = LANES_SECONDS


class _LastReading(NamedTuple):
    at: float  # seconds since 1970
    seconds: float


@dataclass(slots=True, eq=False)  # a registry keeps collectors by identity
class BooksCollector(Collector):
    """Collects the last readings of the ledger's database."""

    credits: CreditTotals | None = None
    audited_at: dict[str, float] = field(default_factory=dict)  # by kind of audit
    lanes: list[LaneState] = field(default_factory=list)
    misplaced: list[MisplacedRecords] = field(default_factory=list)
    read: dict[str, _LastReading] = field(default_factory=dict)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the last readings."""
        if self.credits is not None:
            yield from _credit_metrics(self.credits)
        audited = gauge(metric_table.AUDITED_AT)
        for kind, at in self.audited_at.items():
            audited.add_metric([kind], at)
        yield audited
        yield from _lane_metrics(self.lanes)
        misplaced = CounterMetricFamily(
            metric_table.MISPLACED.name, metric_table.MISPLACED.meaning, labels=metric_table.MISPLACED.labels
        )
        for each in self.misplaced:
            misplaced.add_metric([each.topic, each.source], each.records)
        yield misplaced
        read_at, seconds = gauge(metric_table.READ_AT), gauge(metric_table.READ_SECONDS)
        for reading, last in self.read.items():
            read_at.add_metric([reading], last.at)
            seconds.add_metric([reading], last.seconds)
        yield from (read_at, seconds)

    def livez(self) -> tuple[bool, dict[str, Any]]:
        """Return that the process is alive: a process that cannot continue ends by itself."""
        return True, {"alive": True}

    def readyz(self, periods: Periods) -> tuple[bool, dict[str, Any]]:
        """Return whether both readings are recent, and the reasons if not."""
        now = utc_now().timestamp()
        reasons = [
            f"{reading}: {'never read' if last is None else f'read {now - last.at:.0f} s ago'}"
            for reading, period in periods._asdict().items()
            for last in [self.read.get(reading)]
            if last is None or now - last.at > _LATE_PERIODS * period
        ]
        return not reasons, {"ready": not reasons, "reasons": reasons}


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
    """The readers, their collector and its registry."""

    def __init__(self, settings: Settings, admin: AIOKafkaAdminClient) -> None:
        self.observed = BooksCollector()
        self.registry = CollectorRegistry()
        self.registry.register(self.observed)
        ProcessCollector(registry=self.registry)
        self._settings = settings
        self._admin = admin
        self._books = CreditReader()
        self._lanes = LaneReader()

    async def read_credits(self) -> None:
        began = monotonic()
        async with open_books(self._settings) as connection:
            self.observed.credits = await self._books.read(connection)
            self.observed.audited_at = await read_audited_at(connection)
        self._record_reading("credits", began)

    async def read_lanes(self) -> None:
        began = monotonic()
        async with open_books(self._settings) as connection:
            self.observed.lanes = await self._lanes.read(connection, self._admin)
            self.observed.misplaced = await read_misplaced(connection)
        self._record_reading("lanes", began)

    def _record_reading(self, reading: str, began: float) -> None:
        self.observed.read[reading] = _LastReading(utc_now().timestamp(), monotonic() - began)


async def read_once(settings: Settings) -> bytes:
    """Return the ledger's metrics at this moment, in Prometheus' text format.

    Raises:
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError, KafkaError: when a server cannot be reached or refuses.

    """
    async with admin_client(settings) as admin:
        observer = _ExporterContext(settings, admin)
        await observer.read_credits()
        await observer.read_lanes()
        return render_metrics(observer.registry)[0]


async def run_observer(settings: Settings, stop: asyncio.Event, periods: Periods = Periods()) -> None:  # noqa: B008 - a constant
    """Read the ledger's metrics periodically and serve them, until `stop` is set.

    Raises:
        NotSetUpError: when the database was never migrated.
        SettingsError: when the port is not available.
        KafkaError, PostgresError: when a server refuses a request for good.

    """
    async with admin_client(settings) as admin:
        observer = _ExporterContext(settings, admin)
        observed = observer.observed
        answers = {"/livez": observed.livez, "/readyz": lambda: observed.readyz(periods)}
        async with serve_probes(settings, answers, {"/metrics": lambda: render_metrics(observer.registry)}):
            await run_until_first(
                _repeat_reading(observer.read_credits, periods.credits),
                _repeat_reading(observer.read_lanes, periods.lanes),
                stop.wait(),
            )


async def _repeat_reading(read: Callable[[], Awaitable[None]], period: float) -> NoReturn:
    log = structlog.get_logger("inmail.metrics")
    while True:
        try:
            await read()
        except (KafkaError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if not is_retriable(error):
                raise
            log.warning("reading_failed", error=repr(error), again_in_seconds=period)
        await asyncio.sleep(period)
