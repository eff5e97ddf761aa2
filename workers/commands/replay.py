"""The commands that read topics again."""

import typer

from workers.commands.replay_rerun import rebuild_command, shadow_command

__all__ = ["replay"]

replay = typer.Typer(help="Read topics again.", no_args_is_help=True)
replay.command("rebuild")(rebuild_command)
replay.command("shadow")(shadow_command)
