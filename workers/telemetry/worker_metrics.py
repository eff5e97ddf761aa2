"""What a worker keeps of its work: a handful of additions for each batch, none for a record."""

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
from workers.telemetry.metric import Metric

__all__ = ["NEIGHBOURS", "REPEAT", "Retry", "Stage", "WorkerMetrics", "page_of", "retry_class"]

BOOKED: Final = "booked"  # beside the codes: a tick is answered, of which the journal has no row
REPEAT: Final = "repeat"  # and a record answered with what an earlier one was answered

# By worker: the groups that it may overtake and that may give credits.
NEIGHBOURS: Final[Mapping[str, tuple[str, ...]]] = {
    "send": ("inmail-billing",),
    "billing": ("inmail-send",),
    "expiry": ("inmail-billing", "inmail-send"),
}

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each, and nobody asks when a process began to count

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_RECORDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)

_Fetched = TypeVar("_Fetched", bound=Sized)


class Stage(StrEnum):
    """Where a batch spends its time, in order."""

    FETCH = "fetch"
    WAIT = "wait"
    DECODE = "decode"
    DECIDE = "decide"
    PUBLISH = "publish"
    COMMIT = "commit"


class Retry(StrEnum):
    """What a lane failed of that begins again."""

    SUCCEEDED = "succeeded"
    TIMEOUT = "timeout"
    KAFKA = "kafka"
    POSTGRES = "postgres"
    CONNECTION = "connection"


def retry_class(error: BaseException) -> Retry:
    """Return which of the few classes an error of a lane is."""
    match error:
        case FencedError():
            return Retry.SUCCEEDED
        case TimeoutError() | KafkaTimeoutError() | asyncpg.QueryCanceledError():
            return Retry.TIMEOUT
        case KafkaError():
            return Retry.KAFKA
        case asyncpg.PostgresError() if not isinstance(error, asyncpg.PostgresConnectionError):
            return Retry.POSTGRES
        case _:
            return Retry.CONNECTION


def page_of(registry: CollectorRegistry) -> tuple[bytes, str]:
    """Return what a scrape is answered: the text, and its content type."""
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class WorkerMetrics:
    """The metrics of one process, in a registry of its own. What can be read when somebody asks is not kept here."""

    def __init__(self, worker: str = "") -> None:
        """Take the worker's name: send, billing, expiry or ticker."""
        self.worker = worker
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._outcomes = self._counter(metric_table.OUTCOMES, [*Code, BOOKED, REPEAT])
        self._dead_letters = self._counter(metric_table.DEAD_LETTERS, DeadLetterReason)
        self._retries = self._counter(metric_table.RETRIES, Retry)
        self._overtaken = self._counter(metric_table.OVERTAKEN, NEIGHBOURS.get(worker, ()))
        records = Histogram(*_named(metric_table.BATCH_RECORDS), buckets=_RECORDS, registry=self.registry)
        self._records = records.labels(worker)
        lateness = Histogram(*_named(metric_table.LOOP_LAG), buckets=_SECONDS, registry=self.registry)
        self._late = lateness.labels(worker)
        stages = Histogram(*_named(metric_table.STAGE_SECONDS), buckets=_SECONDS, registry=self.registry)
        self._stages = {stage: stages.labels(worker, stage.value) for stage in Stage}

    def _counter(self, metric: Metric, values: Iterable[str]) -> Counter:
        """Return a counter whose values are there at 0: `increase` does not see the step from nothing to 1."""
        counter = Counter(*_named(metric), registry=self.registry)
        for value in values:
            counter.labels(self.worker, str(value))
        return counter

    def stored(self, records: int, codes: Mapping[str, int], reasons: Iterable[str]) -> None:
        """Count a batch that is stored: its size, its outcomes, and what of it becomes dead letters."""
        if records:
            self._records.observe(records)
        for code, count in codes.items():
            self._outcomes.labels(self.worker, code).inc(count)
        for reason, count in Counts(reasons).items():
            self._dead_letters.labels(self.worker, reason).inc(count)

    def overtakes(self, neighbour: str, records: int) -> None:
        """Count records decided ahead of a group that may give credits and has unread what comes before them."""
        self._overtaken.labels(self.worker, neighbour).inc(records)

    def spent(self, stage: Stage, seconds: float) -> None:
        """Count the time of a batch in a stage."""
        self._stages[stage].observe(seconds)

    async def fetching(self, poll: Awaitable[_Fetched]) -> _Fetched:
        """Wait for a poll of the consumer, and count its time where it brought something."""
        began = monotonic()
        fetched = await poll
        if len(fetched):
            self.spent(Stage.FETCH, monotonic() - began)
        return fetched

    def retries(self, error: BaseException) -> None:
        """Count a lane that begins again."""
        self._retries.labels(self.worker, retry_class(error).value).inc()

    def late(self, seconds: float) -> None:
        """Count how much later than asked the event loop woke a task."""
        self._late.observe(max(0.0, seconds))


def _named(metric: Metric) -> tuple[str, str, tuple[str, ...]]:
    return metric.name, metric.meaning, metric.labels
