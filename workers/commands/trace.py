"""The command that follows one request from its record to its published answer."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

import typer

from infra.terminal import error_console, progress_of
from workers.commands.options import JsonOption, write_json
from workers.commands.running import run_command
from workers.commands.views.trace import show_traced
from workers.ops.trace.topic_search import no_progress
from workers.ops.trace.trace import LIMIT, about
from workers.ops.trace.trace import trace as trace_

__all__ = ["trace"]

_SOON = 20_000  # records that are read before anybody asks how long it takes


def trace(
    id_: Annotated[
        str | None,
        typer.Argument(metavar="[REQUEST_OR_EVENT_ID]", help="Of a request, a result or a dead letter."),
    ] = None,
    account: Annotated[str | None, typer.Option(help="Only of this account; without an id, its last.")] = None,
    last: Annotated[int, typer.Option(min=1, max=1000, help="How many of an account, newest first.")] = 10,
    limit: Annotated[int, typer.Option(min=1, help="Records read of a partition at most.")] = LIMIT,
    *,
    json: JsonOption = False,
) -> None:
    """Follow a request: its record, what it was decided, the rows, their events, and where they stand.

    The ledger holds most of a trace, also when retention has deleted the records. Events are found by their id among
    the newest records of the topics, or with --account in the ledger, however old.
    """
    if id_ is None and account is None:
        raise typer.BadParameter("give the id of a request or event, or an account", param_hint="--account")
    found = run_command(lambda settings: trace_(settings, about(id_, account, last, limit), _watch))
    write_json(found.summary()) if json else show_traced(found)
    if found.silent is not None:
        error_console().print(f"The topics were not searched, because Kafka cannot be queried: {found.silent}")


def _watch(total: int, what: str) -> AbstractContextManager[Callable[[int], None]]:
    err = error_console()
    return no_progress(total, what) if total < _SOON and not err.is_terminal else progress_of(total, what, err)
