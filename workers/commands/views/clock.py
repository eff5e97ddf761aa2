"""How lanes' clocks, and what operators do about them, look on a terminal."""

from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from infra.terminal import console, table
from workers.commands.views.styles import BAD, GOOD, WARN, count_of
from workers.ops.clock.decide import ClockDecision, ClockPlan
from workers.ops.clock.set_back import SetBackPlan
from workers.ops.clock.state import LaneClock
from workers.ops.operations import OngoingOperation

__all__ = ["show_clock_plan", "show_clocks", "show_decided", "show_set_back", "show_set_back_plan"]


def show_clocks(clocks: Sequence[LaneClock]) -> None:
    """Show each lane's clock, and what it holds."""
    heads = ["worker", "partition", "decided as of", "holds offset", "of the time"]
    rows = [
        (
            each.worker,
            str(each.partition),
            _text(each.as_of),
            "" if each.held_offset is None else f"{each.held_offset:,}",
            Text(_text(each.held_time), style=BAD),
        )
        for each in clocks
    ]
    console().print(table(heads, rows, "partition,holds offset"))


def show_clock_plan(plan: ClockPlan) -> None:
    """Show what a decision would do."""
    out, lane = console(), plan.lane
    out.print(
        f"{lane.topic}/{lane.partition} holds offset {plan.first_offset:,} of {_text(lane.held_time)}; it has decided"
        f" as of {_text(lane.as_of)}",
        soft_wrap=True,
    )
    if plan.decision is ClockDecision.SET_ASIDE:
        records = "that record" if plan.next_offset == plan.first_offset + 1 else f"records before {plan.next_offset:,}"
        out.print(f"Becomes a dead letter and moves no clock: {records}, of a time after {_text(plan.time)}")
        return
    out.print(f"Let in: times up to {_text(plan.time)}. The clock goes there, and does not come back by itself.")
    if plan.ends.lots:
        text = f"{count_of(plan.ends.lots, 'lot')} with {plan.ends.credits:,} credits end by then"
        out.print(Text(text, style=WARN))


def show_decided(done: OngoingOperation) -> None:
    """Show that a decision is kept."""
    console().print(Text(f"decided: operation {done.number}; the lane goes on within seconds", style=GOOD))


def show_set_back_plan(plan: SetBackPlan) -> None:
    """Show what setting clocks back would do."""
    out = console()
    if not plan.lanes:
        out.print("Nothing to set: no lane's clock is far ahead.")
        return
    heads = ["worker", "partition", "from", "to", "lots that come back", "credits", "rows", "refused", "expired"]
    rows = [
        (
            each.lane.worker,
            str(each.lane.partition),
            _text(each.lane.as_of),
            _text(each.to),
            *(f"{number:,}" for number in each[2:]),
        )
        for each in plan.lanes
    ]
    out.print(table(heads, rows, "partition,lots that come back,credits,rows,refused,expired"))
    out.print(
        "What was decided meanwhile (rows) stays: sends that were refused for want of credits, and credits that were"
        " booked as expired. Give those back with inmail.credits.adjusted.v1.",
        soft_wrap=True,
    )


def show_set_back(done: OngoingOperation) -> None:
    """Show that clocks were set back."""
    text = (
        f"{count_of(done.result['lanes'], 'lane')} set back: operation {done.number}; their workers go on by themselves"
    )
    console().print(Text(text, style=GOOD))


def _text(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"
