"""Asks one question after the other, each for a bounded time, and says for what it waits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

import asyncpg
from aiokafka.errors import KafkaConnectionError, KafkaError, NoBrokersAvailable

from infra.kafka.clients import NotSetUpError
from infra.kafka.permanent_errors import operator_hint
from infra.migrate import MigrationError
from infra.postgres import POSTGRES_ERRORS, is_transient, login_hint
from infra.postgres_rights import MissingPrivilegesError
from infra.settings import SettingsError
from workers.ops.books.shards import ServerError, server_name
from workers.ops.books.snapshot import is_unmigrated
from workers.ops.doctor.model import CheckResult, Grade
from workers.ops.operations import RefusedError
from workers.ops.topics.plan import TopicsError

__all__ = ["ANSWER_SECONDS", "Questions"]

ANSWER_SECONDS: Final = 5.0  # of one question
_SILENT_SECONDS: Final = 1.0  # until it is said what is being waited for
_CLOSE_SECONDS: Final = 1.0  # what a server that did not answer may take to be left
_TOLD_BY_TEXT: Final = (
    SettingsError,
    NotSetUpError,
    TopicsError,
    RefusedError,
    MigrationError,
    MissingPrivilegesError,
)
_ERRORS: Final = (KafkaError, *POSTGRES_ERRORS, *_TOLD_BY_TEXT, ServerError)

Server = TypeVar("Server")
Question = Callable[[], Awaitable[Sequence[CheckResult]]]


class Questions:
    """The questions of one check-up, and what they found.

    Args:
        tell: is given each result as it is found.
        say: is told what is being waited for.

    """

    def __init__(self, tell: Callable[[CheckResult], None], say: Callable[[str], None]) -> None:
        self._tell = tell
        self._say = say
        self.server_name = ""  # which of several servers is asked: results name it
        self.results: list[CheckResult] = []

    def add(self, results: Sequence[CheckResult]) -> None:
        """Keep results, and tell them."""
        for each in results:
            result = replace(each, subject=f"{each.subject} of {self.server_name}") if self.server_name else each
            self.results.append(result)
            self._tell(result)

    async def ask(self, area: str, subject: str, question: Question) -> bool:
        """Ask a question, and keep what it finds, or why it has no answer; tell whether nothing is wrong."""
        found: Sequence[CheckResult]
        try:
            found = await self._bounded(area, subject, question())
        except TimeoutError:
            text = f"no answer within {ANSWER_SECONDS:.0f} s"
            found = [CheckResult(area, subject, Grade.WARNING, text, _BUSY)]
        except _ERRORS as error:
            found = [_explained(area, subject, error)]
        self.add(found)
        return all(each.grade is not Grade.WRONG for each in found)

    @asynccontextmanager
    async def server(self, area: str, place: str, opening: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - any client
        """Open a connection to a server, and close it afterwards; give None where that is not to be had.

        Args:
            area: the server's name.
            place: its address.
            opening: an asynchronous context manager that opens it.

        """
        opened = None
        subject = f"at {place}"
        try:
            opened = await self._bounded(area, subject, opening.__aenter__())
        except TimeoutError:
            text = f"it does not answer within {ANSWER_SECONDS:.0f} s"
            self.add([_unreachable(area, subject, text, _KAFKA if area == "Kafka" else _POSTGRES)])
        except _ERRORS as error:
            self.add([_explained(area, subject, error)])
        try:
            yield opened
        finally:
            if opened is not None:
                closing = asyncio.ensure_future(opening.__aexit__(None, None, None))
                await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
                with suppress(*_ERRORS, asyncio.InvalidStateError):
                    closing.exception()

    async def _bounded(self, area: str, subject: str, question: Awaitable[Server]) -> Server:
        """Return an answer.

        Raises:
            TimeoutError: when there is none in time. Nobody waits for the question to end then.

        """
        asking = asyncio.ensure_future(question)
        done, _ = await asyncio.wait([asking], timeout=_SILENT_SECONDS)
        if not done:
            self._say(f"waiting for {area}, {subject} (for at most {ANSWER_SECONDS:.0f} s)")
            done, _ = await asyncio.wait([asking], timeout=ANSWER_SECONDS - _SILENT_SECONDS)
        if not done:
            asking.cancel()
            await asyncio.wait([asking], timeout=_CLOSE_SECONDS)
            raise TimeoutError
        return asking.result()


_KAFKA: Final = "start Kafka, or mend INMAIL_KAFKA_BOOTSTRAP_SERVERS"
_POSTGRES: Final = "start Postgres, or mend INMAIL_DATABASE_URL"
_BUSY: Final = "look at the server's load and locks"


def _unreachable(area: str, subject: str, text: str, do: str) -> CheckResult:
    return CheckResult(area, subject, Grade.WRONG, text, do, unreachable=True)


def _explained(area: str, subject: str, error: Exception) -> CheckResult:
    """Return why a question has no answer."""
    text = str(error) or type(error).__name__
    if isinstance(error, KafkaError):
        if isinstance(error, KafkaConnectionError | NoBrokersAvailable):
            return _unreachable(area, subject, "it cannot be reached", _KAFKA)
        return CheckResult(area, subject, Grade.WRONG, f"it refuses: {text}", operator_hint(error) or "")
    if isinstance(error, ServerError):
        result = _explained(area, subject, error.error)
        return replace(result, text=f"Postgres at {server_name(error.settings)}: {result.text}")
    if isinstance(error, _TOLD_BY_TEXT):
        return CheckResult(area, subject, Grade.WRONG, text)
    if is_unmigrated(error):
        return CheckResult(
            area, subject, Grade.WRONG, f"tables of this version are missing ({text})", "`inmail migrate`"
        )
    return _explained_by_postgres(area, subject, error, text)


def _explained_by_postgres(area: str, subject: str, error: Exception, text: str) -> CheckResult:
    if isinstance(error, asyncpg.LockNotAvailableError | asyncpg.QueryCanceledError):  # it is there, and busy or locked
        return CheckResult(area, subject, Grade.WARNING, f"not looked at: {text}", _BUSY)
    if is_transient(error):
        return _unreachable(area, subject, f"it cannot be reached ({text})", _POSTGRES)
    return CheckResult(area, subject, Grade.WRONG, f"it refuses: {text}", login_hint(error) or "")
