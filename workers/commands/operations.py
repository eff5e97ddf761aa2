"""The commands that list and show recorded operations: actor, reason and result."""

from typing import Annotated

import typer

from workers.commands.options import MAX_INT64, JsonOption, write_json
from workers.commands.running import run_command, tell_silent_servers
from workers.commands.views.dead_letters import show_operation, show_operations
from workers.ops.operations import find_operations, read_operation

__all__ = ["operations"]

operations = typer.Typer(no_args_is_help=True, add_completion=False)


@operations.command("list")
def list_command(
    last: Annotated[int, typer.Option(min=1, max=MAX_INT64, help="Maximum number of operations, newest first.")] = 50,
    *,
    json: JsonOption = False,
) -> None:
    """List operations, newest first."""
    found, silent = run_command(lambda settings: find_operations(settings, last))
    write_json(found) if json else show_operations(found)
    if exit_ := tell_silent_servers(silent):
        raise typer.Exit(exit_)


@operations.command("show")
def show_command(
    number: Annotated[
        int, typer.Argument(metavar="OPERATION", min=1, max=MAX_INT64, help="The operation's number in the list.")
    ],
    *,
    json: JsonOption = False,
) -> None:
    """Show one operation: its plan and its result."""
    found = run_command(lambda settings: read_operation(settings, number))
    write_json(found) if json else show_operation(found)
