"""Errors as problem details (RFC 9457): each kind with its status, its title and what to do."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

import asyncpg
from aiohttp import web

from infra.lock_holder import LockHolder
from infra.postgres import POSTGRES_ERRORS, is_transient
from infra.settings import SettingsError
from workers.api.bodies import ProblemBody
from workers.ops.books.snapshot import is_unmigrated

__all__ = [
    "DATABASE_ERRORS",
    "MEDIA_TYPE",
    "ApiError",
    "ProblemKind",
    "database_problem",
    "part_of_books",
    "problem_response",
    "too_busy",
]

MEDIA_TYPE: Final = "application/problem+json"
_URN: Final = "urn:inmail:problem:"


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    title: str
    retry_after: int | None = None  # seconds


class ProblemKind(Enum):
    """The kinds of errors. A kind's name is the end of its URN."""

    BAD_PARAMETER = _Kind(400, "A parameter is wrong")
    UNAUTHORIZED = _Kind(401, "A bearer token is needed")
    WRONG_HOST = _Kind(421, "Not served under this name")
    NOT_FOUND = _Kind(404, "There is no such path")
    METHOD_NOT_ALLOWED = _Kind(405, "The API only reads")
    UNKNOWN_ACCOUNT = _Kind(404, "The ledger has no such account")
    UNKNOWN_REQUEST = _Kind(404, "No answer to this request is stored")
    AMBIGUOUS_REQUEST = _Kind(409, "Several requests have this id")
    INTERNAL = _Kind(500, "A fault of the API")
    NOT_YET = _Kind(503, "The sequence asked for has not come", retry_after=1)
    BUSY = _Kind(503, "Too many requests at once", retry_after=1)
    STOPPING = _Kind(503, "This process is being stopped", retry_after=1)
    DATABASE_AWAY = _Kind(503, "Postgres does not answer", retry_after=2)
    DATABASE_LOCKED = _Kind(503, "A lock in Postgres keeps reads waiting", retry_after=2)
    DATABASE_REFUSED = _Kind(503, "Postgres refused", retry_after=30)
    NOT_SET_UP = _Kind(503, "The database does not have this version's tables", retry_after=30)

    @property
    def urn(self) -> str:
        """The value of `type`."""
        return _URN + self.name.lower().replace("_", "-")


class ApiError(Exception):
    """A request that is answered with a problem. The message says what is wrong and what to do."""

    def __init__(self, kind: ProblemKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


# What reading the database may raise and a client can be told of. A lost connection of the pool is an InterfaceError;
# a session without the parameters that it was given, or a wrong role, a SettingsError.
DATABASE_ERRORS: Final = (*POSTGRES_ERRORS, SettingsError)


def database_problem(error: BaseException, holder: LockHolder | None) -> ApiError:
    """Return what to tell a client of one of `DATABASE_ERRORS`. The error itself is for the log: it names hosts.

    Args:
        error: the error.
        holder: who keeps reads waiting in Postgres, if somebody is known to.

    """
    if is_unmigrated(error):
        return ApiError(
            ProblemKind.NOT_SET_UP,
            "the database schema does not match this version: its operator runs `inmail migrate`",
        )
    in_vain = isinstance(error, asyncpg.QueryCanceledError | asyncpg.LockNotAvailableError | TimeoutError)
    if holder is not None and in_vain:
        return ApiError(
            ProblemKind.DATABASE_LOCKED,
            f"a session in Postgres holds a lock that reads wait for: {holder.session}. Ask again a little later; tell"
            " the API's operator, whose log and /readyz say whose session it is and how to end it",
        )
    if isinstance(error, asyncpg.QueryCanceledError | TimeoutError):
        return ApiError(
            ProblemKind.DATABASE_AWAY, "Postgres gave no answer in time: it is away, or busy. Ask again a little later"
        )
    if is_transient(error):
        return ApiError(
            ProblemKind.DATABASE_AWAY,
            "Postgres cannot be reached, starts, or has failed over. Ask again a little later",
        )
    return ApiError(
        ProblemKind.DATABASE_REFUSED, "Postgres refused the read: the log of `inmail api` says why, for its operator"
    )


def too_busy() -> ApiError:
    """Return what to tell a client where more requests wait than can be answered in time."""
    return ApiError(ProblemKind.BUSY, "too many requests wait for the database: ask again, or run more processes")


def part_of_books() -> ApiError:
    """Return what to tell a client where one server of several was named as if it were the only one."""
    return ApiError(
        ProblemKind.DATABASE_AWAY,
        "this API reads one of several servers that hold the books, as if there were no others: its operator sees at"
        " /readyz what to set",
    )


def problem_response(error: ApiError) -> web.Response:
    """Return the answer to a request that failed."""
    kind = error.kind.value
    body = ProblemBody(type=error.kind.urn, title=kind.title, status=kind.status, detail=str(error))
    headers = {} if kind.retry_after is None else {"Retry-After": str(kind.retry_after)}
    if error.kind is ProblemKind.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="inmail"'
    if error.kind is ProblemKind.METHOD_NOT_ALLOWED:
        headers["Allow"] = "GET, HEAD"
    return web.Response(
        body=body.model_dump_json().encode(), status=kind.status, content_type=MEDIA_TYPE, headers=headers
    )
