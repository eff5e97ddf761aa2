"""The command `replay reemit`: publishes stored events again."""

import re
from datetime import datetime
from typing import Annotated

import typer

from infra.settings import Settings
from infra.shutdown import create_stop_event
from infra.terminal import error_console, show_progress
from workers.commands.options import (
    MAX_INT32,
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    check_account_id,
    confirm,
    instant_option,
    require_operator,
    write_planned,
)
from workers.commands.request_ids import find_request
from workers.commands.running import end_published, run_command, tell_silent_servers
from workers.commands.views.replay import show_reemit_plan, show_reemit_result
from workers.ledger.model import WorkerName
from workers.ops.operations import OngoingOperation, Operator
from workers.ops.replay.reemit import reemit
from workers.ops.replay.reemit_plan import ReemitPlan, plan_reemit
from workers.ops.replay.reemit_rows import RowFilter

__all__ = ["reemit_command"]

_RequestFilter = Annotated[
    str | None, typer.Option(metavar="ID", help="Only the answer to this request and the movements it caused.")
]
_AfterFilter = Annotated[
    datetime | None,
    instant_option(help="Only events decided as of this time or later."),
]
_BeforeFilter = Annotated[
    datetime | None,
    instant_option(help="Only events decided as of an earlier time."),
]
_OffsetsFilter = Annotated[
    str | None, typer.Option(metavar="FIRST:END", help="Only events from these input offsets, without END.")
]


def reemit_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    account: Annotated[str | None, typer.Option(callback=check_account_id, help="Only events of this account.")] = None,
    request: _RequestFilter = None,
    after: _AfterFilter = None,
    before: _BeforeFilter = None,
    worker: Annotated[WorkerName | None, typer.Option(help="Only events decided by this worker.")] = None,
    partition: Annotated[
        int | None, typer.Option(min=0, max=MAX_INT32, help="Only events from this input partition.")
    ] = None,
    offsets: _OffsetsFilter = None,
    to: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="Publish to this topic instead of the events' own topics.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.01, max=50_000, help="Maximum rate, in events per second.")] = 500,
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All stored events.")] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Start with the first event, even if the same command was stopped before.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Publish stored answers and movements again: the same bytes and event ids, account by account in order.

    A consumer that ignores known event ids sees nothing new. Ctrl-C stops between two events; the same command
    continues there.
    """
    if offsets is not None and (worker is None or partition is None):
        raise typer.BadParameter("needs --worker and --partition", param_hint="--offsets")
    span = _span(offsets)
    selection = RowFilter(account, find_request(request), after, before, worker, partition, *span)
    if everything == bool(selection.summary()):
        raise typer.BadParameter("give either a filter or --all", param_hint="--all")
    person = None if dry_run else require_operator(by, because)
    plan = run_command(lambda settings: plan_reemit(settings, selection, to, rate, from_start=anew))
    if not json:
        show_reemit_plan(plan)
    if person is None or not plan.count:
        if json:
            write_planned(plan)
        raise typer.Exit(tell_silent_servers(plan.silent))
    confirm(f"Send {plan.count:,} events?", yes=yes)
    _show_result(_reemit(selection, plan, person), plan, selection, json=json)


def _show_result(done: OngoingOperation, plan: ReemitPlan, selection: RowFilter, *, json: bool) -> None:
    """Show the result, and exit with its code."""
    if json:
        write_planned(plan, done)
    else:
        show_reemit_result(done, plan, selection)
    end_published(done)


def _reemit(selection: RowFilter, plan: ReemitPlan, person: Operator) -> OngoingOperation:
    with show_progress(plan.count, "events", error_console()) as progress:

        async def run(settings: Settings) -> OngoingOperation:
            # Events that are booked meanwhile may be sent too, so the number may exceed the plan's.
            return await reemit(
                settings,
                selection,
                plan,
                who=person,
                stop=create_stop_event(),
                progress=lambda done: progress(min(done, plan.count)),
            )

        return run_command(run)


def _span(offsets: str | None) -> tuple[int | None, int | None]:
    if offsets is None:
        return None, None
    span = re.fullmatch(r"(\d{1,18}):(\d{1,18})", offsets, re.ASCII)
    if span is None or not int(span[1]) < int(span[2]):
        raise typer.BadParameter("expected FIRST:END, like 100:200", param_hint="--offsets")
    return int(span[1]), int(span[2])
