"""How long records waited for their answers: a histogram that counts a whole turn at once.

Observed one by one, a record would cost a worker more than a microsecond. Here a turn's times are sorted once, and each
bucket is one search in them: a few microseconds a turn, and a tenth of one or two a record.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from workers.telemetry import metric_table

__all__ = ["AnswerTimes"]

# Milliseconds. A turn takes a few; a member notices seconds; of minutes and hours lag tells more.
_BUCKETS: Final = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 1_800_000)


class AnswerTimes(Collector):
    """The histogram `inmail_answer_seconds` of one worker."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._within = [0] * len(_BUCKETS)  # records that waited at most as long as each bucket says
        self._records, self._milliseconds = 0, 0.0

    def observe(self, record_times: Sequence[int], now: float) -> None:
        """Count the records of a turn whose answers are published now.

        Args:
            record_times: the broker's time of each record, in milliseconds since 1970, in any order.
            now: this host's time, in milliseconds since 1970. A record of a later time waited 0: clocks differ.

        """
        times = sorted(record_times)  # of a few lanes, each in order: little more than one pass
        count = len(times)
        for number, most in enumerate(_BUCKETS):
            self._within[number] += count - bisect_left(times, now - most)
        before = bisect_right(times, now)
        self._records += count
        self._milliseconds += before * now - sum(times[:before])

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram."""
        row = metric_table.ANSWER_SECONDS
        found = HistogramMetricFamily(row.name, row.meaning, labels=row.labels)
        within = zip((str(most / 1000) for most in _BUCKETS), self._within, strict=True)
        buckets: list[tuple[str, float]] = [*within, ("+Inf", self._records)]
        found.add_metric([self._worker], buckets, self._milliseconds / 1000)
        yield found
