"""What the read API answers: a table of operations, from which its routes and its OpenAPI document are made."""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from urllib.parse import quote, urlencode

import orjson
from aiohttp import web
from aiohttp.helpers import ETag
from pydantic import BaseModel

from workers.api.bodies import BalanceBody, HealthBody, LineBody, OutcomeBody, StatementBody
from workers.api.parameters import (
    ACCOUNT_ID,
    AFTER,
    BEFORE,
    LIMIT,
    REQUEST_ID,
    SOURCE,
    WAIT_FOR,
    Parameter,
    account_id,
    request_id,
    whole_number,
)
from workers.api.problems import ApiError, ProblemKind, part_of_books
from workers.api.reader import LedgerReader
from workers.ops.books.current_balance import BalanceQuestion, BalanceVersion, CurrentBalance

__all__ = ["HEALTH_PATH", "OPERATIONS", "ApiOperation", "body_version"]

HEALTH_PATH: Final = "/v1/health"

_PRIVATE: Final = {"Cache-Control": "private, no-cache"}
_JSON: Final = {**_PRIVATE, "Content-Type": "application/json; charset=utf-8"}
_AS_PYDANTIC: Final = orjson.OPT_UTC_Z


def body_version(body: type[BaseModel]) -> str:
    """Return what tells the forms of a body apart: it is another where a version adds a member, and part of each tag.

    Otherwise the new member would be hidden from whoever has the answer of the version before, until a row comes.
    """
    return sha256(json.dumps(body.model_json_schema(mode="serialization")).encode()).hexdigest()[:8]


_BALANCE, _STATEMENT, _OUTCOME = (body_version(body) for body in (BalanceBody, StatementBody, OutcomeBody))
_VERSION: Final = re.compile(rf"{_BALANCE}\.([0-9]{{1,18}})\.([0-9]{{1,18}})")  # of a balance, in its tag

_ApiHandler = Callable[[LedgerReader, web.Request], Awaitable[web.Response]]
_READ: Final = (ProblemKind.BAD_PARAMETER, ProblemKind.UNAUTHORIZED, ProblemKind.UNKNOWN_ACCOUNT, ProblemKind.NOT_YET)


@dataclass(frozen=True, slots=True)
class ApiOperation:
    """One operation: its path, its answer, and which problems it may answer with beside those of the database."""

    name: str  # OpenAPI's operationId, and a label of metrics
    path: str
    summary: str
    handler: _ApiHandler
    body: type[BaseModel]
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[ProblemKind, ...] = ()
    has_etag: bool = True


async def _balance(reader: LedgerReader, request: web.Request) -> web.Response:
    question = BalanceQuestion(account_id(request), _known_version(request))
    found = await reader.balance(question, whole_number(request, WAIT_FOR) or 0)
    # Time alone changes a balance too: of one sequence, the next instant at which it does tells the states apart.
    if isinstance(found, BalanceVersion):
        return _unchanged(f"{_BALANCE}.{found.sequence}.{found.until}")
    version = found.version
    return _answer(request, found, f"{_BALANCE}.{version.sequence}.{version.until}")


def _known_version(request: web.Request) -> BalanceVersion | None:
    """Return the version of the client's own copy, where its tag names one."""
    tags = request.if_none_match or ()
    version = _VERSION.fullmatch(tags[0].value) if len(tags) == 1 and isinstance(tags[0], ETag) else None
    return version and BalanceVersion(int(version[1]), int(version[2]))


async def _statement(reader: LedgerReader, request: web.Request) -> web.Response:
    account, limit = account_id(request), whole_number(request, LIMIT) or 0
    after, before = whole_number(request, AFTER), whole_number(request, BEFORE)
    if after is not None and before is not None:
        raise ApiError(ProblemKind.BAD_PARAMETER, "after, before: only one of them can be given")
    page = await reader.statement(account, limit, after, before, whole_number(request, WAIT_FOR) or 0)
    lines = [LineBody.model_validate(line) for line in page.lines]
    more = len(lines) == limit and (lines[-1].sequence > 1 if after is None else lines[-1].sequence < page.sequence)
    place = {"before" if after is None else "after": lines[-1].sequence if lines else 0}
    # Another replica may be further behind: its newest line would look like the one that follows.
    query = {**place, "limit": limit, "wait_for": page.sequence}
    path = f"/v1/accounts/{quote(account, safe='')}/statement?{urlencode(query)}"
    body = StatementBody(account_id=account, sequence=page.sequence, lines=lines, next=path if more else None)
    return _answer(request, body, f"{_STATEMENT}.{max(page.sequence, *(line.sequence for line in lines), 0)}")


async def _outcome(reader: LedgerReader, request: web.Request) -> web.Response:
    account, request_ = account_id(request), request_id(request)
    found = await reader.answers(account, request_, whole_number(request, WAIT_FOR) or 0)
    body = OutcomeBody(
        account_id=account,
        request_id=found.answer.request_id,
        original_id=found.original_id,
        final=found.answer.code != "balance_not_current",
        answer=LineBody.model_validate(found.answer),
        conflicts=[LineBody.model_validate(line) for line in found.conflicts],
    )
    # Not how many conflicts: of many, only the newest are told.
    newest = found.conflicts[-1].sequence if found.conflicts else 0
    return _answer(request, body, f"{_OUTCOME}.{found.answer.sequence}.{newest}")


async def _health(reader: LedgerReader, request: web.Request) -> web.Response:
    if reader.stopping:
        raise ApiError(ProblemKind.STOPPING, "this process is being stopped: ask another one")
    if not reader.ready and reader.holder is not None:  # anybody may ask: not even which session it is
        raise ApiError(
            ProblemKind.DATABASE_LOCKED,
            "a lock in Postgres keeps reads waiting: see the log of `inmail api`",
        )
    if any(server.part is not None for server in reader.servers):
        raise part_of_books()
    if not reader.ready:
        raise ApiError(ProblemKind.DATABASE_AWAY, "the last check of the database failed: see the log of `inmail api`")
    return _answer(request, HealthBody(ready=True), None)


def _answer(request: web.Request, body: BaseModel | CurrentBalance, tag: str | None) -> web.Response:
    """Return a body, or 304 where the client has its equal.

    The tag is weak: `as_of` is the moment of the answer, and the same balance a moment later is the same to a client.
    """
    known = request.if_none_match or ()
    if tag is not None and any(each.value in {tag, "*"} for each in known if isinstance(each, ETag)):
        return _unchanged(tag)
    # A balance has the members of `BalanceBody`; orjson writes them in a fraction of the time.
    written = (
        body.model_dump_json().encode() if isinstance(body, BaseModel) else orjson.dumps(body, option=_AS_PYDANTIC)
    )
    return web.Response(body=written, headers=_JSON if tag is None else {**_JSON, "ETag": f'W/"{tag}"'})


def _unchanged(tag: str) -> web.Response:
    return web.Response(status=304, headers={**_PRIVATE, "ETag": f'W/"{tag}"'})


OPERATIONS: Final = (
    ApiOperation(
        "balance",
        "/v1/accounts/{account_id}/balance",
        "What an account can spend now, by lot, and when it gets more.",
        _balance,
        BalanceBody,
        (ACCOUNT_ID, WAIT_FOR),
        _READ,
    ),
    ApiOperation(
        "statement",
        "/v1/accounts/{account_id}/statement",
        "What moved an account's credits, and what was refused, a page at a time.",
        _statement,
        StatementBody,
        (ACCOUNT_ID, AFTER, BEFORE, LIMIT, WAIT_FOR),
        _READ,
    ),
    ApiOperation(
        "outcome",
        "/v1/accounts/{account_id}/requests/{request_id}",
        "The stored answer to a request.",
        _outcome,
        OutcomeBody,
        (ACCOUNT_ID, REQUEST_ID, SOURCE, WAIT_FOR),
        (
            ProblemKind.BAD_PARAMETER,
            ProblemKind.UNAUTHORIZED,
            ProblemKind.UNKNOWN_REQUEST,
            ProblemKind.AMBIGUOUS_REQUEST,
            ProblemKind.NOT_YET,
        ),
    ),
    ApiOperation(
        "health",
        HEALTH_PATH,
        "Whether the API can answer. Needs no token.",
        _health,
        HealthBody,
        problems=(ProblemKind.STOPPING,),
        has_etag=False,
    ),
)
