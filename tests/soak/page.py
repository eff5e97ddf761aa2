"""Renders `docs/soak.md` and its picture from what the last soak wrote: `python -m tests.soak.page`."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.soak.picture import picture
from tests.soak.trend import Trend
from tests.soak.verdict import FAILED_SHARE, FIGURES, FILE, failures, latency_trends, trends, warm_up

__all__ = ["render"]

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "soak.md"
PICTURE: Final = DOCUMENT.parent / "images" / "soak.svg"
_COUNTED: Final = ("lost", "unasked", "gaps", "audit", "bad_ends", "failed_visits")

_HEAD = """# An hour of load

`make soak` runs every process of the system for an hour, on real Kafka and real Postgres, and looks at what each of
them holds. Two workers of each kind share {partitions} partitions: one is never restarted, the other ends every
{every} minutes, in turn, by SIGTERM or SIGKILL, and is started again. The ticker, `inmail metrics`, `inmail lag
--serve`, the console with an open page, and the read API with readers run beside them; all are scraped every 15 s.

The load changes each minute ({paces} records a second), and waits while 3,000 sends are unanswered. One account of
2,001 makes 5 % of all sends. 5 % of the records come twice, some minutes apart; some ids come again with another body,
some records cannot be decoded; deliveries are reported as failed; billing gives credits, opens subscriptions and
cancels them, so that lots end and are booked.

This page is rendered by `python -m tests.soak.page` from a run that began at {began} UTC. {beside}

## What the run found

| promise | broken |
|---|---|
| each of {published:,} records published has its answer: none lost | {lost} |
| no answer more often than it was asked for, no first answer twice | {unasked} |
| no account's sequence has a gap | {gaps} |
| nothing is left unread in a topic, no transaction is left open | {unread} |
| {audit_checks} checks of the audit, conservation among them | {audit} |
| each process ends in order when told to | {bad_ends} |

{answered:,} events were read: the answers, and what ticks and expiries told beside them. {visits:,} pages were asked
for, of which {failed_visits} were not answered as they should be (at most {failed_share:.1%} may) and {server_errors}
with a status of 500 or more (none may).

![Sends, latency and memory over the minutes](images/soak.svg)

## Slopes of processes that were never restarted

Each figure is the median of a minute's looks, one each 10 s. The first {warm} minutes are left out: until then
observers fill the history that they keep (`inmail lag` 20 minutes). A slope is *told from zero* where zero lies outside
its interval; the intervals hold with 95 % for all fits of this page together. [How a slope is
fitted](../tests/soak/trend.py), and [the test](../tests/soak/test_trend.py) that a leak is found and noise is not.
"""

_RESTARTED = """
## Lives of processes that were restarted

A life of {life} minutes is mostly the filling of buffers, caches and of the allocator's arenas, so its slope says
nothing of an hour: the process of the same kind that was never restarted does. What lives show is whether a later one
holds more than an earlier one, as it would if something were left behind in Kafka or Postgres.

| process | lives | memory at the end of each, MB | open files | to Kafka | to Postgres |
|---|---|---|---|---|---|
"""

_LATENCY = """
## Latency

From when a send was due to when a `read_committed` reader has its answer. Minutes in which a process was restarted, and
those right after, are left out of the fit: one that was killed holds its partitions until its session is over (30 s).
A load that waits sends less than is due, and what is not sent has no latency: {skipped}.
"""


def render(run: Mapping[str, Any], beside: str) -> str:
    """Return the page of a run."""
    paces = [each["pace"] for each in run["minutes"]]
    facts = {
        **run,
        **run["order"],
        **{name: len(run[name]) for name in _COUNTED},
        "server_errors": len(run["server_errors"]) if "server_errors" in run else "an unknown number",
        "failed_share": FAILED_SHARE,
        "skipped": _skipped(run["minutes"]),
        "began": run["began"].replace("T", " ").removesuffix("+00:00"),
        "paces": f"{min(paces)} to {max(paces)}",
        "every": run["order"]["restart_minutes"],
        "life": run["order"]["restart_minutes"] * sum(not each["steady"] for each in run["processes"].values()),
        "warm": warm_up(run),
        "beside": beside,
    }
    found = trends(run)
    lines = [_HEAD.format(**facts), *_steady(run, found), _RESTARTED.format(**facts).rstrip("\n"), *_lives(run)]
    lines += [_LATENCY.format(**facts), *_latency(run), "", "## Verdict", "", *_verdict({"server_errors": [], **run})]
    return "\n".join(lines) + "\n"


def _skipped(minutes: Sequence[Mapping[str, Any]]) -> str:
    """Return how many records were due, and how many of them the load skipped, and when."""
    if any("skipped" not in each for each in minutes):
        return "how many records were\nskipped so is not known of this run, and its p99 may be too low"
    skipped = sum(each["skipped"] for each in minutes)
    due = round(sum(60 * each["records"] for each in minutes)) + skipped
    when = f"{sum(each['skipped'] > 0 for each in minutes)} of {len(minutes)} minutes"
    return f"{skipped:,} of {due:,} records that were\ndue were skipped, in {when}"


def _steady(run: Mapping[str, Any], found: Mapping[str, Mapping[str, Trend | None]]) -> Iterator[str]:
    yield "| process | memory, MB, first and last | KB a minute | interval | open files | to Kafka | to Postgres |"
    yield "|---|---|---|---|---|---|---|"
    for name, figures in found.items():
        process = run["processes"][name]
        if process["steady"]:
            minutes = [each for each in process["lives"][0] if each["minute"] > warm_up(run)]
            ends = f"{minutes[0]['memory_kb'] / 1024:.1f}, {minutes[-1]['memory_kb'] / 1024:.1f}" if minutes else "-"
            memory = figures["memory_kb"]
            slope, interval = (
                ("-", "-") if memory is None else (_told(memory), f"{_figure(memory.low)} to {_figure(memory.high)}")
            )
            others = " | ".join(_other(figure, figures, minutes) for figure in FIGURES if figure != "memory_kb")
            yield f"| {name} | {ends} | {slope} | {interval} | {others} |"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _told(trend: Trend) -> str:
    return f"{_figure(trend.slope)}" if trend.is_flat else f"**{_figure(trend.slope)}, told from zero**"


def _other(figure: str, figures: Mapping[str, Trend | None], minutes: list[dict[str, Any]]) -> str:
    if figure not in figures or not minutes:
        return "-"
    least, most = min(each[figure] for each in minutes), max(each[figure] for each in minutes)
    trend = figures[figure]
    slope = "" if trend is None or trend.is_flat else f", **{_figure(trend.slope)} a minute**"
    return (f"{least:g}" if least == most else f"{least:g} to {most:g}") + slope


def _lives(run: Mapping[str, Any]) -> Iterator[str]:
    for name, process in run["processes"].items():
        if not process["steady"]:
            last = [life[-2] for life in process["lives"] if len(life) > 1]  # the minute before the one it ended in
            memory = ", ".join(f"{each['memory_kb'] / 1024:.1f}" for each in last)
            others = " | ".join(
                ", ".join(f"{each[figure]:g}" for each in last) for figure in FIGURES if figure != "memory_kb"
            )
            yield f"| {name} | {len(process['lives'])} | {memory} | {others} |"


def _latency(run: Mapping[str, Any]) -> Iterator[str]:
    yield "| | median of minutes, ms | slope, ms a minute | interval (95 %) |"
    yield "|---|---|---|---|"
    for name, trend in latency_trends(run).items():
        middle = median(each[name] for each in run["minutes"] if each[name] is not None)
        words = "- | -" if trend is None else f"{_told(trend)} | {_figure(trend.low)} to {_figure(trend.high)}"
        yield f"| {name.removesuffix('_ms')} | {middle:,.0f} | {words} |"


def _verdict(run: Mapping[str, Any]) -> list[str]:
    wrong = failures(run)
    restarts = Counter(each["restarted"].partition(" ")[2] for each in run["minutes"] if each["restarted"])
    ends = " and ".join(f"{count} by {name}" for name, count in restarts.items())
    intro = f"{len(run['minutes'])} minutes, {sum(restarts.values())} restarts ({ends})."
    if not wrong:
        words = "No promise was broken, and no figure of a process that was never restarted has a slope that a fit"
        return [f"{intro} {words} tells from zero."]
    return [f"{intro} What is wrong, or told from zero:", "", *(f"- {line}" for line in wrong)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak.page", description=__doc__)
    parser.add_argument("--beside", default="", help="what else ran on the machine, as a sentence")
    written = json.loads(FILE.read_text())
    DOCUMENT.write_text(render(written, parser.parse_args().beside))
    PICTURE.write_text(picture(written))
