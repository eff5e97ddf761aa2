"""Answers to errors: an HTTP status, a code for programs and a sentence for people. No answer contains a secret."""

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from infra.settings import Settings
from workers import error_table
from workers.console.access import TooManyAttemptsError, WrongTokenError
from workers.console.local_workers import ControlError
from workers.error_table import KNOWN_ERRORS
from workers.ops.topics.newest_records import NoSuchPartitionError
from workers.rights import explain_refusal

__all__ = ["KNOWN", "BadRequestError", "error_middleware", "explain"]


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


def error_middleware(settings: Settings) -> Middleware:
    """Return the middleware that answers with the error a handler raised. aiohttp logs any other, and answers 500."""

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
            return _answer(*explain(await explain_refusal(error, lambda: settings, needs) or error, settings))

    return answer_errors


def _answer(status: int, code: str, text: str) -> web.Response:
    return web.json_response({"error": {"code": code, "text": text}}, status=status)
