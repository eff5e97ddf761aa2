"""Renders a comparison as a self-contained HTML page without scripts."""

from collections.abc import Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from html import escape
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from workers.ops.compare.comparison import Comparison, DifferenceExample, DifferenceGroup
from workers.ops.compare.out_of_order import DecidedAhead, OvertakenOutcome

__all__ = ["render_page", "value_text"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem; border-bottom: 1px solid #d8dde6; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
code { font-size: 13px; overflow-wrap: anywhere; }
summary { cursor: pointer; }
.good { color: #14713a; } .bad { color: #a3241c; }
@media (prefers-color-scheme: dark) {
  body { background: #14181f; color: #dfe4ec; } th, td { border-color: #333b48; }
  .good { color: #6fce93; } .bad { color: #f08b82; }
}
"""


def render_page(comparison: Comparison, title: str, facts: Mapping[str, str]) -> str:
    """Return a page with the numbers of compared lines, then the differences by cause with examples."""
    verdict = '<p class="good">The ledgers are equal, line for line.</p>'
    if not comparison.same:
        total = sum(group.count for group in comparison.groups)
        verdict = f'<p class="bad">{total:,} differences of {len(comparison.groups):,} causes.</p>'
        if comparison.ahead.different:
            verdict += f"<p>{comparison.unexplained:,} of them do not follow from decisions ahead.</p>"
    if not comparison.whole:
        verdict += (
            "<p>Only records that both have read are compared, without states that a later record may have changed.</p>"
        )
    told = "".join(f"<tr><th>{escape(name)}</th><td>{escape(fact)}</td></tr>" for name, fact in facts.items())
    lines = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{before:,}</td><td class="number">{after:,}</td></tr>'
        for name, (before, after) in comparison.lines.items()
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>{verdict}<table>{told}</table>\n"
        f'<h2>Compared</h2><table><tr><th>lines</th><th class="number">live</th><th class="number">other</th></tr>'
        f"{lines}</table>\n{_groups(comparison)}{_ahead(comparison.ahead)}</body></html>\n"
    )


def _groups(comparison: Comparison) -> str:
    if comparison.same:
        return ""
    head = '<h2>Differences</h2><table><tr><th>lines</th><th>cause</th><th class="number">count</th></tr>'
    return head + "".join(map(_group, comparison.groups)) + "</table>\n"


def _group(group: DifferenceGroup) -> str:
    examples = "".join(map(_example, group.examples))
    table = f"<table><tr><th>where</th><th>live</th><th>other</th></tr>{examples}</table>"
    return (
        f"<tr><td>{escape(group.section)}</td><td><details><summary>{escape(group.label)}</summary>{table}</details></td>"
        f'<td class="number">{group.count:,}</td></tr>\n'
    )


def _ahead(ahead: DecidedAhead) -> str:
    if not ahead.outcomes:
        return ""
    rows = "".join(map(_outcome, ahead.outcomes))
    left_out = ahead.same + ahead.different - len(ahead.outcomes)
    return (
        f"<h2>Decided ahead of another lane</h2><p>{ahead.different:,} have another outcome, {ahead.same:,} the same"
        f"{f'; {left_out:,} of them are not listed' if left_out else ''}.</p>"
        f"<table><tr><th>outcome</th><th>record</th><th>ahead of</th><th>other ledger</th></tr>{rows}</table>\n"
    )


def _outcome(outcome: OvertakenOutcome) -> str:
    cells = (outcome.source, ", ".join(outcome.ahead_of), outcome.difference or "the same")
    return f"<tr><td>{_values(outcome.place)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _example(example: DifferenceExample) -> str:
    cells = "".join(f"<td>{_values(each)}</td>" for each in (example.place, example.before, example.after))
    return f"<tr>{cells}</tr>"


def _values(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "none"
    return "<br>".join(f"{escape(name)} <code>{escape(value_text(value))}</code>" for name, value in values.items())


def value_text(value: object) -> str:
    """Return a value of the database as readable text."""
    if isinstance(value, datetime):
        if value.year in (MINYEAR, MAXYEAR):  # the driver's values for Postgres' infinity
            return "never" if value.year == MAXYEAR else "before all"
        return f"{value.astimezone(UTC).isoformat().replace('+00:00', 'Z')}"
    return str(value) if isinstance(value, str | UUID) else to_json(value).decode()
