"""The commands that show what each Postgres server of the books holds, prepare a server, and move numbers."""

import asyncio
from typing import Annotated

import typer

from infra.settings import Settings
from infra.shutdown import create_stop_event
from infra.terminal import Reporter, error_console
from workers.commands.options import (
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    confirm,
    require_operator,
    write_json,
    write_planned,
)
from workers.commands.running import Exit, run_command
from workers.commands.views.shards import (
    MoveProgress,
    show_add_plan,
    show_add_result,
    show_move_plan,
    show_move_result,
    show_shards,
)
from workers.ops.operations import OngoingOperation, Operator
from workers.ops.shards.add import add_server, plan_add
from workers.ops.shards.move import MoveReport, move_numbers
from workers.ops.shards.move_plan import MovePlan, parse_numbers, plan_moves
from workers.ops.shards.overview import read_overview

__all__ = ["shards"]

shards = typer.Typer(no_args_is_help=True, add_completion=False)

_Numbers = Annotated[list[str], typer.Argument(metavar="NUMBERS", help="Partition numbers, like 3 or 6-11.")]


@shards.command("list")
def list_command(*, json: JsonOption = False) -> None:
    """Show which server holds which partition numbers, and the moves under way.

    Numbers that no server holds, or that two claim, come first: nobody works them, and the exit code is 1. It is 3 when
    a server does not answer.
    """
    found = run_command(read_overview)
    write_json(found.summary()) if json else show_shards(found)
    if not found.is_sound:
        raise typer.Exit(Exit.NO)
    if not found.is_complete:
        raise typer.Exit(Exit.UNREACHABLE)


@shards.command("add")
def add_command(  # noqa: PLR0913 - one parameter an option
    to: Annotated[str, typer.Option(metavar="URL", help="The server's database, which `inmail migrate` has made.")],
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Prepare an empty, migrated server, so that numbers can move to it. It holds none at first."""
    person = None if dry_run else require_operator(by, because)
    plan = run_command(lambda settings: plan_add(settings, to))
    if not json:
        show_add_plan(plan)
    if person is None:
        if json:
            write_planned(plan)
        return
    confirm("Prepare this server?", yes=yes)
    done = run_command(lambda settings: add_server(settings, plan, person))
    if json:
        write_planned(plan, done)
    else:
        show_add_result(done)


@shards.command("move")
def move_command(  # noqa: PLR0913 - one parameter an option
    numbers: _Numbers,
    to: Annotated[str, typer.Option(metavar="URL", help="The server to move to: its URL, or its ordinal.")],
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the rows on the server that a number leaves; they count no more.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Move partition numbers with all their accounts to another server, one after the other.

    The lanes of a number pause while its last rows are copied. Ctrl-C stops before that, or after the number; whatever
    ended a move, the same command goes on with it. To give up a move before its number has left, move the number to
    the server that it is on.
    """
    try:
        wanted = parse_numbers(numbers)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="NUMBERS") from None
    person = None if dry_run else require_operator(by, because)
    plan = run_command(lambda settings: plan_moves(settings, wanted, to))
    if not json:
        show_move_plan(plan, keep=keep)
    if person is None or not plan.moves:
        if json:
            write_planned(plan)
        return
    confirm(f"Move {len(plan.numbers)} of {len(wanted)} numbers?", yes=yes)
    done = _move(plan, person, keep=keep)
    if json:
        write_planned(plan, done)
    else:
        show_move_result(done, plan)
    if done.stopped:
        raise typer.Exit(Exit.INTERRUPTED)


def _move(plan: MovePlan, person: Operator, *, keep: bool) -> OngoingOperation:
    progress = MoveProgress(Reporter(error_console()))

    async def run(settings: Settings) -> OngoingOperation:
        stop: asyncio.Event = create_stop_event()
        report = MoveReport(progress.step, progress.rows, progress.purged)
        telling = asyncio.ensure_future(progress.tell_stop(stop))
        try:
            return await move_numbers(settings, plan, person, keep=keep, stop=stop, report=report)
        finally:
            telling.cancel()

    return run_command(run)
