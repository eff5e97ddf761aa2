"""Renders `docs/crash-matrix.md` from what the last run of the matrix wrote: `python -m tests.crash.table`."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.crash.__main__ import FILE
from tests.crash.points import POINTS, Kind
from tests.crash.result import MISSED_AT_MOST

__all__ = ["DOCUMENT", "render"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "crash-matrix.md"

NL = "\n"

_HEAD = """# The crash matrix

`make crash` brings a worker to a named point of the lane's protocol, lets it stand there, before the call, after it or
within it, and lets a fault meet it: under load, on real Kafka and real Postgres, in real processes. Faults follow one
another in the send, billing and expiry workers at the same time. At the end workers that nobody touches answer what is
left, and the run is judged from outside: by the audit, and by a stock `read_committed` reader of every topic. One
worker process in ten hears, whatever the broker says, of less than it has published ([why](kafka-versions.md)).

This page is rendered from a run by `python -m tests.crash.table`.

## What the run found

{faults:,} faults in {seconds:,} s, seed {seed}; {requests:,} input records, {answers:,} events read. The run of commit
{setup[commit]} ended on {setup[day]}: {setup[partitions]} partitions a topic, two workers of each
kind, brokers: {setup[brokers]}. {beside}Servers were killed {servers}; a kill of a server that met a worker of each job
counts as a fault of each. {ends} workers ended by themselves on a fault, as a supervisor's restart mends, and were
replaced.{restarts}

Of {ordered:,} faults ordered, {begun:,} were begun before the time was over{never}: {faults:,} were made and {missed:,}
missed{reasons}. A fault counts as made only where it showed: connections were open to be cut, the group began to
rebalance, others took all lanes over while a worker was frozen, one of the job's results was refused, an opening was
cancelled where it stood within a request. A run fails where more than {ceiling} of those begun are
missed, or three of one point, kind and phase and none is made.

| promise | broken |
|---|---|
| each input record has its answer visible: none `lost` | {lost} |
| and no more than one: none `doubled` | {doubled} |
| no first answer is given twice under its event id: none `repeated` | {repeated} |
| every lane gets to the end of its input: none `stuck` | {stuck} |
| no account's sequence has a gap over both result topics | {gaps} |
| nothing is visible that no record asked for | {unknown} |
| the audit's checks, conservation and one outcome a request among them | {unbalanced} |
| offsets of groups, in the broker's log of them, and of lanes never go back | {backwards} |
| no batch is stored by an owner after a newer one | {stale} |
| no send is `refused` for want of credit that Kafka held before it | {refused} |
| no send is answered `balance_not_current`: nobody is away for so long | {overtaken} |
| no worker ends on a broken invariant, and each that is told to end does | {broken} |

{beyond_retention:,} repeats and undecodable records had been removed by retention, planted for the points `recall` and
`left`, between the two commits of their batch. What the books hold of such a record is published from there; a repeat
has no row of its own and a dead letter none at all, so these are not asked for.

{broken_promises}## Faults made

Each cell: how many faults were made, before the call, after it and within it together; how many were missed, if any
(`-1`); and the median seconds from just before the fault until every lane of the group had stored something more.
Faults follow one another: where the next of the group had begun before, that lengthens the time, which is in
parentheses; after each eighth fault the next waits. A lane stores something more only when there is a record for it.

Timeouts are short, so that an hour has many faults: a session of 6 s (an installation's default: 30), a Kafka
transaction of 1.2 s. So these times compare points with each other, and say nothing of an installation: [what
a kill costs there](cluster.md).

Without another fault meanwhile {alone:,} recovered, in {median} s by the median and {longest} s at most; with others
meanwhile {disturbed:,}, in {disturbed_median} s. {not_recovered:,} had not stored more in every lane when the load was
over and all of it was answered.
"""


def render(run: Mapping[str, Any], beside: str = "") -> str:
    """Return the page for a run."""
    places = [
        f"- {promise}: {' '.join(place.split())}"
        for promise, found in run["examples"].items()
        for place in dict.fromkeys(found)
    ]
    failed = f"## Where promises were broken\n\nThe first places of each.\n\n{NL.join(places)}\n\n" if places else ""
    servers = " and ".join(f"{count} times ({kind})" for kind, count in run["server_kills"].items())
    restarts = run["broker_restarts"] and (
        f" {run['broker_restarts']} times the brokers were stopped and started in order, since a group had stood for a"
        " minute without a stable state, or its coordinator was loaded again and again, after a kill"
        " ([why](kafka-versions.md#what-421-leaves-open-and-what-a-lane-does-about-it))."
    )
    reasons = ", ".join(f"{count} because {reason}" for reason, count in run["missed_reasons"].items())
    lines = [
        _HEAD.format(
            **run
            | {name: "-" if value is None else value for name, value in run["recovery"].items()}
            | {
                "never": f" ({run['never_begun']} cells of the matrix never)" if run["never_begun"] else "",
                "reasons": f" ({reasons})" if reasons else "",
                "ceiling": f"{MISSED_AT_MOST:.0%}",
                "servers": servers or "never",
                "restarts": restarts or "",
                "beside": beside and f"{beside} ",
                "ends": sum(run["worker_ends"].values()),
                "broken_promises": failed,
            }
        ),
        "| point | " + " | ".join(Kind) + " |",
        "|---|" + "---|" * len(Kind),
    ]
    for name in POINTS:  # a run of before has none of those that were added since
        row = run["table"].get(name, {})
        lines.append(f"| `{name}` | " + " | ".join(_cell(row[kind]) if kind in row else "" for kind in Kind) + " |")
    lines += ["", "## The points", "", "| point | what the worker awaits there |", "|---|---|"]
    lines += [f"| `{point.name}` | {point.what} |" for point in POINTS.values()]
    return "\n".join(lines) + "\n"


def _cell(cell: Mapping[str, Any]) -> str:
    if not cell["faults"] and not cell["missed"]:
        return ""
    missed = f" -{cell['missed']}" if cell["missed"] else ""
    if cell["seconds"] is not None:
        seconds = f": {cell['seconds']} s"
    else:
        seconds = f": ({cell['disturbed_seconds']} s)" if cell["disturbed_seconds"] is not None else ""
    return f"{cell['faults']}{missed}{seconds}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.crash.table")
    parser.add_argument("--beside", default="", help="what else ran on the machine, as a sentence")
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(render(json.loads(FILE.read_text()), parser.parse_args().beside))
