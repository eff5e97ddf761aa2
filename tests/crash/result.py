"""What a run tells: numbers, the table of points and kinds, and where a promise was broken."""

import json
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.crash.matrix import Result
from tests.crash.points import POINTS, Kind

__all__ = ["as_json", "show", "summary", "write"]

_PROMISES = (
    "lost",
    "doubled",
    "repeated",
    "gaps",
    "unknown",
    "unbalanced",
    "backwards",
    "stale",
    "broken",
    "refused",
    "overtaken",
)


def summary(result: Result) -> dict[str, Any]:
    """Return the numbers of a run."""
    verdict = result.verdict
    return {
        "passed": result.passed,
        "faults": result.faults.total(),
        "requests": verdict.requests,
        "lost": verdict.counts["lost"],
        "doubled": verdict.counts["doubled"],
        "repeated": verdict.counts["repeated"],
        "stuck": result.stuck,
        "seconds": round(result.seconds),
        "seed": result.order.seed,
        **{name: verdict.counts[name] for name in _PROMISES[3:]},
        "answers": verdict.answers,
        "missed": result.missed.total(),
        "beyond_retention": verdict.beyond_retention,
        "server_kills": dict(result.server_kills),
    }


def as_json(result: Result) -> dict[str, Any]:
    """Return all of a run."""
    return summary(result) | {
        "unreached": result.unreached,
        "broken_form": result.order.broken,
        "examples": dict(result.verdict.examples),
        "worker_ends": dict(result.ends),
        "missed_cells": [" ".join(cell) for cell in result.missed],
        "table": _table(result),
    }


def _table(result: Result) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Return for each point and kind the faults made, and the median seconds until all lanes stored again."""
    table: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for name in POINTS:
        for kind in Kind:
            made = sum(count for cell, count in result.faults.items() if (cell.point, cell.kind) == (name, kind))
            times = [
                seconds
                for cell, row in result.recovery.items()
                if (cell.point, cell.kind) == (name, kind)
                for seconds in row
            ]
            table.setdefault(name, {})[kind] = {"faults": made, "seconds": round(median(times), 1) if times else None}
    return table


def write(result: Result, file: Path) -> None:
    """Write all of a run as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(as_json(result), indent=1) + "\n")


def show(result: Result, out: Console) -> None:
    """Print the table, and what is wrong."""
    table = Table("point", *map(str, Kind), title="faults made at each point")
    for name, row in _table(result).items():
        table.add_row(name, *(f"{cell['faults']}" for cell in row.values()))
    out.print(table)
    for promise, places in result.verdict.examples.items():
        for place in places:
            out.print(f"{promise}: {place}", style="red", highlight=False, markup=False)
    for name in result.unreached:
        out.print(f"nobody ever came to the point {name}", style="red")
    for text, count in Counter(result.ends).most_common():
        out.print(f"{count} workers ended and were replaced: {text}", highlight=False, markup=False)
