"""What a run tells: numbers, the table of points and kinds, and where a promise was broken."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.crash.judge import Verdict
from tests.crash.points import POINTS, Cell, Kind

__all__ = ["MISSED_AT_MOST", "Order", "Result", "as_json", "show", "summary", "write"]

MISSED_AT_MOST = 0.05  # of the faults that were begun; a run of few may miss one
_DRAWN_OFTEN = 3  # of one point, kind and phase: a third time in vain is no chance

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


@dataclass(frozen=True, slots=True)
class Order:
    """What to run."""

    cells: Sequence[Cell]
    faults: int
    seed: int
    seconds: float = 3_600.0  # no fault begins later
    rate: float = 40.0  # records a second
    recovery_seconds: float = 15.0  # the longest wait for a group to recover, where the matrix waits for that
    drain_seconds: float = 120.0  # without an answer, while something is left at the end
    broken: str | None = None
    frozen_seconds: float | None = None  # see `Surroundings`


@dataclass(slots=True)
class Result:
    """What came of a run."""

    order: Order
    seconds: float = 0.0
    faults: Counter[Cell] = field(default_factory=Counter)  # that were made
    missed: Counter[Cell] = field(default_factory=Counter)  # begun, and not made or without an effect
    misses: Counter[tuple[Cell, str]] = field(default_factory=Counter)  # those, each with why
    recovery: dict[Cell, list[float]] = field(default_factory=lambda: defaultdict(list))
    disturbed: dict[Cell, list[float]] = field(default_factory=lambda: defaultdict(list))  # met by the next meanwhile
    not_recovered: Counter[Cell] = field(default_factory=Counter)  # by the end of the run
    server_kills: Counter[str] = field(default_factory=Counter)
    went_on: Counter[bool] = field(default_factory=Counter)  # of the other Postgres servers, while one was away
    broker_restarts: int = 0  # in order, since a group's coordinator had given up
    ends: Counter[str] = field(default_factory=Counter)  # of workers, by themselves, which a supervisor's restart mends
    stuck: int = 0
    verdict: Verdict = field(default_factory=Verdict)

    def miss(self, cell: Cell, reason: str) -> None:
        """Note a fault that was begun and not made."""
        self.missed[cell] += 1
        self.misses[cell, reason] += 1

    @property
    def reasons(self) -> Counter[str]:
        """Why faults were missed, and how many."""
        reasons: Counter[str] = Counter()
        for (_, reason), count in self.misses.items():
            reasons[reason] += count
        return reasons

    @property
    def begun(self) -> int:
        """How many faults of the order were begun before its time was over."""
        return self.faults.total() + self.missed.total()

    @property
    def unreached(self) -> list[str]:
        """The points that nobody ever came to: their wrapper no longer fits."""
        reached = {cell.point for cell in self.faults}
        return sorted({cell.point for cell in self.missed} - reached)

    @property
    def unmade(self) -> list[str]:
        """The points, phases and kinds that were begun often, of whatever job, and of which no fault was ever made."""
        made = {cell[1:] for cell in self.faults}
        missed: Counter[tuple[str, ...]] = Counter()
        for cell, count in self.missed.items():
            missed[cell[1:]] += count
        return sorted(" ".join(key) for key, count in missed.items() if count >= _DRAWN_OFTEN and key not in made)

    @property
    def misses_too_many(self) -> bool:
        """Whether more faults were missed than chance explains."""
        return self.missed.total() > max(1, MISSED_AT_MOST * self.begun)

    @property
    def passed(self) -> bool:
        """Whether every promise was kept, and the matrix did what it was to do."""
        is_made = not (self.unreached or self.unmade or self.misses_too_many)
        return self.verdict.passed and not self.stuck and is_made


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
        "begun": result.begun,
        "ordered": result.order.faults,
        "missed": result.missed.total(),
        "beyond_retention": verdict.beyond_retention,
        "server_kills": dict(result.server_kills),
        "broker_restarts": result.broker_restarts,
        "others_went_on": {"yes": result.went_on[True], "no": result.went_on[False]},
    }


def as_json(result: Result) -> dict[str, Any]:
    """Return all of a run."""
    return summary(result) | {
        "unreached": result.unreached,
        "unmade": result.unmade,
        "missed_reasons": dict(result.reasons.most_common()),
        "never_begun": len(set(result.order.cells) - set(result.faults) - set(result.missed)),
        "recovery": _recovery(result),
        "broken_form": result.order.broken,
        "examples": dict(result.verdict.examples),
        "worker_ends": dict(result.ends),
        "missed_cells": {f"{' '.join(cell)}: {why}": count for (cell, why), count in result.misses.most_common()},
        "table": _table(result),
    }


def _recovery(result: Result) -> dict[str, float | int | None]:
    """Return the seconds from just before a fault until all lanes of the group had stored more, and how many had not.

    Those that the next fault of the group met before are counted apart: it lengthens them.
    """
    alone, disturbed = (
        [seconds for row in times.values() for seconds in row] for times in (result.recovery, result.disturbed)
    )
    return {
        "alone": len(alone),
        "median": _median(alone),
        "longest": round(max(alone), 1) if alone else None,
        "disturbed": len(disturbed),
        "disturbed_median": _median(disturbed),
        "not_recovered": result.not_recovered.total(),
    }


def _median(times: Sequence[float]) -> float | None:
    return round(median(times), 1) if times else None


def _table(result: Result) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Return for each point and kind the faults made and missed, and the median seconds of recovery."""

    def times(recovered: Mapping[Cell, Iterable[float]], name: str, kind: Kind) -> list[float]:
        return [
            seconds for cell, row in recovered.items() if (cell.point, cell.kind) == (name, kind) for seconds in row
        ]

    def count(faults: Counter[Cell], name: str, kind: Kind) -> int:
        return sum(number for cell, number in faults.items() if (cell.point, cell.kind) == (name, kind))

    return {
        name: {
            kind: {
                "faults": count(result.faults, name, kind),
                "missed": count(result.missed, name, kind),
                "not_recovered": count(result.not_recovered, name, kind),
                "seconds": _median(times(result.recovery, name, kind)),
                "disturbed_seconds": _median(times(result.disturbed, name, kind)),
            }
            for kind in Kind
        }
        for name in POINTS
    }


def write(result: Result, file: Path, setup: Mapping[str, Any]) -> None:
    """Write all of a run as JSON, with what it ran on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(as_json(result) | {"setup": dict(setup)}, indent=1) + "\n")


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
    for name in result.unmade:
        out.print(f"no fault was ever made: {name}", style="red", highlight=False)
    if result.misses_too_many:
        out.print(f"more than {MISSED_AT_MOST:.0%} of the faults were missed", style="red")
    for text, count in result.reasons.most_common():
        out.print(f"{count} faults missed: {text}", highlight=False, markup=False)
    for text, count in Counter(result.ends).most_common():
        out.print(f"{count} workers ended and were replaced: {text}", highlight=False, markup=False)
