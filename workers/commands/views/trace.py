"""Terminal output of a trace."""

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from infra.terminal import console, format_instant
from workers.commands.views.dead_letters import format_origin, history_sentences
from workers.commands.views.styles import BAD, DIM, GOOD, INFO, WARN, TextPart, format_count
from workers.ops.books.reasons import reason_of
from workers.ops.dead_letters.history import LetterHistory
from workers.ops.dead_letters.letters import DeadLetter, escape_unprintable
from workers.ops.trace.found_records import FoundRecord
from workers.ops.trace.in_topics import FoundEvent, Trace
from workers.ops.trace.trace import TraceReport

__all__ = ["show_trace"]

Fact = tuple[str, list[TextPart]]

_RECORD_STATES: Final = {
    "gone": "removed by retention",
    "other": "a different record is at this offset: the topic was recreated",
    "unknown": "the topic was not read",
}
_EVENT_STATES: Final = {
    "gone": "removed by retention, or not published yet: see `inmail lag`",
    "absent": "not in the topic: not published yet, see `inmail lag`",
    "beyond": "not among the records searched: search more with --limit",
    "unknown": "the topic was not read",
}


def show_trace(report: TraceReport) -> None:
    """Show the trace of a request, of an event, or of an account's last requests."""
    out = console()
    facts = [_trace_facts(trace) for trace in report.traces]
    facts += [_dead_letter_facts(letter, history) for letter, history in report.letters]
    facts += [_waiting_facts(seen) for seen in report.waiting]
    for number, group in enumerate(facts):
        if number:
            out.print()
        for name, parts in group:
            out.print(Text.assemble((f"{name:<11} ", "bold"), *parts), soft_wrap=True)


def _trace_facts(trace: Trace) -> Iterator[Fact]:
    case = trace.case
    whose = f" of {case.account_id}" if case.account_id is not None else f", a tick in partition {case.partition}"
    yield "request", [(str(case.request_id), "bold"), whose]
    place = f"{case.topic} {case.partition}/{case.offset}"
    if trace.record is not None:
        yield "record", [f"{place} at {format_instant(trace.record.at)}"]
    else:
        yield "record", [f"{place}: ", (_RECORD_STATES[trace.state], WARN)]
    for seen in trace.repeats:
        yield "repeat", [f"{_format_position(seen)} at {format_instant(seen.at)}: gets the first answer"]
    if not trace.searched:
        yield "repeat", [("possibly beyond the records searched: search more with --limit", DIM)]
    yield "decided", [f"as of {format_instant(case.as_of)}"]
    if case.tick is not None:
        tick = case.tick
        state = "being booked" if tick.code == "booking" else tick.code
        horizon = format_instant(tick.horizon)
        lots = f"{format_count(tick.lots, 'lot')}, {format_count(tick.credits, 'credit')}, up to {horizon}"
        yield "tick", [(state, GOOD), f": {lots}"]
    for (account_id, row), published in zip(case.rows, trace.published, strict=False):
        amount = f" {row.amount:+d}" if row.amount else ""
        lot = f" of lot {row.lot} until {format_instant(row.lot_expires_at)}" if row.lot is not None else ""
        style = BAD if reason_of(row).startswith("refused") else GOOD if row.is_answer else INFO
        owner = "" if case.account_id is not None else f" of {account_id}"
        balance = f"  balance {row.balance_before} -> {row.balance_after}"
        yield f"line {row.sequence}", [(row.code, style), f"{amount}{lot}{balance}{owner}: {reason_of(row)}"]
        yield from _event_facts(published)
    for published in trace.published[len(case.rows) :]:
        yield from _event_facts(published)
    if case.more:
        yield "", [(f"... and more lines: these are the first {len(case.rows)}", DIM)]
    for each in case.lots:
        plan = f" of {each.plan}" if each.plan else ""
        left = f"{each.remaining} of {each.granted} left now"
        span = f"{format_instant(each.granted_at)} to {format_instant(each.expires_at)}"
        yield f"lot {each.lot}", [f"{each.origin}{plan}, {left}, {span}"]


def _event_facts(published: FoundEvent) -> Iterator[Fact]:
    event = published.event
    yield "  event", [f"{event.id} ", (event.type, DIM)]
    for seen in published.found:
        yield (
            "  result",
            [f"{_format_position(seen)} at {format_instant(seen.at)}", *([("  repeat", WARN)] if seen.repeat else [])],
        )
    if published.state in _EVENT_STATES:
        style = DIM if published.state == "unknown" else WARN
        yield "  result", [f"{event.topic}: ", (_EVENT_STATES[published.state], style)]


def _dead_letter_facts(letter: DeadLetter, history: LetterHistory | None) -> Iterator[Fact]:
    yield "dead letter", [(letter.place, "bold"), f", written at {format_instant(letter.set_aside_at)}"]
    yield "origin", [format_origin(letter)]
    yield "reason", [(letter.reason, BAD), f": {escape_unprintable(letter.error)}"]
    for line in history_sentences(history):
        yield "outcome", [line]


def _waiting_facts(seen: FoundRecord) -> Iterator[Fact]:
    yield (
        "record",
        [f"{_format_position(seen)} at {format_instant(seen.at)}: ", ("not decided yet, see `inmail lag`", WARN)],
    )


def _format_position(seen: FoundRecord) -> str:
    return f"{seen.topic} {seen.partition}/{seen.offset}"
