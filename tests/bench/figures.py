"""What a bench prints and writes: figures beside their baselines, as ratios of one run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar

from rich.console import Console
from rich.table import Table

__all__ = ["Figure", "of_rounds", "order_of", "show", "write"]

_Form = TypeVar("_Form")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: ours, and what it is measured against in the same run."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    details: dict[str, object] = field(default_factory=dict)


def order_of(number: int, forms: Sequence[_Form]) -> list[_Form]:
    """Return forms in the order of a round, counted from 1: each is first in turn, whatever a first run warms up."""
    first = (number - 1) % len(forms)
    return [*forms[first:], *forms[:first]]


def of_rounds(
    name: str, unit: str, ours: Sequence[float], baseline: Sequence[float], details: dict[str, object]
) -> Figure:
    """Return the medians of interleaved rounds, and the ratio of the two; none to a baseline of nothing.

    The details gain every round's value: what the machine's noise was is part of the figure.
    """
    value, base = median(ours), median(baseline)
    rounds = {"rounds": [round(each, 1) for each in ours], "baseline_rounds": [round(each, 1) for each in baseline]}
    ratio = round(value / base, 2) if base else None  # a ticker's CPU time can be below what the kernel counts
    return Figure(name, round(value, 1), unit, round(base, 1), ratio, details | rounds)


def show(figures: Sequence[Figure], out: Console) -> None:
    """Print figures as a table."""
    table = Table(box=None, pad_edge=False)
    for column in ("figure", "value", "baseline", "ratio", "unit"):
        table.add_column(column, justify="left" if column in ("figure", "unit") else "right")
    for each in figures:
        numbers = ["" if number is None else f"{number:,.1f}" for number in (each.value, each.baseline)]
        numbers.append("" if each.ratio is None else f"{each.ratio:,.2f}")
        table.add_row(each.name, *numbers, each.unit)
    out.print(table)


def write(figures: Sequence[Figure], path: Path) -> None:
    """Write figures as JSON, in place of those of an earlier run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(each) for each in figures], indent=2) + "\n")
