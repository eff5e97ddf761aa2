"""The commands that show the lanes' clocks, decide about records with future times, and set clocks back."""

from datetime import datetime
from typing import Annotated, Any

import typer

from workers.commands.options import (
    MAX_INT32,
    MAX_INT64,
    ActorOption,
    DryRunOption,
    JsonOption,
    PartitionsOption,
    ReasonOption,
    YesOption,
    confirm,
    instant_option,
    require_operator,
    write_json,
    write_planned,
)
from workers.commands.running import run_command
from workers.commands.views.clock import (
    show_clock_decision,
    show_clock_plan,
    show_clocks,
    show_set_back_plan,
    show_set_back_result,
)
from workers.ledger.model import WorkerName
from workers.ops.clock.decide import ClockDecision, ClockPlan, decide_clock, plan_clock
from workers.ops.clock.set_back import plan_set_back, set_back
from workers.ops.clock.state import read_clocks
from workers.ops.operations import Operator

__all__ = ["clock"]

clock = typer.Typer(no_args_is_help=True, add_completion=False)

_Worker = Annotated[WorkerName, typer.Argument(help="The worker whose lane holds the record.")]
_Partition = Annotated[int, typer.Argument(min=0, max=MAX_INT32, help="The lane's partition.")]


@clock.command("show")
def show_command(*, json: JsonOption = False) -> None:
    """Show the lanes' clocks, and the records that are held because their time is far ahead."""
    clocks = run_command(read_clocks)
    write_json([each.summary() for each in clocks]) if json else show_clocks(clocks)


@clock.command("accept")
def accept_command(  # noqa: PLR0913 - one parameter an option
    worker: _Worker,
    partition: _Partition,
    up_to: Annotated[
        datetime | None,
        instant_option(help="Accept all times up to this time, also of later records.", since_1970=True),
    ] = None,
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Accept the time of a held record: it is decided as of this time, and the lane's clock stays there."""
    person = None if dry_run else require_operator(by, because)
    plan = run_command(lambda settings: plan_clock(settings, worker, partition, ClockDecision.ACCEPT, up_to=up_to))
    _decide(plan, person, yes=yes, json=json)


@clock.command("set-aside")
def set_aside_command(  # noqa: PLR0913 - one parameter an option
    worker: _Worker,
    partition: _Partition,
    to_offset: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_INT64, help="All records before this offset that are far ahead, not only the held one."
        ),
    ] = None,
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Make a held record a dead letter, which moves no clock; `dead-letters redrive` sends it back to be decided."""
    person = None if dry_run else require_operator(by, because)
    plan = run_command(
        lambda settings: plan_clock(settings, worker, partition, ClockDecision.SET_ASIDE, to_offset=to_offset)
    )
    _decide(plan, person, yes=yes, json=json)


def _decide(plan: ClockPlan, person: Operator | None, *, yes: bool, json: bool) -> None:
    if not json:
        show_clock_plan(plan)
    if person is None:
        if json:
            write_planned(plan)
        return
    confirm("Record this decision?", yes=yes)
    done = run_command(lambda settings: decide_clock(settings, plan, person))
    if json:
        write_planned(plan, done)
    else:
        show_clock_decision(done)


@clock.command("set-back")
def set_back_command(  # noqa: PLR0913 - one parameter an option
    to: Annotated[
        datetime | None,
        instant_option(help="The time to set the clocks to; default: now.", since_1970=True),
    ] = None,
    worker: Annotated[list[WorkerName] | None, typer.Option(help="Only lanes of this worker; repeatable.")] = None,
    partition: PartitionsOption = None,
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Set back the clocks of lanes that are far ahead of now. Decisions made since then stay."""
    person = None if dry_run else require_operator(by, because)
    plan = run_command(lambda settings: plan_set_back(settings, to, worker or (), partition or ()))
    if not json:
        show_set_back_plan(plan)
    if person is None or not plan.lanes:
        if json:
            write_planned(plan)
        return
    confirm(f"Set back {len(plan.lanes)} lanes?", yes=yes)
    done = run_command(lambda settings: set_back(settings, plan, person))
    result: dict[str, Any] = {"operation": done.number, "plan": plan.summary(), "result": done.result}
    write_json(result) if json else show_set_back_result(done)
