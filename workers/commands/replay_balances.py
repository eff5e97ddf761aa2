"""The command `replay balances`: publishes balances to the topic of balances."""

from typing import Annotated

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
    check_account_id,
    confirm,
    require_operator,
    write_planned,
)
from workers.commands.running import end_published, run_command, tell_silent_servers
from workers.commands.views.server_parts import show_part_results, show_parts, show_resumed
from workers.commands.views.styles import GOOD, WARN, format_count
from workers.ops.operations import OngoingOperation, Operator
from workers.ops.replay.balances import BalancesPlan, plan_balances, publish_balances

__all__ = ["balances_command"]


def balances_command(  # noqa: PLR0913 - one parameter an option
    account: Annotated[
        str | None, typer.Option(callback=check_account_id, help="Only the balance of this account.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.01, max=50_000, help="Maximum rate, in records per second.")] = 2000,
    by: ActorOption = None,
    because: ReasonOption = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="The balances of all accounts.")] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Start with the first account, even if the same command was stopped before.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Publish balances as they are now to inmail.balances: for accounts without a change since it was switched on.

    Ctrl-C stops between two accounts; the same command continues there within a day, on the same topic. It may run
    beside the workers, and twice.
    """
    if everything == (account is not None):
        raise typer.BadParameter("give either --account or --all", param_hint="--all")
    person = None if dry_run else require_operator(by, because)
    plan = run_command(lambda settings: plan_balances(settings, account, rate, from_start=anew))
    if not json:
        _show_plan(plan)
    if person is None or not plan.accounts:
        if json:
            write_planned(plan)
        raise typer.Exit(tell_silent_servers(plan.silent))
    confirm(f"Publish {plan.accounts:,} balances?", yes=yes)
    _show_result(_publish(plan, person), plan, json=json)


def _publish(plan: BalancesPlan, person: Operator) -> OngoingOperation:
    with show_progress(plan.accounts, "balances", error_console()) as progress:

        async def run(settings: Settings) -> OngoingOperation:
            return await publish_balances(
                settings,
                plan,
                who=person,
                stop=create_stop_event(),
                progress=lambda done: progress(min(done, plan.accounts)),  # accounts may be opened meanwhile
            )

        return run_command(run)


def _show_plan(plan: BalancesPlan) -> None:
    show_resumed(plan.resumes, plan.sent_before, "balances")
    show_parts(plan.servers, "balances", lambda part: part.accounts)
    console().print(f"{format_count(plan.accounts, 'account')} to publish, at {plan.rate:,g} a second")


def _show_result(done: OngoingOperation, plan: BalancesPlan, *, json: bool) -> None:
    """Show the result, and exit with its code."""
    if json:
        write_planned(plan, done)
    else:
        out = console()
        out.print(
            Text(f"{format_count(done.result['sent'], 'balance')} published: operation {done.number}", style=GOOD)
        )
        show_part_results(done.result, "balance")
        if done.stopped:
            out.print(Text("stopped before the end: run the same command to continue", style=WARN))
    end_published(done)
