"""The commands of `replay`: each shows a plan first, is recorded, and moves no credit twice."""

import typer

from workers.commands.replay_balances import balances_command
from workers.commands.replay_rebuild import rebuild_command, shadow_command
from workers.commands.replay_reemit import reemit_command
from workers.commands.replay_rewind import rewind_command
from workers.commands.replay_skip import skip_command

__all__ = ["replay"]

replay = typer.Typer(no_args_is_help=True, add_completion=False)
replay.command("rewind")(rewind_command)
replay.command("skip")(skip_command)
replay.command("reemit")(reemit_command)
replay.command("balances")(balances_command)
replay.command("rebuild")(rebuild_command)
replay.command("shadow")(shadow_command)
