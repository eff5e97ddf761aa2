"""The parameters of the read API: each checked, and described for the OpenAPI document in one place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes
from uuid import UUID

from aiohttp import web

from workers.api.problems import ApiError, ProblemKind

__all__ = [
    "ACCOUNT_ID",
    "AFTER",
    "BEFORE",
    "LIMIT",
    "LIMIT_AT_MOST",
    "REQUEST_ID",
    "WAIT_FOR",
    "Parameter",
    "account_id",
    "request_id",
    "whole_number",
]

LIMIT_AT_MOST: Final = 200
_LIMIT: Final = 50
_SEQUENCE_AT_MOST: Final = 2**63 - 1
_ID_BYTES: Final = 1000
_ACCOUNT_PART: Final = 3  # of /v1/accounts/{account_id}, after the root


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
    "The request id: the event's `id` or, where that is no UUID, the `request_id` of its results (docs/producers.md).",
    {"type": "string", "format": "uuid"},
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


def account_id(request: web.Request) -> str:
    """Return the account id of the path.

    Raises:
        ApiError: when no account can have it.

    """
    # As it was sent: what is matched has bytes that are not UTF-8 as if they had been written with a percent sign.
    sent = unquote_to_bytes(request.rel_url.raw_parts[_ACCOUNT_PART])
    try:
        found = sent.decode()
    except UnicodeDecodeError as error:
        raise ApiError(ProblemKind.BAD_PARAMETER, "account_id: has to be UTF-8, percent-encoded") from error
    if "\0" in found or len(sent) > _ID_BYTES:
        raise ApiError(
            ProblemKind.BAD_PARAMETER, f"account_id: expected UTF-8 of {_ID_BYTES} bytes at most, without NUL"
        )
    return found


def request_id(request: web.Request) -> UUID:
    """Return the request id of the path.

    Raises:
        ApiError: when it is no UUID.

    """
    try:
        return UUID(request.match_info["request_id"])
    except ValueError as error:
        raise ApiError(
            ProblemKind.BAD_PARAMETER, "request_id: expected a UUID. Of a request whose id is none, its results name it"
        ) from error


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
