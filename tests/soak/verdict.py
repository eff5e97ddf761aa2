"""What a soak shows: the slope of each figure of each process, the latency's, and which promises were broken."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.soak.trend import Points, Trend, fit

__all__ = ["FAILED_SHARE", "FIGURES", "FILE", "LATENCIES", "failures", "latency_trends", "trends", "warm_up"]

FILE: Final = Path(__file__).parents[2] / "build" / "soak.json"
FIGURES: Final = {"memory_kb": "memory, KB", "files": "open files", "kafka": "to Kafka", "postgres": "to Postgres"}
LATENCIES: Final = {"p50_ms": "p50", "p99_ms": "p99"}
_CONFIDENCE: Final = 0.95  # of all fits together
_WARM_MINUTES: Final = 20  # an observer of lag keeps samples of 20 minutes, the longest of what fills first
_WARM_LIFE_MINUTES: Final = 3
FAILED_SHARE: Final = 0.001  # of the visits to pages, at most: a machine that others use too makes some wait too long
_AFTER_RESTART: Final = 2  # minutes in which latency tells of a restart


def warm_up(run: Mapping[str, Any]) -> int:
    """Return how many minutes of the run no fit uses."""
    return min(_WARM_MINUTES, int(run["order"]["minutes"]) // 3)


def trends(run: Mapping[str, Any]) -> dict[str, dict[str, Trend | None]]:
    """Return the trend of each figure of each process."""
    confidence = 1 - (1 - _CONFIDENCE) / max(1, sum(1 for _ in _fits(run)))
    found: dict[str, dict[str, Trend | None]] = {}
    for name, figure in _fits(run):
        process = run["processes"][name]
        lives = process["lives"]
        begin = warm_up(run) if process["steady"] else 0
        points: list[Points] = [
            [(each["minute"], each[figure]) for each in life[_WARM_LIFE_MINUTES:] if each["minute"] > begin]
            for life in (lives if process["steady"] else map(_whole_minutes, lives))
        ]
        found.setdefault(name, {})[figure] = fit(points, confidence)
    return found


def _whole_minutes(life: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the last minute of a life: it may hold its end only."""
    return life[:-1]


def _fits(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, process in run["processes"].items():
        for figure in process["lives"][0][0]:
            if figure != "minute":
                yield name, figure


def latency_trends(run: Mapping[str, Any]) -> dict[str, Trend | None]:
    """Return the trend of each latency over the minutes that no restart is in, or just before."""
    begin = warm_up(run)
    busy = {each["minute"] + after for each in run["minutes"] if each["restarted"] for after in range(_AFTER_RESTART)}
    quiet = [each for each in run["minutes"] if each["minute"] > begin and each["minute"] not in busy]
    return {
        name: fit([[(each["minute"], each[name]) for each in quiet if each[name] is not None]], _CONFIDENCE)
        for name in LATENCIES
    }


def failures(run: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a run; of slopes, those of processes that were never restarted count."""
    wrong = [f"{len(run[name])} {words}: {run[name][:3]}" for name, words in _PROMISES.items() if run[name]]
    if run["unread"]:
        wrong.append(f"{run['unread']} records were left unread")
    failed = run["failed_visits"]
    if not run["visits"] or len(failed) > max(1, FAILED_SHARE * run["visits"]):
        wrong.append(f"{len(failed)} of {run['visits']} visits to pages failed: {failed[:3]}")
    for name, figures in trends(run).items():
        if run["processes"][name]["steady"]:
            wrong += [
                f"{name}: {FIGURES[figure]} changes by {trend.slope:.3g} a minute ({trend.low:.3g} to {trend.high:.3g})"
                for figure, trend in figures.items()
                if trend is not None and not trend.is_flat
            ]
    return wrong


_PROMISES: Final = {
    "lost": "answers were lost",
    "unasked": "answers came too often, or without a request",
    "gaps": "accounts have a gap in their sequence",
    "audit": "checks of the audit failed",
    "bad_ends": "processes ended badly",
    "server_errors": "visits to pages were answered by an error of the server",
}
