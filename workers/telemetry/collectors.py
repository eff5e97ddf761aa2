"""What a scrape reads of a process as it is: nothing of it is kept while nobody asks."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from infra.probes import Page
from workers.telemetry import metric_table
from workers.telemetry.health import Health, LaneActivity
from workers.telemetry.metric import Metric
from workers.telemetry.worker_metrics import page_of

__all__ = ["Sized", "gauge", "page", "watch_pool"]


class Sized(Protocol):
    """What is asked of a pool of connections."""

    def get_size(self) -> int:
        """Return how many are open."""

    def get_idle_size(self) -> int:
        """Return how many of them are idle."""

    def get_max_size(self) -> int:
        """Return how many may be open."""


def gauge(metric: Metric) -> GaugeMetricFamily:
    """Return a metric of the table, without a value yet."""
    return GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)


class _OfHealth(Collector):
    """Where a process is in its life, and its lanes."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        worker = self._health.kept.worker
        lanes = list(self._health.lanes.values())
        ready, busy, doing = gauge(metric_table.READY), gauge(metric_table.BUSY), gauge(metric_table.LANES)
        ready.add_metric([worker], float(not self._health.not_ready()))
        busy.add_metric([worker], max((lane.busy_seconds for lane in lanes), default=0.0))
        for what in LaneActivity:
            doing.add_metric([worker, what.name.lower()], sum(lane.doing is what for lane in lanes))
        ahead = gauge(metric_table.CLOCK_AHEAD)
        ahead.add_metric([worker], max((lane.ahead_seconds for lane in lanes), default=0.0))
        apart = CounterMetricFamily(
            metric_table.BATCHES_APART.name, metric_table.BATCHES_APART.meaning, labels=["worker"]
        )
        apart.add_metric([worker], self._health.counts["batches_decided_apart"])
        yield from (ready, busy, doing, ahead, apart)


class _OfPool(Collector):
    """Connections to Postgres."""

    def __init__(self, worker: str, pool: Sized) -> None:
        self._worker = worker
        self._pool = pool

    def collect(self) -> Iterator[GaugeMetricFamily]:
        idle = self._pool.get_idle_size()
        connections, most = gauge(metric_table.POOL), gauge(metric_table.POOL_MAX)
        connections.add_metric([self._worker, "idle"], idle)
        connections.add_metric([self._worker, "used"], self._pool.get_size() - idle)
        most.add_metric([self._worker], self._pool.get_max_size())
        yield from (connections, most)


def page(health: Health) -> Page:
    """Return what answers a scrape of a worker: what it kept, and its state at that moment."""
    registry: CollectorRegistry = health.kept.registry
    registry.register(_OfHealth(health))
    return lambda: page_of(registry)


def watch_pool(health: Health, pool: Sized) -> None:
    """Have scrapes tell of a pool, too."""
    health.kept.registry.register(_OfPool(health.kept.worker, pool))
