"""The console's time series: what passed and how far behind the groups were, over 15 minutes, 6 hours and 24 hours.

Each range has buckets of its own length, so that the memory is bounded: at most 360 buckets a range. A bucket keeps
counts with the seconds that they cover, maxima, and a histogram of latencies; rates and percentiles are derived from
these when a page reads them. So a time without samples is a gap, never a zero.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

__all__ = ["Bucket", "Family", "Observation", "TimeRange", "TimeSeries", "latency_class"]

_MIN_SHARE: Final = 0.2  # of a range: so much is shown at least, however new the console is
_LATENCY_STEP: Final = 1.2  # each class of latencies ends so many times later than the one before: 10 % off at most
_PERCENTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class TimeRange(StrEnum):
    """A range of time that a page can show."""

    MINUTES_15 = "15m"
    HOURS_6 = "6h"
    HOURS_24 = "24h"

    @property
    def seconds(self) -> int:
        """The length of the range."""
        return {TimeRange.MINUTES_15: 900, TimeRange.HOURS_6: 21_600, TimeRange.HOURS_24: 86_400}[self]

    @property
    def bucket_seconds(self) -> int:
        """The length of each of its buckets."""
        return {TimeRange.MINUTES_15: 5, TimeRange.HOURS_6: 60, TimeRange.HOURS_24: 300}[self]


class Family(StrEnum):
    """Counts that one reading gives: they cover the same seconds."""

    CAME_IN = "came_in"
    DECIDED = "decided"
    ANSWERED = "answered"
    OUTCOMES = "outcomes"
    DEAD_LETTERS = "dead_letters"


@dataclass(slots=True)
class Observation:
    """What happened between two samples. A family without `seconds` was not read."""

    at: datetime
    seconds: dict[Family, float] = field(default_factory=dict)
    counts: dict[Family, Mapping[str, float]] = field(default_factory=dict)  # by name: a code, a reason
    lag_seconds: dict[str, float] = field(default_factory=dict)  # by group: the age of its oldest unread record
    unread: dict[str, float] = field(default_factory=dict)  # by group, in records
    latencies: Counter[int] = field(default_factory=Counter)  # by class


@dataclass(slots=True)
class Bucket:
    """The observations of one bucket together."""

    start: int  # seconds since the epoch
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, dict[str, float]] = field(default_factory=dict)
    lag_seconds: dict[str, float] = field(default_factory=dict)
    unread: dict[str, float] = field(default_factory=dict)
    latencies: dict[int, int] = field(default_factory=dict)

    def add(self, seen: Observation) -> None:
        """Add an observation: counts and seconds add up, of lag the maximum stays."""
        for family, seconds in seen.seconds.items():
            self.seconds[family] = self.seconds.get(family, 0.0) + seconds
            counts = self.counts.setdefault(family, {})
            for name, count in seen.counts.get(family, {}).items():
                counts[name] = counts.get(name, 0.0) + count
        for kept, found in ((self.lag_seconds, seen.lag_seconds), (self.unread, seen.unread)):
            for group, value in found.items():
                kept[group] = max(kept.get(group, 0.0), value)
        for class_, count in seen.latencies.items():
            self.latencies[class_] = self.latencies.get(class_, 0) + count

    def rate(self, family: Family, name: str) -> float | None:
        """Return a count a second; None where the family was not read."""
        seconds = self.seconds.get(family, 0.0)
        return self.counts[family].get(name, 0.0) / seconds if seconds > 0 else None


class TimeSeries:
    """The buckets of each range."""

    def __init__(self) -> None:
        self._buckets: dict[TimeRange, deque[Bucket]] = {each: deque() for each in TimeRange}

    def add(self, seen: Observation) -> None:
        """Add an observation to each range. One of before the newest bucket, after a clock was set back, joins that."""
        for range_, buckets in self._buckets.items():
            start = int(seen.at.timestamp()) // range_.bucket_seconds * range_.bucket_seconds
            if not buckets or start > buckets[-1].start:
                buckets.append(Bucket(start))
            buckets[-1].add(seen)
            while buckets[0].start <= buckets[-1].start - range_.seconds:
                buckets.popleft()

    def buckets(self, range_: TimeRange) -> list[Bucket]:
        """Return a range's buckets, oldest first."""
        return list(self._buckets[range_])

    def counted(self, family: Family, since: datetime) -> Counter[str]:
        """Return how often each name of a family was counted since a time, of the last 15 minutes."""
        totals: Counter[str] = Counter()
        for bucket in self._buckets[TimeRange.MINUTES_15]:
            if bucket.start >= since.timestamp():
                totals.update({name: round(count) for name, count in bucket.counts.get(family, {}).items()})
        return totals

    def first_counted(self, family: Family, since: datetime) -> datetime | None:
        """Return when the first of what `counted` counts came: the beginning of its bucket. None where nothing came."""
        for bucket in self._buckets[TimeRange.MINUTES_15]:
            if bucket.start >= since.timestamp() and any(bucket.counts.get(family, {}).values()):
                return datetime.fromtimestamp(bucket.start, UTC)
        return None

    def restore(self, range_: TimeRange, buckets: Iterable[Bucket], now: datetime) -> None:
        """Put buckets of an earlier run in place: those of the range that are not of the future."""
        newest = int(now.timestamp())
        known = {each.start: each for each in buckets if newest - range_.seconds < each.start <= newest}
        self._buckets[range_] = deque(known[start] for start in sorted(known))

    def series(self, range_: TimeRange, now: datetime) -> dict[str, Any]:
        """Return a range's series for JSON: columns of one value a bucket, None where nothing was read.

        A range that is longer than there are samples begins with the first of them.
        """
        to = int(now.timestamp())
        buckets = [each for each in self._buckets[range_] if each.start > to - range_.seconds]
        oldest = min(buckets[0].start if buckets else to, to - int(range_.seconds * _MIN_SHARE))
        families = {family: _names(buckets, family) for family in Family}
        return {
            "range": range_,
            "from": max(to - range_.seconds, oldest),
            "to": to,
            "bucket_seconds": range_.bucket_seconds,
            "times": [each.start for each in buckets],
            "rates": {
                family: {name: [_rounded(each.rate(family, name), 6) for each in buckets] for name in names}
                for family, names in families.items()
            },
            "lag_seconds": _gauges([each.lag_seconds for each in buckets]),
            "unread": _gauges([each.unread for each in buckets]),
            "latency_seconds": {
                name: [_percentile(each.latencies, share) for each in buckets] for name, share in _PERCENTILES.items()
            },
        }


def _names(buckets: Iterable[Bucket], family: Family) -> list[str]:
    """Return the names of a family, the most frequent first."""
    totals: Counter[str] = Counter()
    for each in buckets:
        for name, count in each.counts.get(family, {}).items():
            totals[name] += int(count * 1000)
    return [name for name, _ in sorted(totals.items(), key=lambda entry: (-entry[1], entry[0]))]


def _gauges(found: list[dict[str, float]]) -> dict[str, list[float | None]]:
    names = sorted({name for each in found for name in each})
    return {name: [_rounded(each.get(name)) for each in found] for name in names}


def _rounded(value: float | None, digits: int = 3) -> float | None:
    """Return a value with so many decimals. A rate has more: one dead letter an hour is 0.0003 a second."""
    return None if value is None else round(value, digits)


def latency_class(seconds: float) -> int:
    """Return the class of a latency. Latencies of less than a millisecond are in class 0."""
    return max(0, math.ceil(math.log(max(seconds, 1e-9) * 1000, _LATENCY_STEP)))


def _percentile(latencies: Mapping[int, int], share: float) -> float | None:
    """Return the latency in seconds that a share of the records is at or below; None without records."""
    wanted = share * sum(latencies.values())
    passed = 0
    for class_ in sorted(latencies):
        passed += latencies[class_]
        if passed >= wanted:
            return round(float(_LATENCY_STEP**class_) / 1000, 4)
    return None
