"""Records each sample in the console's time series, and keeps these over a restart where a file is set."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

import structlog

from infra.clock import utc_now
from infra.settings import RecordTime, Settings
from workers.console.flow import Growth
from workers.console.problems import KNOWN, explain
from workers.console.published_marks import PublishedMarks
from workers.console.query_limiter import QueryLimiter
from workers.console.result_tail import Results, ResultTail
from workers.console.time_series import Bucket, Family, Observation, TimeRange, TimeSeries
from workers.console.time_series_file import load_series, save_series
from workers.ops.lag import GroupLag

__all__ = ["Recorder"]

_SAVE_SECONDS: Final = 60.0
_PRODUCERS_TIME: Final = "not measured: records carry their producers' times (INMAIL_TOPIC_RECORD_TIME=create)"
_TOTAL: Final = "records"  # the only name of a family without names


class Recorder:
    """The time series, the reader of the result topics, and the file."""

    def __init__(self, limiter: QueryLimiter) -> None:
        self._limiter = limiter
        self.marks = PublishedMarks()
        self._tail = ResultTail(limiter.settings, self.marks)
        self._file = _history_file(limiter.settings)
        self._measures_time = limiter.settings.topic_record_time is RecordTime.APPEND
        self._problem: str | None = None  # why nothing is kept
        self.results_problem: str | None = None  # why the result topics could not be read at the last attempt
        self._results_at: float | None = None  # monotonic: when they were last read
        self._saved_at = monotonic()
        self._history = TimeSeries()
        if self._file is not None:
            self._history, problem = load_series(self._file, utc_now())
            self._set_problem(problem)

    async def read_results(self) -> tuple[Results, float] | None:
        """Return the results since the last reading, and the seconds that they cover; None where nothing is to be told.

        What cannot be read leaves a gap in the series, and counts with the next reading; `results_problem` says why.
        """
        try:
            async with self._limiter.sample_slot():
                results = await self._tail.read()
        except KNOWN as error:
            self.results_problem = explain(error, self._limiter.settings)[2]
            return None
        self.results_problem = None
        before, self._results_at = self._results_at, monotonic()
        return None if results is None or before is None else (results, self._results_at - before)

    def record(
        self,
        at: datetime,
        growth: Growth | None,
        groups: Sequence[GroupLag] | None,
        results: tuple[Results, float] | None,
    ) -> None:
        """Add one sample.

        Args:
            at: the time of the sample.
            growth: what the offsets grew by since the sample before; None where that is unknown.
            groups: the lag of the workers' groups; None where it is unknown.
            results: what came to the result topics, and in how many seconds; None where that is unknown.

        """
        seen = Observation(at)
        if growth is not None:
            known = ((Family.CAME_IN, growth.came_in), (Family.DECIDED, growth.decided))
            for family, count in (*known, (Family.ANSWERED, growth.answered)):
                if count is not None:
                    seen.seconds[family], seen.counts[family] = growth.seconds, {_TOTAL: count}
        if results is not None:
            found, seconds = results
            seen.seconds |= {Family.OUTCOMES: seconds, Family.DEAD_LETTERS: seconds}
            seen.counts |= {Family.OUTCOMES: found.outcomes, Family.DEAD_LETTERS: found.dead_letters}
            seen.latencies = found.latencies
        for group in groups or ():
            seen.lag_seconds[group.group], seen.unread[group.group] = group.seconds, group.records
        self._history.add(seen)

    def buckets(self, range_: TimeRange) -> list[Bucket]:
        """Return the buckets of a range, oldest first."""
        return self._history.buckets(range_)

    def dead_letters(self, since: datetime) -> Counter[str]:
        """Return how many dead letters came since a time, by reason, as far as this console saw."""
        return self._history.counted(Family.DEAD_LETTERS, since)

    def first_dead_letter_at(self, since: datetime) -> datetime | None:
        """Return when the first of these came; None where none did."""
        return self._history.first_counted(Family.DEAD_LETTERS, since)

    def series(self, range_: TimeRange) -> dict[str, Any]:
        """Return a range's series for JSON, with what keeps the console from reading or keeping them.

        Where records carry their producers' times, neither the age of an unread record nor its latency is known.
        """
        problems = [each for each in (self.results_problem, self._problem) if each is not None]
        series = self._history.series(range_, utc_now())
        if not self._measures_time:
            series |= {"lag_seconds": {}, "latency_seconds": {}}
        unmeasured = "" if self._measures_time else _PRODUCERS_TIME
        return series | {"problems": problems, "kept": self._file is not None, "unmeasured": unmeasured}

    async def save(self, *, if_due: bool = False) -> None:
        """Write the file, where one is set; `if_due`: at most once a minute."""
        if self._file is None or (if_due and monotonic() - self._saved_at < _SAVE_SECONDS):
            return
        self._saved_at = monotonic()
        ranges = {each: self._history.buckets(each) for each in TimeRange}
        self._set_problem(await asyncio.to_thread(save_series, self._file, ranges))

    def _set_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            structlog.get_logger("inmail.console").warning("history_not_kept", reason=problem)
        self._problem = problem

    async def close(self) -> None:
        """Write the file, and close the reader."""
        await self.save()
        await self._tail.close()


def _history_file(settings: Settings) -> Path | None:
    return Path(settings.console_history_file) if settings.console_history_file else None
