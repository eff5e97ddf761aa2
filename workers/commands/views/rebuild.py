"""How a rerun's plan and a comparison of books are shown to a person."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.text import Text

from infra.terminal import console, table
from workers.commands.views.styles import BAD, DIM, GOOD, WARN, count_of
from workers.ops.compare.comparison import Comparison, DifferenceExample
from workers.ops.compare.corrections import Corrections
from workers.ops.compare.html_report import value_text
from workers.ops.compare.out_of_order import DecidedAhead
from workers.ops.operations import OngoingOperation
from workers.ops.replay.rebuild_plan import RebuildPlan

__all__ = ["show_comparison", "show_corrections", "show_plan", "show_rerun"]

_EXAMPLES = 2  # the page and --json have more


def show_plan(plan: RebuildPlan, rate: float | None) -> None:
    """Show what would be read, and into what."""
    out = console()
    topics = list(dict.fromkeys(span.topic for span in plan.spans))
    rows = [
        (topic, f"{sum(span.end - span.start for span in plan.spans if span.topic == topic):,}") for topic in topics
    ]
    out.print(table(["read again", "records"], rows, "records"))
    if plan.lost:
        text = "retention has taken them, and the other books lack what they did"
        out.print(Text.assemble((f"{count_of(plan.lost, 'record')} lost: ", WARN), text), soft_wrap=True)
    how = "goes on in" if plan.begun else "into"
    out.print(
        f"{count_of(plan.records, 'record')} {how} {plan.database}, about"
        f" {timedelta(seconds=round(plan.seconds(rate)))}; nothing is published",
        soft_wrap=True,
    )


def show_rerun(done: OngoingOperation) -> None:
    """Show what a rerun read."""
    out = console()
    text = f"{count_of(done.result['read'], 'record')} decided again: operation {done.number}"
    out.print(Text(text, style=WARN if done.stopped else GOOD))
    for reason, count in sorted(done.result["dead_letters"].items()):
        out.print(Text.assemble((f"{count_of(count, 'dead letter')}: ", WARN), reason))
    if done.stopped:
        out.print("Stopped; the same command goes on.")


def show_comparison(comparison: Comparison) -> None:
    """Show what was compared and what differs, by cause, with the first examples."""
    out = console()
    rows = [(name, f"{before:,}", f"{after:,}") for name, (before, after) in comparison.lines.items()]
    out.print(table(["compared", "live", "other"], rows, "live,other"))
    if not comparison.whole:
        text = "Only what both have read is compared; states that a later record may have changed are not."
        out.print(Text(text, style=DIM), soft_wrap=True)
    if comparison.same:
        out.print(Text("The books are the same, line for line.", style=GOOD))
    for group in comparison.groups:
        out.print(Text.assemble((f"{group.count:,} {group.section}: ", BAD), group.label), soft_wrap=True)
        for example in group.examples[:_EXAMPLES]:
            out.print(Text(f"  {_told(example)}", style=DIM), soft_wrap=True)
    if comparison.ahead.outcomes:
        _show_ahead(comparison.ahead)
    if comparison.ahead.different:
        text = f"{count_of(comparison.unexplained, 'difference')} not of what was decided ahead."
        out.print(Text(text, style=BAD if comparison.unexplained else GOOD))


def show_corrections(corrections: Corrections, file: str) -> None:
    """Show what adjustments would do, and how to have them done."""
    out = console()
    told = corrections.summary()
    text = f" for {count_of(told['accounts'], 'account')}, {told['credits_to_give']:,} credits to give,"
    text += f" {told['credits_to_take']:,} to take: {file}"
    out.print(Text.assemble((count_of(told["adjustments"], "adjustment"), WARN), text), soft_wrap=True)
    for count, words in (
        (corrections.made_before, "made before"),
        (corrections.refused_before, "refused before: more than the account had, or it was erased"),
        (corrections.in_one_only, "left out: lots of one of the books only, which the missing beginning may explain"),
        (corrections.begin_later, "not yet: the lot begins later; the same command again, then"),
    ):
        if count:
            out.print(Text(f"  {count:,} {words}", style=DIM), soft_wrap=True)
    if corrections.events:
        out.print(f"Read it, then: inmail publish {file}", soft_wrap=True)


def _show_ahead(ahead: DecidedAhead) -> None:
    """Show what the live books decided ahead of another lane: what came out otherwise first."""
    out = console()
    text = f": {ahead.different:,} came out otherwise, {ahead.same:,} the same"
    out.print(Text.assemble((f"{count_of(ahead.different + ahead.same, 'outcome')} decided ahead", WARN), text))
    for is_same in (False, True):
        for each in [each for each in ahead.outcomes if (each.difference is None) == is_same][:_EXAMPLES]:
            told = f"{_values(each.place)}: {each.source}, ahead of {', '.join(each.ahead_of)}"
            out.print(Text(f"  {told}: {each.difference or 'the same'}", style=DIM), soft_wrap=True)


def _told(example: DifferenceExample) -> str:
    return f"{_values(example.place)}: {_values(example.before)} -> {_values(example.after)}"


def _values(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "none"
    return ", ".join(f"{name} {value_text(value)}" for name, value in values.items())
