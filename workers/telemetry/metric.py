"""What a metric is: a row of the table from which the registry and the documentation are made."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Metric", "MetricKind"]


class MetricKind(StrEnum):
    """How a metric moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its full name as Prometheus shows it, what it counts, in which unit, by which labels."""

    name: str
    kind: MetricKind
    meaning: str
    unit: str
    labels: tuple[str, ...] = ()
