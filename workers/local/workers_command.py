"""The commands that list, stop and start the workers, and one of several servers, of a running `inmail up`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from infra.settings import Settings
from infra.terminal import console, show_table
from workers.commands.options import JsonOption, write_json
from workers.commands.running import Exit, fail, run_command
from workers.commands.views.styles import BAD, GOOD, WARN
from workers.console.local_workers import ControlError, ProcessState, WorkerAction
from workers.local.control import DATA, LIST, ask_control

__all__ = ["workers"]

workers = typer.Typer(no_args_is_help=True, add_completion=False)

_Data = Annotated[Path, typer.Option("--data", help="The data directory of the running `inmail up`.")]
_Name = Annotated[str, typer.Argument(metavar="WORKER", help="A name that `inmail workers list` shows.")]
_LetThrough = Annotated[
    bool,
    typer.Option(
        "--let-through", help="Make dead letters of all that cannot be decided, as INMAIL_DEAD_LETTER_SHARE=1 does."
    ),
]

_STYLES = {ProcessState.RUNNING: GOOD, ProcessState.TRIPPED: BAD, ProcessState.BACKING_OFF: BAD}


@workers.command("list")
def list_command(data: _Data = DATA, *, json: JsonOption = False) -> None:
    """Show how each worker stands, what it ended of, and where its log is."""
    _show(_ask(data, LIST), json=json)


@workers.command("stop")
def stop_command(worker: _Name, data: _Data = DATA, *, json: JsonOption = False) -> None:
    """Pause a worker: it drains and stays stopped until `inmail workers start`, and its records wait in Kafka.

    One of several brokers hands its partitions over to the others first. Of several Postgres servers the others go on.
    """
    _show(_ask(data, WorkerAction.STOP, worker), json=json)


@workers.command("start")
def start_command(
    worker: _Name, data: _Data = DATA, *, let_through: _LetThrough = False, json: JsonOption = False
) -> None:
    """Start a worker that was stopped, that its circuit breaker ended, or that waits for its next start."""
    _show(_ask(data, WorkerAction.START, worker, let_through=let_through), json=json)


@workers.command("restart")
def restart_command(
    worker: _Name, data: _Data = DATA, *, let_through: _LetThrough = False, json: JsonOption = False
) -> None:
    """Drain a worker and start it again."""
    _show(_ask(data, WorkerAction.RESTART, worker, let_through=let_through), json=json)


def _ask(data: Path, do: str, name: str = "", *, let_through: bool = False) -> list[dict[str, Any]]:
    folder = data.resolve()

    async def run(_: Settings) -> list[dict[str, Any]]:
        try:
            return await ask_control(folder, do, name, let_through=let_through)
        except ControlError as error:
            raise fail(str(error), Exit.NO) from error

    return run_command(run)


def _show(found: list[dict[str, Any]], *, json: bool) -> None:
    if json:
        write_json(found)
        return
    several = any("server" in each for each in found)
    rows = [
        (
            each["name"],
            *((each.get("server", ""),) if several else ()),
            Text(each["state"], style=_STYLES.get(ProcessState(each["state"]), WARN)),
            each["text"],
        )
        for each in found
    ]
    out = console()
    show_table(["worker", *(["works with"] if several else []), "state", "why"], rows, flexible="why")
    for each in found:
        if each["do"]:
            out.print(f"To do for {each['name']}: {each['do']}", soft_wrap=True)
        if each["error"]:
            out.print(f"Log of {each['name']}: {each['log']}", soft_wrap=True)
