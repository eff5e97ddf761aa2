"""The command `replay skip`: lets lanes go on without records that are lost to them."""

from typing import Annotated

import typer

from workers.commands.options import (
    MAX_INT64,
    ActorOption,
    DryRunOption,
    JsonOption,
    PartitionsOption,
    ReasonOption,
    YesOption,
    confirm,
    require_operator,
    write_planned,
)
from workers.commands.running import run_command
from workers.commands.views.replay import show_skip_plan, show_skip_result
from workers.commands.views.styles import format_count
from workers.ledger.model import WorkerName
from workers.ops.replay.skip import plan_skip, skip

__all__ = ["skip_command"]


def skip_command(  # noqa: PLR0913 - one parameter an option
    worker: Annotated[WorkerName, typer.Argument(help="The worker whose lanes go on.")],
    to_offset: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_INT64, help="Go on from this offset; default: the oldest record that is left."),
    ] = None,
    partition: PartitionsOption = None,
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Let a worker's lanes go on without records that are lost to the ledger's database, and accept that loss.

    For lanes that refuse to go on: retention removed records before they were decided, or the database was restored
    from a backup of before them. Without --to-offset only records that are no longer in Kafka are skipped. It cannot be
    undone.
    """
    if to_offset is not None and not partition:
        raise typer.BadParameter(
            "give --partition as well: offsets are those of one partition", param_hint="--to-offset"
        )
    person = None if dry_run else require_operator(by, because)
    plan = run_command(lambda settings: plan_skip(settings, worker, to_offset, tuple(sorted(set(partition or ())))))
    if not json:
        show_skip_plan(plan)
    if person is None or not plan.lanes:
        if json:
            write_planned(plan)
        return
    confirm(f"Skip these records in {format_count(len(plan.lanes), 'lane')}?", yes=yes)
    done = run_command(lambda settings: skip(settings, plan, person))
    if json:
        write_planned(plan, done)
    else:
        show_skip_result(done)
