"""Collectors that read a process's state at each scrape."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from infra.probes import Page
from workers.telemetry import metric_table
from workers.telemetry.health import Health
from workers.telemetry.lane_health import LaneActivity
from workers.telemetry.metric import Metric
from workers.telemetry.worker_metrics import NEIGHBOURS, render_metrics

__all__ = ["Sized", "gauge", "metrics_page", "register_pool", "register_pool_of", "register_tick_interval"]


class Sized(Protocol):
    """The sizes of a connection pool."""

    def get_size(self) -> int:
        """Return the number of open connections."""

    def get_idle_size(self) -> int:
        """Return the number of idle connections."""

    def get_max_size(self) -> int:
        """Return the maximum number of connections."""


def gauge(metric: Metric) -> GaugeMetricFamily:
    """Return an empty gauge for a row of a table of metrics."""
    return GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)


class _HealthCollector(Collector):
    """Collects the readiness of a process and the activity of its lanes."""

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
        waits = gauge(metric_table.LANE_WAIT)
        for neighbour in NEIGHBOURS.get(worker, ()):
            waits.add_metric([worker, neighbour], max((lane.wait_seconds(neighbour) for lane in lanes), default=0.0))
        ahead = gauge(metric_table.CLOCK_AHEAD)
        ahead.add_metric([worker], max((lane.ahead_seconds for lane in lanes), default=0.0))
        apart = CounterMetricFamily(
            metric_table.BATCHES_APART.name, metric_table.BATCHES_APART.meaning, labels=["worker"]
        )
        apart.add_metric([worker], self._health.counts["batches_decided_apart"])
        halted = gauge(metric_table.HALTED)
        for tp, lane in self._health.lanes.items():
            halted.add_metric([worker, tp.topic, str(tp.partition)], float(lane.halted is not None))
        yield from (ready, busy, doing, waits, ahead, halted, apart)


class _PoolCollector(Collector):
    """Collects the sizes of the pool of Postgres connections."""

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


def metrics_page(health: Health) -> Page:
    """Return the handler of a worker's `/metrics`: its counters, and its state at the time of the scrape."""
    registry: CollectorRegistry = health.kept.registry
    registry.register(_HealthCollector(health))
    return lambda: render_metrics(registry)


def register_pool(health: Health, pool: Sized) -> None:
    """Add the sizes of a connection pool to the metrics of a worker."""
    register_pool_of(health.kept.registry, health.kept.worker, pool)


def register_pool_of(registry: CollectorRegistry, process: str, pool: Sized) -> None:
    """Add the sizes of a connection pool to a registry, under the name of a process."""
    registry.register(_PoolCollector(process, pool))


def register_tick_interval(health: Health, seconds: float) -> None:
    """Add the time between two ticks to the metrics of the ticker."""
    row = metric_table.TICK_INTERVAL
    Gauge(row.name, row.meaning, registry=health.kept.registry).set(seconds)
