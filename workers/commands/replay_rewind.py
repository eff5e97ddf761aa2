"""The command `replay rewind`: sets a worker's group back."""

from datetime import datetime
from typing import Annotated

import typer

from infra.settings import Settings
from infra.shutdown import create_stop_event
from infra.terminal import error_console
from workers.commands.options import (
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
    write_planned,
)
from workers.commands.request_ids import find_request
from workers.commands.running import Exit, fail, run_command
from workers.commands.views.replay import show_rewind_plan, show_rewind_result
from workers.ledger.model import WorkerName
from workers.ops.operations import OngoingOperation, Operator
from workers.ops.replay.rewind import rewind
from workers.ops.replay.rewind_plan import RewindOptions, RewindPlan, plan_rewind
from workers.ops.replay.rewind_target import RewindTarget, TargetKind

__all__ = ["rewind_command"]


_TimeOption = Annotated[
    datetime | None,
    instant_option(help="To the first record at or after this time.", since_1970=True),
]
_UndoOption = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_INT64, metavar="OPERATION", help="Forward to where the group was before this rewind."),
]


def rewind_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    worker: Annotated[WorkerName, typer.Argument(help="The worker whose group is set back.")],
    to_offset: Annotated[int | None, typer.Option(min=0, max=MAX_INT64, help="To this offset.")] = None,
    to_time: _TimeOption = None,
    to_request: Annotated[str | None, typer.Option(metavar="ID", help="To the record of this request.")] = None,
    undo: _UndoOption = None,
    partition: PartitionsOption = None,
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    publish_again: Annotated[
        bool, typer.Option("--publish-again", help="Allow the stored answers to be published again.")
    ] = False,
    drain: Annotated[bool, typer.Option("--drain", help="Wait until the group's workers have stopped.")] = False,
    drain_seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="Maximum wait for the workers, in seconds.")
    ] = 300,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Set a worker's group back, so that its worker reads records again.

    Nothing is decided twice: the worker publishes the stored outcomes again, with the same event ids, which
    --publish-again has to allow. Ctrl-C during the wait changes nothing.
    """
    target = _target(to_offset, to_time, to_request, undo, tuple(sorted(set(partition or ()))))
    options = RewindOptions(publish_again, drain)
    person = None if dry_run else require_operator(by, because)
    plan = run_command(lambda settings: plan_rewind(settings, worker, target, options))
    if not json:
        show_rewind_plan(plan)
    if plan.refusal is not None or person is None or not plan.moves:
        if json:
            write_planned(plan)
        if plan.refusal is not None:
            raise fail(f"refused: {plan.refusal}", Exit.NO)
        return
    confirm(f"Set {len(plan.moves)} partitions of the group?", yes=yes)
    done = _rewind(target, options, plan, person, drain_seconds)
    if json:
        write_planned(plan, done)
    else:
        show_rewind_result(done, worker)
    if done.stopped:
        raise typer.Exit(Exit.INTERRUPTED)


def _rewind(
    target: RewindTarget, options: RewindOptions, plan: RewindPlan, person: Operator, drain_seconds: float
) -> OngoingOperation:
    async def run(settings: Settings) -> OngoingOperation:
        return await rewind(
            settings,
            target,
            options,
            plan,
            who=person,
            stop=create_stop_event(),
            drain_seconds=drain_seconds,
            tell=error_console().print,
        )

    return run_command(run)


def _target(
    offset: int | None, time: datetime | None, request: str | None, undo: int | None, partitions: tuple[int, ...]
) -> RewindTarget:
    if [offset, time, request, undo].count(None) != 3:
        raise typer.BadParameter("give one of them", param_hint="--to-offset, --to-time, --to-request, --undo")
    id_ = find_request(request)
    kinds = {TargetKind.OFFSET: offset, TargetKind.TIME: time, TargetKind.REQUEST: id_, TargetKind.UNDO: undo}
    ((kind, value),) = ((kind, value) for kind, value in kinds.items() if value is not None)
    return RewindTarget(kind, value, partitions)
