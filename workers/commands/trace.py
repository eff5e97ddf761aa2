"""The command `trace`: follows a request from its record to its published answer."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

import typer

from infra.terminal import error_console, show_progress
from workers.commands.options import MAX_INT64, JsonOption, check_account_id, write_json
from workers.commands.running import Exit, fail, run_command, tell_silent_servers
from workers.commands.views.trace import show_trace
from workers.ops.trace.topic_search import no_progress
from workers.ops.trace.trace import LIMIT, about
from workers.ops.trace.trace import trace as trace_

__all__ = ["trace"]

_FEW_RECORDS = 20_000  # searched without a progress report


def trace(
    id_: Annotated[
        str | None,
        typer.Argument(metavar="[REQUEST_OR_EVENT_ID]", help="The id of a request, a result or a dead letter."),
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(callback=check_account_id, help="Only requests of this account; without an id, its last ones."),
    ] = None,
    last: Annotated[
        int, typer.Option(min=1, max=1000, help="Maximum number of an account's requests, newest first.")
    ] = 10,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_INT64, help="Maximum number of records to read from a partition.")
    ] = LIMIT,
    *,
    json: JsonOption = False,
) -> None:
    """Follow a request: its record, its decision, its journal rows, their events and the state of each.

    The ledger has most of a trace, also when retention has deleted the records. The id of an event is searched in the
    newest records of the topics, or with --account in the ledger at any age.
    """
    if id_ is None and account is None:
        raise typer.BadParameter("give the id of a request or event, or an account", param_hint="--account")
    found = run_command(lambda settings: trace_(settings, about(id_, account, last, limit), _report_progress))
    write_json(found.summary()) if json else show_trace(found)
    exit_ = tell_silent_servers(found.silent_servers)
    if found.silent is not None:
        text = f"the topics were not searched: {found.silent}"
        raise fail(text, Exit.UNREACHABLE, "kafka")
    if exit_:
        raise typer.Exit(exit_)


def _report_progress(total: int, what: str) -> AbstractContextManager[Callable[[int], None]]:
    err = error_console()
    return no_progress(total, what) if total < _FEW_RECORDS and not err.is_terminal else show_progress(total, what, err)
