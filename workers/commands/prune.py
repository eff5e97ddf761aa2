"""The command `prune`: deletes answers to ticks that nothing can ask for any more."""

import typer
from rich.text import Text

from infra.settings import Settings
from infra.shutdown import create_stop_event
from infra.terminal import console, error_console, show_progress
from workers.commands.options import (
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    confirm,
    require_operator,
    write_planned,
)
from workers.commands.running import Exit, run_command
from workers.commands.views.styles import GOOD, WARN, format_count
from workers.ops.operations import OngoingOperation, Operator
from workers.ops.prune import PrunePlan, plan_prune, prune

__all__ = ["prune_command"]


def prune_command(
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete answers to ticks that booked nothing and whose records retention has taken. All else is kept for good.

    It may run beside the workers. Ctrl-C stops between two steps; the same command goes on.
    """
    person = None if dry_run else require_operator(by, because)
    plan = run_command(plan_prune)
    if not json:
        console().print(f"{format_count(plan.ticks, 'answered tick')} of {plan.stored:,} to delete{_why_none(plan)}")
    if person is None or not plan.ticks:
        if json:
            write_planned(plan)
        return
    confirm(f"Delete {plan.ticks:,} answers to ticks?", yes=yes)
    done = _prune(plan, person)
    if json:
        write_planned(plan, done)
    else:
        deleted = format_count(done.result["deleted"], "answered tick")
        console().print(Text(f"{deleted} deleted: operation {done.number}", style=GOOD))
        if done.stopped:
            console().print(Text("stopped before the end: run the same command to continue", style=WARN))
    if done.stopped:
        raise typer.Exit(Exit.INTERRUPTED)


def _why_none(plan: PrunePlan) -> str:
    if plan.ticks or not plan.stored:
        return ""
    return ": retention has their records still, or they booked something, or each is the newest of its partition"


def _prune(plan: PrunePlan, person: Operator) -> OngoingOperation:
    with show_progress(plan.ticks, "ticks", error_console()) as progress:

        async def run(settings: Settings) -> OngoingOperation:
            return await prune(settings, plan, who=person, stop=create_stop_event(), progress=progress)

        return run_command(run)
