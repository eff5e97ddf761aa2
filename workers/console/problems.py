"""What went wrong, as the page is told: a status, a code for programs, a sentence for people. Never a secret."""

from typing import Final

import asyncpg
from aiohttp import web
from aiohttp.typedefs import Handler
from aiokafka.errors import KafkaConnectionError, KafkaError, NoBrokersAvailable

from infra.kafka.clients import NotSetUpError, remedy
from infra.postgres import is_transient
from infra.settings import SettingsError
from workers.console.access import TooManyAttemptsError, WrongTokenError
from workers.console.local_workers import ControlError
from workers.ledger.plans import CatalogueError
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.snapshot import is_unmigrated
from workers.ops.dead_letters.letters import NoSuchDeadLetterError
from workers.ops.operations import NoSuchOperationError, RefusedError
from workers.ops.topics.plan import TopicsError
from workers.ops.trace.trace import UnknownRequestError

__all__ = ["KNOWN", "BadRequestError", "explain", "tell_problems"]


class BadRequestError(Exception):
    """A parameter is missing or wrong. The message names it and what is expected."""


# Most particular first; each with the status and the code of its answer.
_KINDS: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (BadRequestError, 400, "bad_request"),
    (WrongTokenError, 401, "wrong_token"),
    (TooManyAttemptsError, 429, "too_many_attempts"),
    (UnknownAccountError, 404, "unknown_account"),
    (UnknownRequestError, 404, "unknown_request"),
    (NoSuchDeadLetterError, 404, "no_such_letter"),
    (NoSuchOperationError, 404, "no_such_operation"),
    (RefusedError, 409, "refused"),
    (ControlError, 409, "refused"),
    (TopicsError, 409, "topics_differ"),
    (CatalogueError, 503, "plan_catalogue"),
    (NotSetUpError, 503, "not_set_up"),
    (SettingsError, 503, "settings"),  # of a session: a pooler between, or a default that changed meanwhile
    (KafkaError, 503, "kafka"),
    (asyncpg.PostgresError, 503, "postgres"),
    (asyncpg.InterfaceError, 503, "postgres"),
    (TimeoutError, 504, "no_answer"),
    (OSError, 503, "postgres"),  # aiokafka has errors of its own
)
KNOWN: Final = tuple(kind for kind, *_ in _KINDS)


def explain(error: BaseException) -> tuple[int, str, str]:
    """Return status, code and text of an error that is one of `KNOWN`."""
    status, code = next((status, code) for kind, status, code in _KINDS if isinstance(error, kind))
    text = str(error) or type(error).__name__
    if is_unmigrated(error):
        return 503, "not_set_up", "the database schema does not match this version: run `inmail migrate`"
    match code:
        case "kafka" if isinstance(error, KafkaConnectionError | NoBrokersAvailable):
            text = "Kafka cannot be reached: is it running, and is INMAIL_KAFKA_BOOTSTRAP_SERVERS right?"
        case "kafka" if isinstance(error, KafkaError):
            text = f"Kafka did not carry out the request: {remedy(error) or text}"
        case "no_answer":
            text = "no answer in time: Kafka or Postgres is slow or away, or there is a lot to read"
        case "postgres" if is_transient(error):
            text = f"Postgres cannot be reached or does not answer ({type(error).__name__}): is it running?"
        case "postgres":
            text = f"Postgres refused: {text}"
    return status, code, text


@web.middleware
async def tell_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with what went wrong. What nobody foresaw aiohttp logs, and answers with 500."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if not request.path.startswith("/api/"):
            raise
        return _answer(error.status, "not_found" if error.status == 404 else "bad_request", error.reason)
    except KNOWN as error:
        return _answer(*explain(error))


def _answer(status: int, code: str, text: str) -> web.Response:
    return web.json_response({"error": {"code": code, "text": text}}, status=status)
