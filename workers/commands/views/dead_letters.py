"""Terminal output of dead letters, redrives and operations."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from pydantic_core import to_json
from rich.text import Text

from infra.terminal import console, create_table, format_instant, show_table
from workers.commands.views.styles import BAD, DIM, GOOD, WARN, format_count, how_to_continue
from workers.ops.dead_letters.history import LetterHistory
from workers.ops.dead_letters.letters import DeadLetter, LetterFilter, escape_unprintable, readable_text
from workers.ops.dead_letters.redrive_plan import ANSWERED, REDRIVEN, REFUSALS, REFUSED_AGAIN, RedrivePlan
from workers.ops.dead_letters.report import DeadLetterReport
from workers.ops.operations import OngoingOperation, Operation, OperationStatus

__all__ = [
    "format_account",
    "format_origin",
    "history_sentences",
    "show_dead_letter",
    "show_dead_letter_counts",
    "show_dead_letters",
    "show_operation",
    "show_operations",
    "show_redrive_plan",
    "show_redrive_result",
]


def show_dead_letters(report: DeadLetterReport) -> None:
    """Show a list of dead letters."""
    rows = [
        (
            each.place,
            Text(each.reason, style=BAD),
            format_account(each),
            format_origin(each),
            format_instant(each.origin_time),
            _outcome_text(history),
            escape_unprintable(each.error),
        )
        for each, history in report.letters
    ]
    if not rows:
        console().print(Text("No dead letters.", style=GOOD))
        return
    heads = ["dead letter", "reason", "account", "origin", "time", "outcome", "error"]
    show_table(heads, rows, flexible="outcome,error")
    if report.next is not None:
        console().print(f"The newest {len(rows):,}: list more with --last, or count all with --count")


def show_dead_letter_counts(rows: Sequence[tuple[str, str, int]]) -> None:
    """Show the number of dead letters by topic and reason."""
    if not rows:
        console().print(Text("No dead letters.", style=GOOD))
        return
    console().print(
        create_table(
            ["topic", "reason", "dead letters"],
            [(escape_unprintable(row[0]), row[1], f"{row[2]:,}") for row in rows],
            "dead letters",
        )
    )


def format_account(letter: DeadLetter) -> str:
    """Return the account of a dead letter: its message's key, or its subject, or both where they differ."""
    key, subject = letter.account_id, letter.subject and escape_unprintable(letter.subject)
    return f"{subject} (key {key})" if key and subject and key != subject else subject or key or ""


def format_origin(letter: DeadLetter) -> str:
    """Return the origin of a dead letter's message: topic, partition and offset."""
    return f"{escape_unprintable(letter.origin_topic)} {letter.origin_partition}/{letter.origin_offset}"


def _outcome_text(history: LetterHistory | None) -> Text:
    """Return the outcome of a dead letter in few words: empty where there is none yet, a question mark if unknown."""
    if history is None:
        return Text("?", style=DIM)
    if history.answer is not None:
        return Text(f"{'redriven' if history.redrives else 'answered'}: {history.answer.code}", style=GOOD)
    if history.new_letter is not None:
        return Text(f"again {history.new_letter}", style=BAD)
    if history.redrives:
        if history.is_unknown:
            return Text("redriven, then unknown", style=WARN)
        doubtful = history.redrives[-1].offset is None
        return Text("in doubt" if doubtful else "redriven, not decided yet", style=WARN)
    return Text("")


def show_dead_letter(letter: DeadLetter, history: LetterHistory | None) -> None:
    """Show one dead letter in full."""
    facts = [
        ("reason", letter.reason),
        ("error", escape_unprintable(letter.error)),
        ("origin", format_origin(letter)),
        ("time", format_instant(letter.origin_time)),
        ("written", format_instant(letter.set_aside_at)),
        ("account", format_account(letter) or "none"),
        ("type", readable_text((letter.event_type or "none").encode("utf-8", "backslashreplace"))),
        *(("outcome", each) for each in history_sentences(history)),
        ("key", "none" if letter.key is None else readable_text(letter.key)),
        *((f"header {escape_unprintable(k)}", "none" if v is None else readable_text(v)) for k, v in letter.headers),
    ]
    out = console()
    for name, fact in facts:
        out.print(Text.assemble((f"{name:<10} ", "bold"), fact), soft_wrap=True)
    cut = ", of which only the beginning is kept" if letter.cut else ""
    size = "" if letter.value is None else f" ({len(letter.value):,} bytes{cut})"
    out.print(Text(f"value{size}", style="bold"))
    out.print(Text("none" if letter.value is None else readable_text(letter.value)), soft_wrap=True)


def history_sentences(history: LetterHistory | None) -> list[str]:
    """Return the redrives and the outcome of a dead letter, a sentence each."""
    if history is None:
        return ["unknown"]
    lines = []
    for each in history.redrives:
        place = f"{each.topic} {each.partition}/{each.offset}"
        sent = f"sent to {place}" if each.offset is not None else f"possibly sent to {each.topic}: in doubt"
        lines.append(f"{sent} at {format_instant(each.at)} by {each.actor}, operation {each.operation}")
    if history.new_letter is not None:
        lines.append(f"dead-lettered again: {history.new_letter}")
    if history.answer is not None:
        line = "" if history.answer.sequence is None else f", line {history.answer.sequence} of its account"
        lines.append(f"answered {history.answer.code} as of {format_instant(history.answer.at)}{line}")
    elif history.is_unknown:
        lines.append("unknown: the search for what the redriven message became was cut short")
    elif history.redrives and history.new_letter is None:
        lines.append("not decided yet: see `inmail lag`")
    return lines or ["none yet"]


# What the command's options do about a message that is not sent.
_OPTIONS: Final = {
    REDRIVEN: "--again sends it once more",
    ANSWERED: "--again sends it once more",
    REFUSED_AGAIN: "--anyway sends it",
}


def _unsent_line(why: str, count: int) -> Text:
    text = REFUSALS.get(why, why)
    if why in _OPTIONS:
        text = f"{text} ({_OPTIONS[why]})"
    return Text.assemble((f"{format_count(count, 'message')} not sent: ", WARN), text)


_ERRORS = 3  # shown of those of which messages would become dead letters again


def show_redrive_plan(plan: RedrivePlan) -> None:
    """Show the plan of a redrive."""
    out = console()
    if plan.letters:
        rows = [(topic, reason, f"{count:,}") for (topic, reason), count in sorted(plan.letters.items())]
        out.print(create_table(["to topic", "reason", "messages"], rows, "messages"))
    for why, count in sorted(plan.refused.items()):
        out.print(_unsent_line(why, count), soft_wrap=True)
    for error, count in plan.errors.most_common(_ERRORS):
        out.print(f"  {count:,} of them: {error}", soft_wrap=True, markup=False)
    if (others := len(plan.errors) - _ERRORS) > 0:
        out.print(f"  {format_count(others, 'other error')}: --json has all")
    if plan.in_doubt:
        text = "possibly sent by an operation that broke off; will be sent again, and no credit moves twice"
        out.print(Text.assemble((f"{format_count(plan.in_doubt, 'message')} in doubt: ", WARN), text), soft_wrap=True)
    if plan.count:
        time = timedelta(seconds=round(plan.seconds))
        out.print(f"{format_count(plan.count, 'message')} to send, at {plan.rate:,g} a second: {time}")
    else:
        out.print("Nothing to send." if plan.refused else "Nothing to send: no dead letter matches.")


def show_redrive_result(done: OngoingOperation, selection: LetterFilter) -> None:
    """Show the result of a redrive."""
    out = console()
    out.print(Text(f"{format_count(done.result['sent'], 'message')} redriven: operation {done.number}", style=GOOD))
    for why, count in sorted(done.result["not_sent"].items()):
        out.print(_unsent_line(why, count), soft_wrap=True)
    if left := done.result["left"]:
        same = how_to_continue({"--after": selection.after, "--before": selection.before})
        hint = same if done.stopped else "removed by retention meanwhile"
        out.print(Text.assemble((f"{format_count(left, 'message')} left: ", WARN), hint), soft_wrap=True)
    out.print(f"To see their outcomes: inmail dead-letters list --operation {done.number}")


_STATUS_STYLES = {OperationStatus.DONE: GOOD, OperationStatus.RUNNING: WARN, OperationStatus.STOPPED: WARN}


def show_operations(operations: Sequence[Operation]) -> None:
    """Show a list of operations."""
    if not operations:
        console().print("No operations.")
        return
    rows = [
        (
            each.operation,
            each.verb,
            Text(each.status, style=_STATUS_STYLES.get(OperationStatus(each.status), BAD)),
            format_instant(each.started_at),
            each.actor,
            each.reason,
        )
        for each in operations
    ]
    show_table(["operation", "verb", "status", "started", "by", "reason"], rows, "operation", "reason")


def show_operation(operation: Operation) -> None:
    """Show one operation in full."""
    facts: list[tuple[str, Any]] = [
        ("verb", operation.verb),
        ("status", operation.status),
        ("by", operation.actor),
        ("reason", operation.reason),
        ("started", format_instant(operation.started_at)),
        ("updated", format_instant(operation.noted_at)),
        ("ended", format_instant(operation.ended_at) or "not yet"),
        ("arguments", to_json(operation.arguments).decode()),
        ("plan", to_json(operation.plan).decode()),
        ("result", to_json(operation.result).decode()),
    ]
    out = console()
    for name, fact in facts:
        out.print(Text.assemble((f"{name:<10} ", "bold"), fact), soft_wrap=True)
