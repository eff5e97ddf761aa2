"""How a traced request looks on a terminal."""

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from infra.terminal import console, instant
from workers.commands.views.dead_letters import origin, story
from workers.commands.views.styles import BAD, DIM, GOOD, NEWS, WARN, TextPart, count_of
from workers.ops.books.reasons import reason_of
from workers.ops.dead_letters.history import LetterHistory
from workers.ops.dead_letters.letters import DeadLetter, escape_unprintable
from workers.ops.trace.found_records import FoundRecord
from workers.ops.trace.in_topics import FoundEvent, Trace
from workers.ops.trace.trace import TraceReport

__all__ = ["show_traced"]

Fact = tuple[str, list[TextPart]]

_RECORD: Final = {
    "gone": "retention took the record",
    "other": "something else is there: the topic was made anew since",
    "unknown": "the topic was not asked",
}
_RESULT: Final = {
    "gone": "retention took it, or it was not published yet: see `inmail lag`",
    "absent": "not in the topic: not published yet, see `inmail lag`",
    "beyond": "not among the records that were searched: more with --limit",
    "unknown": "the topic was not asked",
}


def show_traced(traced: TraceReport) -> None:
    """Show all that is known of a request, an event or an account's last requests."""
    out = console()
    facts = [_case(trace) for trace in traced.traces]
    facts += [_letter(letter, fate) for letter, fate in traced.letters]
    facts += [_waiting(seen) for seen in traced.waiting]
    for number, group in enumerate(facts):
        if number:
            out.print()
        for name, parts in group:
            out.print(Text.assemble((f"{name:<10} ", "bold"), *parts), soft_wrap=True)


def _case(trace: Trace) -> Iterator[Fact]:
    case = trace.case
    whose = f" of {case.account_id}" if case.account_id is not None else f", a tick in partition {case.partition}"
    yield "request", [(str(case.request_id), "bold"), whose]
    place = f"{case.topic} {case.partition}/{case.offset}"
    if trace.record is not None:
        yield "record", [f"{place} at {instant(trace.record.at)}"]
    else:
        yield "record", [f"{place}: ", (_RECORD[trace.state], WARN)]
    for seen in trace.repeats:
        yield "again", [f"{_place(seen)} at {instant(seen.at)}: it gets the first answer"]
    if not trace.searched:
        yield "again", [("perhaps behind the records that were searched: more with --limit", DIM)]
    yield "decided", [f"as of {instant(case.as_of)}"]
    if case.tick is not None:
        tick = case.tick
        told = "being booked" if tick.code == "booking" else tick.code
        lots = f"{count_of(tick.lots, 'lot')}, {count_of(tick.credits, 'credit')}, up to {instant(tick.horizon)}"
        yield "tick", [(told, GOOD), f": {lots}"]
    for (account_id, row), published in zip(case.rows, trace.published, strict=False):
        amount = f" {row.amount:+d}" if row.amount else ""
        lot = f" of lot {row.lot} until {instant(row.lot_expires_at)}" if row.lot is not None else ""
        style = BAD if reason_of(row).startswith("refused") else GOOD if row.is_answer else NEWS
        owner = "" if case.account_id is not None else f" of {account_id}"
        balance = f"  balance {row.balance_before} -> {row.balance_after}"
        yield f"line {row.sequence}", [(row.code, style), f"{amount}{lot}{balance}{owner}: {reason_of(row)}"]
        yield from _published(published)
    for published in trace.published[len(case.rows) :]:
        yield from _published(published)
    if case.more:
        yield "", [(f"... and more lines: these are the first {len(case.rows)}", DIM)]
    for each in case.lots:
        plan = f" of {each.plan}" if each.plan else ""
        left = f"{each.remaining} of {each.granted} left now"
        span = f"{instant(each.granted_at)} to {instant(each.expires_at)}"
        yield f"lot {each.lot}", [f"{each.origin}{plan}, {left}, {span}"]


def _published(published: FoundEvent) -> Iterator[Fact]:
    event = published.event
    yield "  event", [f"{event.id} ", (event.type, DIM)]
    for seen in published.found:
        yield "  result", [f"{_place(seen)} at {instant(seen.at)}", *([("  repeat", WARN)] if seen.repeat else [])]
    if published.state in _RESULT:
        style = DIM if published.state == "unknown" else WARN
        yield "  result", [f"{event.topic}: ", (_RESULT[published.state], style)]


def _letter(letter: DeadLetter, fate: LetterHistory) -> Iterator[Fact]:
    yield "letter", [(letter.place, "bold"), f", set aside at {instant(letter.set_aside_at)}"]
    yield "origin", [origin(letter)]
    yield "reason", [(letter.reason, BAD), f": {escape_unprintable(letter.error)}"]
    for told in story(fate):
        yield "became", [told]


def _waiting(seen: FoundRecord) -> Iterator[Fact]:
    yield "record", [f"{_place(seen)} at {instant(seen.at)}: ", ("not decided yet, see `inmail lag`", WARN)]


def _place(seen: FoundRecord) -> str:
    return f"{seen.topic} {seen.partition}/{seen.offset}"
