"""How a command runs and ends: one event loop, one line for each known error, an exit code that can be trusted."""

import asyncio
import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import typer
from rich.text import Text

from infra.log import configure_logging
from infra.settings import Settings, load_settings
from infra.terminal import error_console
from workers.error_table import Exit, explain

__all__ = ["Exit", "fail", "run_command", "run_process"]

CommandResult = TypeVar("CommandResult")


def run_command(
    question: Callable[[Settings], Coroutine[Any, Any, CommandResult]], *, following: bool = False
) -> CommandResult:
    """Run an operator's command and return what it found. Logs warnings only; known errors end the process.

    Args:
        question: what to run, given the settings.
        following: it goes on until interrupted, which is then an orderly end.

    """

    def run() -> CommandResult:
        settings = load_settings()
        configure_logging(settings.model_copy(update={"log_level": "WARNING"}))
        if not following:
            # The client logs each failed attempt; the command says once what came of them.
            logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        try:
            return asyncio.run(question(settings))
        except BrokenPipeError:
            if _is_read():  # a connection broke
                raise
            # Whoever read the output has seen enough. What is still buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(Exit.DONE) from None

    return _end_well(run, Exit.DONE if following else Exit.INTERRUPTED)


def run_process(worker: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """Run a worker until it is told to stop: on uvloop, with its logs. Known errors end the process."""
    import uvloop  # noqa: PLC0415 - not on Windows, where no worker runs but the operator's commands do

    def run() -> None:
        settings = load_settings()
        configure_logging(settings)
        # A batch makes some ten thousand objects that all go with it, and in no circles: at Python's own thresholds the
        # collector looks through them again and again, for a seventh of a worker's time (`make bench`).
        gc.freeze()
        gc.set_threshold(100_000, 20, 100)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(worker(settings))

    _end_well(run, Exit.INTERRUPTED)


def fail(text: str, code: Exit) -> typer.Exit:
    """Say on standard error why the process ends, and return what to raise."""
    error_console().print(Text.assemble(("inmail: ", "bold red"), text), soft_wrap=True)
    return typer.Exit(code)


def _is_read() -> bool:
    """Tell whether somebody still reads the output: what could not be written before is still buffered."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    return True


def _end_well(run: Callable[[], CommandResult], interrupted: Exit) -> CommandResult:
    try:
        return run()
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None
    except typer.Exit:
        raise
    except Exception as error:
        answer = explain(error, load_settings)
        if answer is None or answer.unexpected:
            traceback.print_exc()
        if answer is None:
            raise fail("a broken invariant, or a mistake in this program: see above", Exit.BROKEN) from error
        raise fail(answer.text, answer.exit) from error
