"""How dead letters, plans to send them back, and operations look on a terminal."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic_core import to_json
from rich.text import Text

from infra.terminal import console, instant, table
from workers.commands.views.styles import BAD, DIM, GOOD, WARN, count_of
from workers.ops.dead_letters.history import DeadLetterReport, LetterHistory
from workers.ops.dead_letters.letters import DeadLetter, escape_unprintable, readable_text
from workers.ops.dead_letters.redrive_plan import REFUSALS, RedrivePlan
from workers.ops.operations import OngoingOperation, Operation, OperationStatus

__all__ = [
    "origin",
    "show_counts",
    "show_dead_letter",
    "show_dead_letters",
    "show_operation",
    "show_operations",
    "show_plan",
    "show_redriven",
    "story",
]


def show_dead_letters(told: DeadLetterReport) -> None:
    """Show a list of dead letters."""
    rows = [
        (
            each.place,
            Text(each.reason, style=BAD),
            origin(each),
            instant(each.origin_time),
            _became(fate),
            escape_unprintable(each.error),
        )
        for each, fate in told.letters
    ]
    if not rows:
        console().print(Text("No dead letters.", style=GOOD))
        return
    console().print(table(["letter", "reason", "origin", "time", "became", "error"], rows))
    if (found := told.counts.total()) > len(rows):
        console().print(f"{len(rows)} of {found:,}: see more with --last, or all by --count")


def show_counts(rows: Sequence[tuple[str, str, int]]) -> None:
    """Show how many dead letters there are, by topic and reason."""
    if not rows:
        console().print(Text("No dead letters.", style=GOOD))
        return
    console().print(
        table(
            ["topic", "reason", "letters"],
            [(escape_unprintable(row[0]), row[1], f"{row[2]:,}") for row in rows],
            "letters",
        )
    )


def origin(letter: DeadLetter) -> str:
    """Return where a letter's message was read, for a terminal."""
    return f"{escape_unprintable(letter.origin_topic)} {letter.origin_partition}/{letter.origin_offset}"


def _became(fate: LetterHistory | None) -> Text:
    """Return in few words what became of a letter: nothing is said where nothing is known."""
    if fate is None:
        return Text("?", style=DIM)
    if fate.answer is not None:
        return Text(f"{'redriven' if fate.redrives else 'answered'}: {fate.answer.code}", style=GOOD)
    if fate.new_letter is not None:
        return Text(f"again {fate.new_letter}", style=BAD)
    if fate.redrives:
        doubtful = fate.redrives[-1].offset is None
        return Text("in doubt" if doubtful else "redriven, not decided yet", style=WARN)
    return Text("")


def show_dead_letter(letter: DeadLetter, fate: LetterHistory | None) -> None:
    """Show all of one dead letter."""
    facts = [
        ("reason", letter.reason),
        ("error", escape_unprintable(letter.error)),
        ("origin", origin(letter)),
        ("time", instant(letter.origin_time)),
        ("set aside", instant(letter.set_aside_at)),
        ("account", letter.account_id or "none"),
        ("type", readable_text((letter.event_type or "none").encode("utf-8", "backslashreplace"))),
        *(("became", each) for each in story(fate)),
        ("key", "none" if letter.key is None else readable_text(letter.key)),
        *((f"header {escape_unprintable(k)}", "none" if v is None else readable_text(v)) for k, v in letter.headers),
    ]
    out = console()
    for name, fact in facts:
        out.print(Text.assemble((f"{name:<10} ", "bold"), fact), soft_wrap=True)
    cut = ", of which only the beginning was kept" if letter.cut else ""
    size = "" if letter.value is None else f" ({len(letter.value):,} bytes{cut})"
    out.print(Text(f"value{size}", style="bold"))
    out.print(Text("none" if letter.value is None else readable_text(letter.value)), soft_wrap=True)


def story(fate: LetterHistory | None) -> list[str]:
    """Return in sentences what became of a letter."""
    if fate is None:
        return ["not known"]
    told = []
    for each in fate.redrives:
        place = f"{each.topic} {each.partition}/{each.offset}"
        sent = f"sent to {place}" if each.offset is not None else f"about to be sent to {each.topic}, or sent: in doubt"
        told.append(f"{sent} at {instant(each.at)} by {each.actor}, operation {each.operation}")
    if fate.new_letter is not None:
        told.append(f"dead-lettered again: {fate.new_letter}")
    if fate.answer is not None:
        line = "" if fate.answer.sequence is None else f", line {fate.answer.sequence} of its account"
        told.append(f"answered {fate.answer.code} as of {instant(fate.answer.at)}{line}")
    elif fate.redrives and fate.new_letter is None:
        told.append("not decided yet: see `inmail lag`")
    return told or ["nothing yet"]


def show_plan(plan: RedrivePlan) -> None:
    """Show what a redrive would do."""
    out = console()
    if plan.letters:
        rows = [(topic, reason, f"{count:,}") for (topic, reason), count in sorted(plan.letters.items())]
        out.print(table(["to topic", "set aside for", "messages"], rows, "messages"))
    for why, count in sorted(plan.refused.items()):
        out.print(Text.assemble((f"{count_of(count, 'message')} not sent: ", WARN), REFUSALS[why]), soft_wrap=True)
    if plan.in_doubt:
        text = "sent by an operation that broke off, or not: sent again, which moves nothing twice"
        out.print(Text.assemble((f"{count_of(plan.in_doubt, 'message')} in doubt: ", WARN), text), soft_wrap=True)
    if plan.count:
        time = timedelta(seconds=round(plan.seconds))
        out.print(f"{count_of(plan.count, 'message')} to send, at {plan.rate:,g} a second: {time}")
    else:
        out.print("Nothing to send.")


def show_redriven(done: OngoingOperation, left: int) -> None:
    """Show what a redrive did."""
    out = console()
    out.print(Text(f"{count_of(done.result['sent'], 'message')} sent back: operation {done.number}", style=GOOD))
    for why, count in sorted(done.result["not_sent"].items()):
        text = f"{REFUSALS.get(why, why)}"
        out.print(Text.assemble((f"{count_of(count, 'message')} not sent: ", WARN), text), soft_wrap=True)
    if left:
        hint = "the same command goes on" if done.stopped else "retention took them meanwhile"
        out.print(Text.assemble((f"{count_of(left, 'message')} left: ", WARN), hint))
    out.print(f"What becomes of them: inmail dead-letters list --operation {done.number}")


_STYLES = {OperationStatus.DONE: GOOD, OperationStatus.RUNNING: WARN, OperationStatus.STOPPED: WARN}


def show_operations(operations: Sequence[Operation]) -> None:
    """Show a list of operations."""
    if not operations:
        console().print("No operations.")
        return
    rows = [
        (
            each.operation,
            each.verb,
            Text(each.status, style=_STYLES.get(OperationStatus(each.status), BAD)),
            instant(each.started_at),
            each.actor,
            each.reason,
        )
        for each in operations
    ]
    console().print(table(["operation", "verb", "status", "began", "by", "because"], rows, "operation"))


def show_operation(operation: Operation) -> None:
    """Show all of one operation."""
    facts: list[tuple[str, Any]] = [
        ("verb", operation.verb),
        ("status", operation.status),
        ("by", operation.actor),
        ("because", operation.reason),
        ("began", instant(operation.started_at)),
        ("noted", instant(operation.noted_at)),
        ("ended", instant(operation.ended_at) or "not yet"),
        ("arguments", to_json(operation.arguments).decode()),
        ("plan", to_json(operation.plan).decode()),
        ("result", to_json(operation.result).decode()),
    ]
    out = console()
    for name, fact in facts:
        out.print(Text.assemble((f"{name:<10} ", "bold"), fact), soft_wrap=True)
