"""Runs commands and processes: one event loop, one line for each known error, and a reliable exit code."""

import asyncio
import gc
import logging
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

import typer
from pydantic_core import to_json
from rich.text import Text

from infra.log import configure_logging, quiet_late_errors
from infra.output import ReaderLeft, writes_json
from infra.settings import Settings, load_settings
from infra.terminal import error_console
from infra.waiting import WaitWatch, watched
from workers.error_table import Exit, explain
from workers.ops.books.server_locks import explaining_locks
from workers.ops.books.shards import ServerError
from workers.ops.operations import OngoingOperation
from workers.rights import CHANGING, CHECKED, RIGHTS, check_rights, explain_refusal

__all__ = [
    "DEFECT",
    "Exit",
    "end_published",
    "fail",
    "run_command",
    "run_process",
    "say_waiting",
    "tell_error",
    "tell_silent_servers",
]

CommandResult = TypeVar("CommandResult")

_CYCLES_SECONDS = 60.0

# The message for an error that the error table does not have. The traceback stands before it.
DEFECT: Final = "a broken invariant or a defect in this program: see the traceback above"


def run_command(
    question: Callable[[Settings], Coroutine[Any, Any, CommandResult]],
    *,
    following: bool = False,
    names_waits: bool = True,
    checks: bool = True,
) -> CommandResult:
    """Run an operator's command and return its result. Logs only warnings; an error ends the process.

    Args:
        question: returns the coroutine to run, given the settings.
        following: whether the command runs until Ctrl-C, which is a success then.
        names_waits: whether a server that does not answer is named on standard error after 5 s.
        checks: whether the rights on Kafka are checked first. A command that serves checks them once it does; what is
            not ours needs other rights than ours.

    """

    async def ask(settings: Settings) -> CommandResult:
        if not names_waits:
            return await _ask(question, settings, checks=checks)
        watch = WaitWatch(lambda text: _tell("waiting", text, None))
        with watched(watch):
            watching = asyncio.ensure_future(watch.run())
            try:
                return await _ask(question, settings, checks=checks)
            finally:
                watching.cancel()

    def run() -> CommandResult:
        settings = load_settings()
        configure_logging(settings.model_copy(update={"log_level": "WARNING"}))
        if not following:
            # The client logs each failed attempt; the command reports only the result.
            logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        return asyncio.run(ask(settings))

    return _run_to_exit(run, Exit.DONE if following else Exit.INTERRUPTED)


def say_waiting(words: str) -> None:
    """Say on standard error why Kafka is waited for, as `wait_for_server` calls it."""
    error_console().print(f"waiting for Kafka: {words}", soft_wrap=True)


async def _ask(
    question: Callable[[Settings], Coroutine[Any, Any, CommandResult]], settings: Settings, *, checks: bool = True
) -> CommandResult:
    """Return a command's result, its rights checked; where a lock kept it waiting, the error names the holder."""
    command = _command()
    if checks and command in CHECKED:
        await check_rights(settings, command)
    async with explaining_locks(settings):
        return await question(settings)


def run_process(worker: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """Run a worker on uvloop, with its logs, until it stops. An error ends the process."""
    import uvloop  # noqa: PLC0415 - not available on Windows, where only operators' commands run

    def run() -> None:
        settings = load_settings()
        configure_logging(settings)
        # A batch creates some ten thousand objects without cycles, all freed with the batch. At Python's default
        # thresholds the collector scans them repeatedly, which takes a seventh of a worker's time (`make bench`). At
        # these it would find the few cycles that there are after hours, and the process would grow until then.
        gc.freeze()
        gc.set_threshold(100_000, 20, 100)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            quiet_late_errors(runner.get_loop())
            runner.run(_run_tidily(worker(settings)))

    _run_to_exit(run, Exit.INTERRUPTED)


async def _run_tidily(worker: Coroutine[Any, Any, None]) -> None:
    """Run a worker, and free cycles beside it: some milliseconds each minute, as what was imported is not scanned."""
    tidying = asyncio.create_task(_free_cycles())
    try:
        await worker
    finally:
        tidying.cancel()


async def _free_cycles() -> None:
    while True:
        await asyncio.sleep(_CYCLES_SECONDS)
        gc.collect()


def _command() -> str:
    """Return which row of the tables of rights the command line is, as `dead-letters list`."""
    words = sys.argv[1:3]
    return both if (both := " ".join(words)) in RIGHTS or both in CHANGING else " ".join(words[:1])


def fail(text: str, exit_: Exit, code: str = "refused", hint: str | None = None) -> typer.Exit:
    """Print on standard error why the process ends, and return the exception to raise.

    Args:
        text: the sentence for people.
        exit_: the process's exit code.
        code: the error's name for programs, written with --json only.
        hint: what to do, written with --json only: the sentence says it too.

    """
    _tell(code, text, hint)
    return typer.Exit(exit_)


def tell_silent_servers(errors: Iterable[Exception]) -> Exit:
    """Print on standard error a line for each of several servers that was left out; return the worst exit code.

    An audit that only met another one weighs least: a server that is away, or a defect, is more to know.
    """
    return max(map(tell_error, errors), key=lambda code: (code is not Exit.TRY_LATER, code), default=Exit.DONE)


def end_published(done: OngoingOperation) -> None:
    """End with the exit code of a run that has published: stopped, servers left out, or records refused by Kafka."""
    failed = tell_silent_servers(done.failures)
    if done.stopped:
        raise typer.Exit(Exit.INTERRUPTED)
    if failed:
        raise typer.Exit(failed)
    if done.result["refused"]:
        raise typer.Exit(Exit.NO)


def tell_error(error: Exception) -> Exit:
    """Print on standard error the line of a known error and return the exit code for it; raise any other."""
    answer = explain(error, load_settings)
    if answer is None:
        raise error
    _tell(answer.code, answer.text, answer.hint)
    return answer.exit


def _tell(code: str, text: str, hint: str | None) -> None:
    """Write one line on standard error: with --json an object, else the sentence."""
    if writes_json():
        typer.echo(to_json({"code": code, "message": text, "hint": hint}), err=True)
    else:
        error_console().print(Text.assemble(("inmail: ", "bold red"), text), soft_wrap=True)


def _run_to_exit(run: Callable[[], CommandResult], interrupted: Exit) -> CommandResult:
    try:
        return run()
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None
    except ReaderLeft:
        raise typer.Exit(Exit.DONE) from None
    except typer.Exit:
        raise
    except Exception as error:
        server = error.settings if isinstance(error, ServerError) else None
        refused = asyncio.run(explain_refusal(error, load_settings if server is None else lambda: server, _command()))
        answer = explain(refused or error, load_settings)
        if answer is None or answer.unexpected:
            traceback.print_exc()
        if answer is None:
            raise fail(DEFECT, Exit.BROKEN, "defect") from error
        raise fail(answer.text, answer.exit, answer.code, answer.hint) from error
