"""Answers to errors: an HTTP status, a code for programs and a sentence for people. No answer contains a secret."""

from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import asyncpg
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiokafka.errors import KafkaError

from infra.kafka.permanent_errors import operator_hint
from infra.postgres import is_transient
from infra.settings import Settings
from workers import error_table
from workers.console.access import TooManyAttemptsError, WrongTokenError
from workers.console.local_workers import ControlError
from workers.console.query_limiter import QueryLimiter
from workers.error_table import KNOWN_ERRORS
from workers.ops.books.shards import ServerError
from workers.ops.topics.newest_records import NoSuchPartitionError
from workers.rights import explain_refusal

__all__ = ["KNOWN", "BadRequestError", "Refusals", "error_middleware", "explain", "is_silence"]

_REFUSAL_SECONDS: Final = 30.0
_MAX_REFUSALS: Final = 100
_MAX_KEY: Final = 500


class BadRequestError(Exception):
    """A parameter is missing or wrong. The message names it and what is expected."""


# The console's own errors, each with the status and the code of its answer. The error table has all others.
_OWN: Final[dict[type[Exception], tuple[int, str]]] = {
    BadRequestError: (400, "bad_request"),
    WrongTokenError: (401, "wrong_token"),
    TooManyAttemptsError: (429, "too_many_attempts"),
    ControlError: (409, "refused"),
    NoSuchPartitionError: (404, "not_found"),
}
KNOWN: Final = (*_OWN, *KNOWN_ERRORS)


def explain(error: BaseException, settings: Settings) -> tuple[int, str, str]:
    """Return the status, code and text of an error that is one of `KNOWN`; its text names the settings' addresses."""
    for kind, (status, code) in _OWN.items():
        if isinstance(error, kind):
            return status, code, str(error)
    answer = error_table.explain(error, lambda: settings)
    assert answer is not None  # noqa: S101 - each class of the table has a row without a condition
    return answer.status, answer.code, answer.text


def is_silence(error: BaseException) -> bool:
    """Return whether a server is out of reach or gives no answer. Otherwise it answers, and refuses.

    A lock that is in the way, a missing table or right, and want of room or of connections are refusals.
    """
    if isinstance(error, ServerError):
        return is_silence(error.error)
    if isinstance(error, KafkaError):
        return operator_hint(error) is None
    refuses = isinstance(error, (asyncpg.LockNotAvailableError, asyncpg.InsufficientResourcesError))
    return is_transient(error) and not refuses


@dataclass(slots=True)
class Refusals:
    """Which right is lacking, for a time: pages ask again every few seconds, and each question opens new clients."""

    limiter: QueryLimiter
    known: dict[tuple[str, str], tuple[float, BaseException | None]] = field(default_factory=dict)

    async def explain(self, error: BaseException, needs: str) -> BaseException | None:
        """Return what `explain_refusal` does; None where no slot becomes free in time."""
        key, now = (needs, repr(error)[:_MAX_KEY]), monotonic()
        self.known = {each: found for each, found in self.known.items() if now - found[0] < _REFUSAL_SECONDS}
        if key in self.known:
            return self.known[key][1]
        try:
            found = await self._ask(error, needs)
        except TimeoutError:
            return None
        if len(self.known) < _MAX_REFUSALS:
            self.known[key] = now, found
        return found

    async def _ask(self, error: BaseException, needs: str) -> BaseException | None:
        async with self.limiter.slot() as settings:
            return await explain_refusal(error, lambda: settings, needs)


def error_middleware(limiter: QueryLimiter) -> Middleware:
    """Return the middleware that answers with the error a handler raised. aiohttp logs any other, and answers 500."""
    settings, refusals = limiter.settings, Refusals(limiter)

    @web.middleware
    async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if not request.path.startswith("/api/"):
                raise
            return _answer(error.status, "not_found" if error.status == 404 else "bad_request", error.reason)
        except KNOWN as error:
            needs = "console" if request.method == "GET" else "console operator"
            return _answer(*explain(await refusals.explain(error, needs) or error, settings))

    return answer_errors


def _answer(status: int, code: str, text: str) -> web.Response:
    return web.json_response({"error": {"code": code, "text": text}}, status=status)
