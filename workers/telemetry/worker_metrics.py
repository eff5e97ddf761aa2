"""A worker's metrics, updated once for each batch and never for a single record."""

from collections import Counter as Counts
from collections.abc import Awaitable, Iterable, Mapping, Sized
from enum import StrEnum
from time import monotonic
from typing import Final, TypeVar

import asyncpg
from aiokafka.errors import KafkaError, KafkaTimeoutError
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from schemas.dead_letters import DeadLetterReason
from workers.errors import FencedError
from workers.ledger.model import Code
from workers.telemetry import metric_table
from workers.telemetry.answer_times import AnswerTimes
from workers.telemetry.metric import Metric

__all__ = ["NEIGHBOURS", "REPEAT", "Retry", "Stage", "WorkerMetrics", "render_metrics", "retry_class"]

BOOKED: Final = "booked"  # the outcome of a tick, which has no journal row and so no code
REPEAT: Final = "repeat"  # the outcome of a record that was answered with a stored answer

# By worker: the groups that it may overtake and that may give credits.
NEIGHBOURS: Final[Mapping[str, tuple[str, ...]]] = {
    "send": ("inmail-billing",),
    "billing": ("inmail-send",),
    "expiry": ("inmail-billing", "inmail-send"),
}

disable_created_metrics()  # type: ignore[no-untyped-call] # avoids a second series for each counter

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_RECORDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)

_Fetched = TypeVar("_Fetched", bound=Sized)


class Stage(StrEnum):
    """The stages of a batch, in order."""

    FETCH = "fetch"
    WAIT = "wait"
    DECODE = "decode"
    DECIDE = "decide"
    PUBLISH = "publish"
    COMMIT = "commit"


class Retry(StrEnum):
    """The classes of errors after which a lane begins again."""

    FENCED = "fenced"
    TIMEOUT = "timeout"
    KAFKA = "kafka"
    POSTGRES = "postgres"
    CONNECTION = "connection"


def retry_class(error: BaseException) -> Retry:
    """Return the class of an error after which a lane begins again."""
    match error:
        case FencedError():
            return Retry.FENCED
        case TimeoutError() | KafkaTimeoutError() | asyncpg.QueryCanceledError():
            return Retry.TIMEOUT
        case KafkaError():
            return Retry.KAFKA
        case asyncpg.PostgresError() if not isinstance(error, asyncpg.PostgresConnectionError):
            return Retry.POSTGRES
        case _:
            return Retry.CONNECTION


def render_metrics(registry: CollectorRegistry) -> tuple[bytes, str]:
    """Return the metrics of a registry in Prometheus' text format, and the content type."""
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class WorkerMetrics:
    """The counters and histograms of one process, in a registry of its own. `collectors.py` reads the gauges."""

    def __init__(self, worker: str = "") -> None:
        """Create the metrics of a worker: send, billing, expiry or ticker."""
        self.worker = worker
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._outcomes = self._counter(metric_table.OUTCOMES, [*Code, BOOKED, REPEAT])
        self._dead_letters = self._counter(metric_table.DEAD_LETTERS, DeadLetterReason)
        self._retries = self._counter(metric_table.RETRIES, Retry)
        self._overtaken = self._counter(metric_table.OVERTAKEN, NEIGHBOURS.get(worker, ()))
        records = Histogram(*_metric_arguments(metric_table.BATCH_RECORDS), buckets=_RECORDS, registry=self.registry)
        self._records = records.labels(worker)
        lateness = Histogram(*_metric_arguments(metric_table.LOOP_LAG), buckets=_SECONDS, registry=self.registry)
        self._loop_delay = lateness.labels(worker)
        stages = Histogram(*_metric_arguments(metric_table.STAGE_SECONDS), buckets=_SECONDS, registry=self.registry)
        self._stages = {stage: stages.labels(worker, stage.value) for stage in Stage}
        self.answer_times = AnswerTimes(worker)
        self.registry.register(self.answer_times)

    def _counter(self, metric: Metric, values: Iterable[str]) -> Counter:
        """Return a counter with a series at 0 for each value: `increase` does not see a step from no series to 1."""
        counter = Counter(*_metric_arguments(metric), registry=self.registry)
        for value in values:
            counter.labels(self.worker, str(value))
        return counter

    def count_batch(self, records: int, codes: Mapping[str, int], reasons: Iterable[str]) -> None:
        """Count a stored batch: its records, its outcomes by code, and its dead letters by reason."""
        if records:
            self._records.observe(records)
        for code, count in codes.items():
            self._outcomes.labels(self.worker, code).inc(count)
        for reason, count in Counts(reasons).items():
            self._dead_letters.labels(self.worker, reason).inc(count)

    def overtakes(self, neighbour: str, records: int) -> None:
        """Count records decided ahead of a group that may give credits and has unread what comes before them."""
        self._overtaken.labels(self.worker, neighbour).inc(records)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Observe the seconds that a batch spent in a stage."""
        self._stages[stage].observe(seconds)

    async def timed_fetch(self, poll: Awaitable[_Fetched]) -> _Fetched:
        """Wait for a poll of the consumer and return its result; observe its duration if it returned records."""
        began = monotonic()
        fetched = await poll
        if len(fetched):
            self.observe_stage(Stage.FETCH, monotonic() - began)
        return fetched

    def count_restart(self, error: BaseException) -> None:
        """Count the restart of a lane after an error, by the error's class."""
        self._retries.labels(self.worker, retry_class(error).value).inc()

    def observe_loop_delay(self, seconds: float) -> None:
        """Observe how many seconds late the event loop woke a task."""
        self._loop_delay.observe(max(0.0, seconds))


def _metric_arguments(metric: Metric) -> tuple[str, str, tuple[str, ...]]:
    return metric.name, metric.meaning, metric.labels
