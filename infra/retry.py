"""Which errors of Kafka and Postgres are retriable, how long to wait before a retry, and how to wait for a server."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic
from typing import TypeVar

import asyncpg
from aiokafka.errors import KafkaError

from infra.kafka.permanent_errors import operator_hint
from infra.postgres import POSTGRES_ERRORS, is_transient

__all__ = [
    "LOCK_ERRORS",
    "SERVER_ERRORS",
    "back_off_seconds",
    "describe_error",
    "is_retriable",
    "suppress_retriable",
    "wait_for_server",
]

_Client = TypeVar("_Client")

# The errors that the clients of Kafka and Postgres raise.
SERVER_ERRORS = (KafkaError, RuntimeError, *POSTGRES_ERRORS)

# Those of a statement that met rows, or a table, which somebody else keeps.
LOCK_ERRORS = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, asyncpg.DeadlockDetectedError)

_LEAST_SECONDS, _MOST_SECONDS = 0.05, 5.0
_SAY_SECONDS = 10.0


def is_retriable(error: Exception) -> bool:
    """Return whether an error of a server may pass by itself, so that a retry can succeed."""
    if isinstance(error, KafkaError):
        return operator_hint(error) is None
    if isinstance(error, RuntimeError):  # from uvloop, when it writes to a connection that was just lost
        return "handler is closed" in str(error)
    return isinstance(error, SERVER_ERRORS) and is_transient(error)


@contextmanager
def suppress_retriable() -> Iterator[None]:
    """Suppress retriable errors of servers in a block that is tried once; other errors propagate."""
    try:
        yield
    except SERVER_ERRORS as error:
        if not is_retriable(error):
            raise


def back_off_seconds(failures: int) -> float:
    """Return the seconds to wait after `failures` failures in a row: growing up to a bound, with jitter."""
    seconds = min(_MOST_SECONDS, _LEAST_SECONDS * float(2 ** min(failures, 10)))
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - jitter


async def wait_for_server(
    reach: Callable[[], Awaitable[_Client]], say: Callable[[str], None], note: Callable[[str], None] = lambda _: None
) -> _Client:
    """Connect to a server; try again where it is away, as a process does that runs already.

    Args:
        reach: connects, and cleans up after itself where it fails.
        say: called with why it failed, at most once in 10 s: for whoever reads a log.
        note: called so each time: for probes.

    Raises:
        KafkaError, OSError, PostgresError: what will not pass by itself.

    """
    failures, said_at = 0, -inf
    while True:
        try:
            return await reach()
        except SERVER_ERRORS as error:
            if not is_retriable(error):
                raise
            note(describe_error(error))
            if monotonic() - said_at >= _SAY_SECONDS:
                said_at = monotonic()
                say(describe_error(error))
        await asyncio.sleep(back_off_seconds(failures))
        failures += 1


def describe_error(error: BaseException) -> str:
    """Return which server did what, in words; the error as it is where it is not a server's."""
    text = str(error) if error.args else ""  # asyncpg's cannot be told without arguments
    match error:
        case KafkaError():
            words = type(error).__name__.removesuffix("Error")
            return f"Kafka: {text.removeprefix(type(error).__name__).lstrip(': ') or _spaced(words)}"
        case asyncpg.PostgresError():
            return f"Postgres: {text or _spaced(type(error).__name__.removesuffix('Error'))}"
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return f"Postgres: the connection was lost ({text or _spaced(type(error).__name__)})"
        case TimeoutError():
            return text or "a server did not answer in time"
        case OSError() | RuntimeError():
            return f"a connection to a server was lost ({text or _spaced(type(error).__name__)})"
    return text or repr(error)


def _spaced(name: str) -> str:
    """Return a class's name as words."""
    return "".join(f" {each.lower()}" if each.isupper() else each for each in name).strip()
