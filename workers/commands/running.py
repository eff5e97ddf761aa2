"""How a command runs and ends: one event loop, one line for each known error, an exit code that can be trusted."""

import asyncio
import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Any, TypeVar

import asyncpg
import typer
from aiokafka.errors import KafkaConnectionError, KafkaError, NoBrokersAvailable
from pydantic import PostgresDsn
from rich.text import Text

from infra.kafka.clients import NotSetUpError, remedy
from infra.local.errors import LocalStackError
from infra.log import configure_logging
from infra.migrate import MigrationError
from infra.postgres import is_transient
from infra.settings import Settings, SettingsError, load_settings
from infra.terminal import error_console
from workers.errors import BreakerError, ChildError, LaneError, WorkerError
from workers.ledger.plans import CatalogueError
from workers.ops.books.snapshot import is_unmigrated
from workers.ops.books.statement import UnknownAccountError
from workers.ops.dead_letters.letters import NoSuchDeadLetterError
from workers.ops.operations import NoSuchOperationError, RefusedError
from workers.ops.topics.plan import TopicsError
from workers.ops.trace.trace import UnknownRequestError

__all__ = ["Exit", "fail", "run_command", "run_process"]

CommandResult = TypeVar("CommandResult")


class Exit(IntEnum):
    """The exit codes of every command, as `inmail --help` lists them."""

    DONE = 0
    NO = 1
    WRONG_USAGE = 2
    UNREACHABLE = 3
    UNDECIDABLE = 65  # sysexits' EX_DATAERR: whoever supervises a worker must not start it again by itself
    BROKEN = 70  # sysexits' EX_SOFTWARE: a supervisor may tell it from a refusal
    INTERRUPTED = 130


_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)


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
        code, text = _explain(error)
        if text is None:
            traceback.print_exc()
            text = "a broken invariant, or a mistake in this program: see above"
        raise fail(text, code) from error


def _explain(error: Exception) -> tuple[Exit, str | None]:
    """Return the exit code of an error and what to say; nothing to say means that it was not foreseen."""
    code, text = Exit.BROKEN, None
    match error:
        case (
            UnknownAccountError()
            | UnknownRequestError()
            | NoSuchDeadLetterError()
            | NoSuchOperationError()
            | RefusedError()
        ):
            code, text = Exit.NO, str(error)
        case SettingsError() | CatalogueError() | TopicsError():
            code, text = Exit.WRONG_USAGE, str(error)
        case asyncpg.ClientConfigurationError():
            code, text = Exit.WRONG_USAGE, f"INMAIL_DATABASE_URL: {error}"
        case asyncpg.UndefinedObjectError() if "configuration parameter" in str(error):
            # Postgres takes what stands behind the question mark, and the client does not know, for its settings.
            code, text = Exit.WRONG_USAGE, f"INMAIL_DATABASE_URL: {error}"
        case OSError() if error.filename is not None:
            code, text = Exit.WRONG_USAGE, f"{error.filename}: {error.strerror}"
        case NotSetUpError() | MigrationError() | LocalStackError():
            code, text = Exit.UNREACHABLE, str(error)
        case LaneError() | WorkerError() | ChildError():
            code, text = Exit.UNDECIDABLE if isinstance(error, BreakerError) else Exit.BROKEN, str(error)
        case KafkaError():
            code, text = Exit.UNREACHABLE, _explain_kafka(error)
        case _ if (text := _explain_postgres(error)) is not None:
            code = Exit.UNREACHABLE
    return code, text


def _explain_kafka(error: KafkaError) -> str:
    servers = load_settings().kafka_bootstrap_servers
    if isinstance(error, KafkaConnectionError | NoBrokersAvailable):
        return f"Kafka cannot be reached at {servers}: is it running, and is INMAIL_KAFKA_BOOTSTRAP_SERVERS right?"
    if (words := remedy(error)) is not None:
        return f"Kafka at {servers} refused ({error}): {words}"
    return f"Kafka at {servers} did not carry out the request: {error}"


def _explain_postgres(error: Exception) -> str | None:
    """Return what to say of a database that cannot be worked with; None of an error that is not of this kind."""
    if is_unmigrated(error):
        return f"the database schema does not match this version ({error}): run `inmail migrate`"
    if isinstance(error, asyncpg.DiskFullError):
        return f"Postgres at {_database()} has no room left on its disk: {error}"
    if isinstance(error, _REFUSED):
        return f"Postgres at {_database()} refused: {error}"
    if is_transient(error):
        return (
            f"Postgres cannot be reached at {_database()} ({error or type(error).__name__}): is it running, and is"
            " INMAIL_DATABASE_URL right?"
        )
    return None


def _database() -> str:
    """Return where the database is, without who connects to it and how."""
    hosts = PostgresDsn(load_settings().database_url.get_secret_value()).hosts()
    return ", ".join(f"{host['host'] or 'the local socket'}:{host['port'] or 5432}" for host in hosts)
