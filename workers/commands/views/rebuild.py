"""Terminal output of rebuilds and of comparisons of two ledger databases."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.text import Text

from infra.terminal import console, create_table
from workers.commands.views.styles import BAD, DIM, GOOD, WARN, format_count, how_to_continue
from workers.ops.compare.comparison import Comparison, DifferenceExample
from workers.ops.compare.corrections import Corrections
from workers.ops.compare.html_report import value_text
from workers.ops.compare.out_of_order import DecidedAhead
from workers.ops.operations import OngoingOperation
from workers.ops.replay.rebuild_plan import RebuildPlan, RebuildRequest

__all__ = ["show_comparison", "show_corrections", "show_rebuild_plan", "show_rebuild_result"]

_MAX_EXAMPLES = 2  # the HTML report and --json have more


def show_rebuild_plan(plan: RebuildPlan, rate: float | None) -> None:
    """Show the plan of a rebuild: the records to read, and the database to write."""
    out = console()
    topics = list(dict.fromkeys(span.topic for span in plan.spans))
    rows = [
        (topic, f"{sum(span.end - span.start for span in plan.spans if span.topic == topic):,}") for topic in topics
    ]
    out.print(create_table(["topic", "records"], rows, "records"))
    if plan.lost:
        text = "removed by retention or with a topic, so the other database lacks their effects"
        out.print(Text.assemble((f"{format_count(plan.lost, 'record')} lost: ", WARN), text), soft_wrap=True)
    how = "continue in" if plan.begun else "into"
    out.print(
        f"{format_count(plan.records, 'record')} {how} {plan.database}, about"
        f" {timedelta(seconds=round(plan.seconds(rate)))}; nothing is published",
        soft_wrap=True,
    )


def show_rebuild_result(done: OngoingOperation, request: RebuildRequest) -> None:
    """Show the result of a rebuild."""
    out = console()
    text = f"{format_count(done.result['read'], 'record')} decided again: operation {done.number}"
    out.print(Text(text, style=WARN if done.stopped else GOOD))
    for reason, count in sorted(done.result["dead_letters"].items()):
        out.print(Text.assemble((f"{format_count(count, 'dead letter')}: ", WARN), reason))
    if done.stopped:
        times = {"--since": request.since, "--from": request.start, "--until": request.until}
        out.print(f"Stopped; {how_to_continue(times)}.", soft_wrap=True)


def show_comparison(comparison: Comparison) -> None:
    """Show the compared totals and the differences by cause, with the first examples."""
    out = console()
    rows = [(name, f"{before:,}", f"{after:,}") for name, (before, after) in comparison.lines.items()]
    out.print(create_table(["compared", "live", "other"], rows, "live,other"))
    if not comparison.whole:
        text = "Only records that both have read are compared, without states that a later record may have changed."
        out.print(Text(text, style=DIM), soft_wrap=True)
    if comparison.same:
        out.print(Text("The databases agree, line for line.", style=GOOD))
    for group in comparison.groups:
        out.print(Text.assemble((f"{group.count:,} {group.section}: ", BAD), group.label), soft_wrap=True)
        for example in group.examples[:_MAX_EXAMPLES]:
            out.print(Text(f"  {_format_example(example)}", style=DIM), soft_wrap=True)
    if comparison.ahead.outcomes:
        _show_decided_ahead(comparison.ahead)
    if comparison.ahead.different:
        text = f"{format_count(comparison.unexplained, 'difference')} not caused by records decided ahead."
        out.print(Text(text, style=BAD if comparison.unexplained else GOOD))


def show_corrections(corrections: Corrections, file: str) -> None:
    """Show the effect of the corrections, and the command that publishes them."""
    out = console()
    line = corrections.summary()
    text = f" for {format_count(line['accounts'], 'account')}, {line['credits_to_give']:,} credits to give,"
    text += f" {line['credits_to_take']:,} to take: {file}"
    out.print(Text.assemble((format_count(line["adjustments"], "adjustment"), WARN), text), soft_wrap=True)
    for count, words in (
        (corrections.made_before, "made before"),
        (corrections.refused_before, "refused before: more than the account had, or the account was erased"),
        (corrections.in_one_only, "left out: lots in one database only, which the missing beginning may explain"),
        (corrections.begin_later, "not yet: the lot begins later; run the same command again then"),
    ):
        if count:
            out.print(Text(f"  {count:,} {words}", style=DIM), soft_wrap=True)
    if corrections.events:
        out.print(f"Review the file, then: inmail publish {file}", soft_wrap=True)


def _show_decided_ahead(ahead: DecidedAhead) -> None:
    """Show the outcomes that lanes decided ahead of another lane, those that differ first."""
    out = console()
    text = f": {ahead.different:,} differ, {ahead.same:,} are the same"
    out.print(Text.assemble((f"{format_count(ahead.different + ahead.same, 'outcome')} decided ahead", WARN), text))
    for is_same in (False, True):
        for each in [each for each in ahead.outcomes if (each.difference is None) == is_same][:_MAX_EXAMPLES]:
            line = f"{_format_values(each.place)}: {each.source}, ahead of {', '.join(each.ahead_of)}"
            out.print(Text(f"  {line}: {each.difference or 'the same'}", style=DIM), soft_wrap=True)


def _format_example(example: DifferenceExample) -> str:
    return f"{_format_values(example.place)}: {_format_values(example.before)} -> {_format_values(example.after)}"


def _format_values(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "none"
    return ", ".join(f"{name} {value_text(value)}" for name, value in values.items())
