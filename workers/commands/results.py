"""The command `results`: reads the result topics, as a downstream service does."""

from contextlib import aclosing
from typing import Annotated

import typer

from infra.settings import Settings
from infra.terminal import console, error_console
from schemas.content_modes import parse_uuid
from workers.commands.options import check_account_id
from workers.commands.running import run_command
from workers.commands.views.results import show_result
from workers.ops.topics.results import ResultFilter, read_newest_results, read_results, sort_by_time

__all__ = ["results_command"]


def results_command(  # noqa: PLR0913 - one parameter an option
    *,
    account: Annotated[
        str | None, typer.Option(callback=check_account_id, help="Only results of this account.")
    ] = None,
    request: Annotated[
        str | None, typer.Option(help="Only the answer to this request and what it moved; a producer's own id will do.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow until Ctrl-C.")] = False,
    from_end: Annotated[bool, typer.Option("--from-end", help="Skip existing results; implies --follow.")] = False,
    letters: Annotated[bool, typer.Option("--dead-letters", help="Include dead letters.")] = False,
    ticks: Annotated[bool, typer.Option("--ticks", help="Include the answers to ticks that booked nothing.")] = False,
    last: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Only so many results, the newest, oldest first.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write each event unchanged, one per line.")] = False,
) -> None:
    """Show the workers' answers, as downstream services read them."""
    out = console()
    following = follow or from_end
    if following and last is not None:
        raise typer.BadParameter("has an end: leave out --follow and --from-end", param_hint="--last")
    selection = ResultFilter(account, request and (parse_uuid(request) or request), letters, ticks)

    async def run(settings: Settings) -> None:
        if last is not None:
            results = read_newest_results(settings, last, selection)
        else:
            results = read_results(settings, selection, follow=following, from_end=from_end)
        if last is None and not following and not json:
            results = sort_by_time(results)
        found = False
        async with aclosing(results) as ordered:
            async for result in ordered:
                found = True
                typer.echo(result.value) if json else show_result(result, out)
        if not found and not json:
            error_console().print("No results.")  # not among them: whoever counts lines counts results

    run_command(run, following=following)
