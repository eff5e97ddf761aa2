"""Lag as metrics: what an observer saw last, under the names of the table."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric, StateSetMetricFamily
from prometheus_client.registry import Collector

from workers.ops.lag.model import GroupLag, PartitionLag, Status
from workers.ops.lag.observer import LagObserver
from workers.telemetry.lag_metric_table import LAG_METRICS

__all__ = ["LagCollector"]

_Family = GaugeMetricFamily | StateSetMetricFamily
_STATES = ("inmail_lag_status", "inmail_lag_group_status")


class LagCollector(Collector):
    """Made anew at each scrape, so that what is not watched any more is not told any more."""

    def __init__(self, observer: LagObserver) -> None:
        self._observer = observer

    def collect(self) -> Iterator[Metric]:
        """Return all families; those of partitions are empty before the first look."""
        families = {each.name: _family(each.name, each.meaning, each.labels) for each in LAG_METRICS}
        topics: dict[tuple[str, str], PartitionLag] = {}
        for group in self._observer.groups:
            _add_group(families, group)
            for each in group.partitions:
                _add_partition(families, each)
                topics[each.topic, str(each.partition)] = each
        for name, count in {group.group: group.members for group in self._observer.groups}.items():
            if count is not None:
                _gauge(families, "kafka_consumergroup_members", (name,), count)
        for place, each in topics.items():
            _gauge(families, "kafka_topic_partition_current_offset", place, each.end)
            _gauge(families, "kafka_topic_partition_oldest_offset", place, each.oldest)
        if self._observer.refreshed_at is not None:
            _gauge(families, "inmail_lag_looked_timestamp_seconds", (), self._observer.refreshed_at.timestamp())
            _gauge(families, "inmail_lag_books_readable", (), float(self._observer.books_trouble is None))
        yield from families.values()

    def describe(self) -> Iterator[Metric]:
        """Return nothing: a registry need not look before it is scraped."""
        return iter(())


def _family(name: str, meaning: str, labels: tuple[str, ...]) -> _Family:
    if name in _STATES:
        return StateSetMetricFamily(name, meaning, labels=labels[:-1])
    return GaugeMetricFamily(name, meaning, labels=labels)


def _gauge(families: dict[str, _Family], name: str, labels: tuple[str, ...], value: float) -> None:
    family = families[name]
    assert isinstance(family, GaugeMetricFamily)  # noqa: S101 - the table says so
    family.add_metric(labels, value)


def _states(families: dict[str, _Family], name: str, labels: tuple[str, ...], status: Status) -> None:
    family = families[name]
    assert isinstance(family, StateSetMetricFamily)  # noqa: S101 - the table says so
    family.add_metric(labels, {each.value: each is status for each in Status})


def _add_group(families: dict[str, _Family], group: GroupLag) -> None:
    labels = (group.group, group.topic)
    if group.topic:
        _gauge(families, "kafka_consumergroup_lag_sum", labels, group.records)
    _states(families, "inmail_lag_group_status", labels, group.status)


def _add_partition(families: dict[str, _Family], each: PartitionLag) -> None:
    labels = (each.group, each.topic, str(each.partition))
    _gauge(families, "kafka_consumergroup_lag", labels, each.records)
    if each.committed is not None:
        _gauge(families, "kafka_consumergroup_current_offset", labels, each.committed)
    _gauge(families, "inmail_lag_seconds", labels, each.seconds)
    _gauge(families, "inmail_lag_held_records", labels, each.held)
    _gauge(families, "inmail_lag_lost_records", labels, each.lost)
    _states(families, "inmail_lag_status", labels, each.status)
