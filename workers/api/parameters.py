"""The parameters of the read API: each checked, and described for the OpenAPI document in one place."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes
from uuid import UUID

from aiohttp import web

from schemas.content_modes import parse_uuid
from schemas.envelope import EVENT_ID_PATTERN, SOURCE_PATTERN
from schemas.ids import derive_id
from workers.api.problems import ApiError, ProblemKind

__all__ = [
    "ACCOUNT_ID",
    "AFTER",
    "BEFORE",
    "LIMIT",
    "LIMIT_AT_MOST",
    "REQUEST_ID",
    "SOURCE",
    "WAIT_FOR",
    "Parameter",
    "account_id",
    "check_names",
    "request_id",
    "whole_number",
]

LIMIT_AT_MOST: Final = 200
_LIMIT: Final = 50
_SEQUENCE_AT_MOST: Final = 2**63 - 1
_ID_BYTES: Final = 1000
_SHOWN: Final = 64  # characters of a name that is no parameter's
EVENT_ID_LENGTH: Final = 256
_ACCOUNT_PART: Final = 3  # of /v1/accounts/{account_id}, after the root
_REQUEST_PART: Final = 5  # of /v1/accounts/{account_id}/requests/{request_id}
_EVENT_ID: Final = re.compile(EVENT_ID_PATTERN)
_SOURCE: Final = re.compile(SOURCE_PATTERN)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter, as OpenAPI describes it."""

    name: str
    place: str  # path or query
    description: str
    schema: Mapping[str, Any]


def _sequence(name: str, description: str) -> Parameter:
    return Parameter(name, "query", description, {"type": "integer", "minimum": 0, "maximum": _SEQUENCE_AT_MOST})


ACCOUNT_ID: Final = Parameter(
    "account_id", "path", "The account: the event's `subject`, percent-encoded.", {"type": "string", "minLength": 1}
)
REQUEST_ID: Final = Parameter(
    "request_id",
    "path",
    "The event's `id`, percent-encoded, or the `request_id` of its results.",
    {"type": "string", "minLength": 1, "maxLength": EVENT_ID_LENGTH},
)
SOURCE: Final = Parameter(
    "source",
    "query",
    "The event's `source`. Needed where its `id` is no UUID, and events of several sources have that id.",
    {"type": "string", "minLength": 1, "maxLength": EVENT_ID_LENGTH},
)
WAIT_FOR: Final = _sequence(
    "wait_for",
    "The sequence of an event that you have read: the answer is never older. Waits for it on a replica that lags, and"
    " answers 503 with Retry-After where it does not come in time.",
)
AFTER: Final = _sequence("after", "Lines with a higher sequence, the oldest first.")
BEFORE: Final = _sequence("before", "Lines with a lower sequence, the newest first. The default, from the newest on.")
LIMIT: Final = Parameter(
    "limit", "query", "Lines on a page.", {"type": "integer", "minimum": 1, "maximum": LIMIT_AT_MOST, "default": _LIMIT}
)


def check_names(request: web.Request, parameters: Iterable[Parameter]) -> None:
    """Check that a query names parameters of its operation only.

    Raises:
        ApiError: when it has another: with a misspelt `wait_for`, an older balance would pass for the one waited for.

    """
    taken = [each.name for each in parameters if each.place == "query"]
    for name in request.query:
        if name not in taken:
            raise ApiError(
                ProblemKind.BAD_PARAMETER, f"{name[:_SHOWN]}: no such parameter: expected {', '.join(taken)}"
            )


def account_id(request: web.Request) -> str:
    """Return the account id of the path.

    Raises:
        ApiError: when no account can have it.

    """
    found = _path_text(request, _ACCOUNT_PART, ACCOUNT_ID)
    if "\0" in found or len(found.encode()) > _ID_BYTES:
        raise ApiError(
            ProblemKind.BAD_PARAMETER, f"account_id: expected UTF-8 of {_ID_BYTES} bytes at most, without NUL"
        )
    return found


def request_id(request: web.Request) -> UUID | str:
    """Return the request id of the path; the producer's own id where it is no UUID and no source is given.

    Raises:
        ApiError: when no event can have such an id, or source.

    """
    text, source = _path_text(request, _REQUEST_PART, REQUEST_ID), request.query.getall(SOURCE.name, [])
    if len(source) > 1 or not all(_SOURCE.fullmatch(each) for each in source):
        raise ApiError(
            ProblemKind.BAD_PARAMETER,
            f"source: expected one of 1 to {EVENT_ID_LENGTH} characters, without control characters",
        )
    if (found := parse_uuid(text)) is not None:
        return found
    if not _EVENT_ID.fullmatch(text):
        raise ApiError(
            ProblemKind.BAD_PARAMETER,
            f"request_id: expected an event's id: 1 to {EVENT_ID_LENGTH} characters, without control characters",
        )
    return derive_id(source[0], text) if source else text


def _path_text(request: web.Request, part: int, parameter: Parameter) -> str:
    # As it was sent: what is matched has bytes that are not UTF-8 as if they had been written with a percent sign.
    try:
        return unquote_to_bytes(request.rel_url.raw_parts[part]).decode()
    except UnicodeDecodeError as error:
        raise ApiError(ProblemKind.BAD_PARAMETER, f"{parameter.name}: has to be UTF-8, percent-encoded") from error


def whole_number(request: web.Request, parameter: Parameter) -> int | None:
    """Return a number of the query within the bounds of its description; its default, or None, where there is none.

    Raises:
        ApiError: when it is no whole number, out of bounds, or there twice.

    """
    given = request.query.getall(parameter.name, [])
    if not given:
        default: int | None = parameter.schema.get("default")
        return default
    least, most = parameter.schema["minimum"], parameter.schema["maximum"]
    text = given[0]
    if len(given) == 1 and text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most:
        return int(text)
    raise ApiError(ProblemKind.BAD_PARAMETER, f"{parameter.name}: expected one whole number from {least:,} to {most:,}")
