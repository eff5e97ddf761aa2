"""Terminal output of lanes' clocks and of operators' decisions about them."""

from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from infra.terminal import console, show_table
from workers.commands.views.styles import BAD, GOOD, WARN, format_count
from workers.ops.clock.decide import ClockDecision, ClockPlan
from workers.ops.clock.set_back import SetBackPlan
from workers.ops.clock.state import LaneClock
from workers.ops.operations import OngoingOperation

__all__ = ["show_clock_decision", "show_clock_plan", "show_clocks", "show_set_back_plan", "show_set_back_result"]


def show_clocks(clocks: Sequence[LaneClock]) -> None:
    """Show each lane's clock and the record that the lane holds."""
    heads = ["worker", "partition", "decided as of", "holds offset", "record time"]
    rows = [
        (
            each.worker,
            str(each.partition),
            _format_time(each.as_of),
            "" if each.held_offset is None else f"{each.held_offset:,}",
            Text(_format_time(each.held_time), style=BAD),
        )
        for each in clocks
    ]
    show_table(heads, rows, "partition,holds offset")


def show_clock_plan(plan: ClockPlan) -> None:
    """Show the effect of a decision about a held record."""
    out, lane = console(), plan.lane
    out.print(
        f"{lane.topic}/{lane.partition} holds offset {plan.first_offset:,} of {_format_time(lane.held_time)}; the lane"
        f" has decided as of {_format_time(lane.as_of)}",
        soft_wrap=True,
    )
    if plan.decision is ClockDecision.SET_ASIDE:
        records = (
            "the held record" if plan.next_offset == plan.first_offset + 1 else f"records before {plan.next_offset:,}"
        )
        out.print(f"Becomes a dead letter and moves no clock: {records}, with a time after {_format_time(plan.time)}")
        return
    out.print(
        f"Accepts times up to {_format_time(plan.time)}. The clock moves there, and does not come back by itself."
    )
    if plan.ends.lots:
        text = f"{format_count(plan.ends.lots, 'lot')} with {plan.ends.credits:,} credits expire by then"
        out.print(Text(text, style=WARN))


def show_clock_decision(done: OngoingOperation) -> None:
    """Show that a decision is recorded."""
    console().print(Text(f"decided: operation {done.number}; the lane continues within seconds", style=GOOD))


def show_set_back_plan(plan: SetBackPlan) -> None:
    """Show the effect of setting clocks back."""
    out = console()
    if not plan.lanes:
        out.print("Nothing to set back: no lane's clock is far ahead.")
        return
    heads = ["worker", "partition", "from", "to", "lots restored", "credits", "rows", "refused", "expired"]
    heads += ["not returned", "given later"]
    rows = [
        (
            each.lane.worker,
            str(each.lane.partition),
            _format_time(each.lane.as_of),
            _format_time(each.to),
            *(f"{number:,}" for number in each[2:]),
        )
        for each in plan.lanes
    ]
    if plan.server_of:
        heads.append("server")
        rows = [(*row, plan.server_of[each.lane.partition]) for row, each in zip(rows, plan.lanes, strict=True)]
    show_table(heads, rows, "partition,lots restored,credits,rows,refused,expired,not returned,given later")
    out.print(
        "The decisions made meanwhile (rows) stay, including sends refused for lack of credits, credits booked as"
        " expired and credits of failed sends that were not returned: return such credits with"
        " inmail.credits.adjusted.v1. Credits given later cannot be spent before the time far ahead: void their grants"
        " and give them again.",
        soft_wrap=True,
    )


def show_set_back_result(done: OngoingOperation) -> None:
    """Show that clocks were set back."""
    lanes = format_count(done.result["lanes"], "lane")
    text = f"{lanes} set back: operation {done.number}; the workers continue by themselves"
    console().print(Text(text, style=GOOD))


def _format_time(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"
