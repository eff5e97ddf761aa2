"""The command line, asked whether it knows a line without running it."""

from typing import Any

import typer.main

from workers.cli import app

__all__ = ["parse"]


def parse(arguments: list[str]) -> None:
    """Raise what the command line would, at a command or an option that there is not."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        _, command, arguments = command.resolve_command(command.context_class(command), arguments)
    command.make_parser(command.context_class(command)).parse_args(arguments)
