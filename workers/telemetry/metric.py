"""The type of the rows in the tables of metrics, from which the registry and the documentation are made."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Metric", "MetricKind"]


class MetricKind(StrEnum):
    """Prometheus' type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its full name in Prometheus, type, meaning, unit and labels."""

    name: str
    kind: MetricKind
    meaning: str
    unit: str
    labels: tuple[str, ...] = ()
