"""Four kinds of failure, never mixed: outcome, dead letter, retry, crash. Which of the last two an error is.

An outcome is a row and no error at all; a dead letter is made where a record is refused. What passes by itself is tried
again, jittered and bounded, while its batch is held. Everything else ends the process, which says what to do.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from aiokafka.errors import KafkaError

from infra.kafka.clients import remedy
from infra.postgres import is_transient

__all__ = [
    "SERVER_ERRORS",
    "LaneError",
    "StuckError",
    "WorkerError",
    "back_off_seconds",
    "error_of",
    "let_pass",
    "may_pass",
]

# What the clients of Kafka and Postgres raise. `may_pass` tells which of it does.
SERVER_ERRORS = (
    KafkaError,
    OSError,
    RuntimeError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

_LEAST_SECONDS, _MOST_SECONDS = 0.05, 5.0


class LaneError(Exception):
    """The lane cannot go on and trying again would not help. The message says what an operator can do."""


class WorkerError(Exception):
    """The worker could not end in order. The message says why and what it left."""


class StuckError(WorkerError):
    """The worker did not get on for longer than it may. The message says at what, and the last error."""


def may_pass(error: Exception) -> bool:
    """Tell whether an error of a server may pass by itself, so that trying again can help."""
    if isinstance(error, KafkaError):
        return remedy(error) is None
    if isinstance(error, RuntimeError):  # uvloop, of a write to a connection that has just been lost
        return "handler is closed" in str(error)
    return isinstance(error, SERVER_ERRORS) and is_transient(error)


@contextmanager
def let_pass() -> Iterator[None]:
    """Go on after an error of a server that may pass: of what is tried once, and done without."""
    try:
        yield
    except SERVER_ERRORS as error:
        if not may_pass(error):
            raise


def error_of(task: "asyncio.Future[Any]", *, stopped: bool) -> BaseException | None:
    """Return what a task ended of. One that a library cancelled, and nobody had stopped, would leave no trace."""
    try:
        return task.exception()
    except asyncio.CancelledError as cause:
        error = WorkerError(f"{task!r} was cancelled, and nobody had stopped it")
        error.__cause__ = cause
        return None if stopped else error


def back_off_seconds(failures: int) -> float:
    """Return how long to wait after so many failures in a row: longer each time up to a bound, and never in step."""
    seconds = min(_MOST_SECONDS, _LEAST_SECONDS * float(2 ** min(failures, 10)))
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
