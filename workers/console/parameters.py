"""Parsers for the console's request parameters: texts, numbers, instants, ids, filters and options."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from schemas.catalogue import INPUT_TOPICS
from schemas.dead_letters import DeadLetterReason
from workers.console.letter_cursor import cursor_text, read_cursor
from workers.console.problems import BadRequestError
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.pages import LetterCursor
from workers.ops.dead_letters.redrive_plan import RATES, RedriveOptions

__all__ = [
    "older_than_text",
    "parse_filter",
    "parse_instant",
    "parse_number",
    "parse_older",
    "parse_options",
    "parse_places",
    "parse_text",
]

_MAX_CHARACTERS: Final = 1000
_MAX_PLACES: Final = 1000
_PLACE: Final = re.compile(r"(\d{1,9})/(\d{1,18})", re.ASCII)
_MAX_NUMBER: Final = 2**53 - 1  # JavaScript's largest safe integer

Parameters = Mapping[str, Any]


def parse_text(parameters: Parameters, name: str) -> str | None:
    """Return a text without surrounding whitespace; None where the parameter is absent or empty.

    Raises:
        BadRequestError: when the value is not a text, or too long.

    """
    value = parameters.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _MAX_CHARACTERS:
        raise BadRequestError(f"{name}: expected a text of {_MAX_CHARACTERS} characters at most")
    return value.strip() or None


def parse_number(parameters: Parameters, name: str, minimum: int = 0, maximum: int = _MAX_NUMBER) -> int | None:
    """Return a whole number; None where the parameter is absent or empty.

    Raises:
        BadRequestError: when the value is not a whole number, or out of range.

    """
    value = parameters.get(name)
    if value is None or value == "":
        return None
    try:
        found = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
    except ValueError:
        found = None
    if found is None or not minimum <= found <= maximum:
        raise BadRequestError(f"{name}: expected a whole number from {minimum:,} to {maximum:,}")
    return found


def parse_instant(parameters: Parameters, name: str) -> datetime | None:
    """Return an instant, in UTC where it names no zone; None where the parameter is absent or empty.

    Raises:
        BadRequestError: when the value is not an instant.

    """
    value = parse_text(parameters, name)
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadRequestError(f"{name}: expected an instant like 2026-01-31T09:30:00Z") from error


def parse_filter(parameters: Parameters) -> LetterFilter:
    """Return the filter of dead letters.

    Raises:
        BadRequestError: when a part of the filter is not valid.

    """
    topic, reason = parse_text(parameters, "topic"), parse_text(parameters, "reason")
    if topic is not None and topic not in INPUT_TOPICS:
        raise BadRequestError(f"topic: expected one of {', '.join(INPUT_TOPICS)}")
    if reason is not None and reason not in set(DeadLetterReason):
        raise BadRequestError(f"reason: expected one of {', '.join(DeadLetterReason)}")
    return LetterFilter(
        None if reason is None else DeadLetterReason(reason),
        topic,
        parse_text(parameters, "account"),
        parse_text(parameters, "event_type"),
        parse_instant(parameters, "after"),
        parse_instant(parameters, "before"),
        parse_number(parameters, "partition"),
        parse_number(parameters, "offset"),
        _parse_chosen(parameters),
    )


def _parse_chosen(parameters: Parameters) -> frozenset[tuple[int, int]] | None:
    places = parameters.get("places")
    if places is None:
        return None
    try:
        return parse_places(places)
    except ValueError as error:
        raise BadRequestError(f"places: {error}") from error


def parse_places(places: object) -> frozenset[tuple[int, int]]:
    """Return partitions and offsets of dead letters that are written as `3/17`.

    Raises:
        ValueError: when they are none, none at all, or too many.

    """
    if not isinstance(places, list) or not 0 < len(places) <= _MAX_PLACES:
        raise ValueError(f"expected 1 to {_MAX_PLACES:,} places")
    found = [_PLACE.fullmatch(place) if isinstance(place, str) else None for place in places]
    if None in found:
        raise ValueError("expected a partition and an offset each, like 3/17")
    return frozenset((int(place[1]), int(place[2])) for place in found if place is not None)


def parse_older(parameters: Parameters) -> LetterCursor | None:
    """Return where the page of the list before ends; None for the first page.

    Raises:
        BadRequestError: when it is none that `older_than_text` wrote.

    """
    text = parameters.get("older_than")
    if text is None or text == "":
        return None
    try:
        return read_cursor(text)
    except ValueError as error:
        raise BadRequestError("older_than: expected what the page before named as `next`") from error


def older_than_text(cursor: LetterCursor | None) -> str | None:
    """Return the parameter for the page after one that ends there; None where there is none."""
    return None if cursor is None else cursor_text(cursor)


def parse_options(parameters: Parameters) -> RedriveOptions:
    """Return the options of a redrive.

    Raises:
        BadRequestError: when an option is not valid.

    """
    rate = parameters.get("rate", RedriveOptions().rate)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not RATES[0] <= rate <= RATES[1]:
        raise BadRequestError(f"rate: expected {RATES[0]:g} to {RATES[1]:,.0f} messages a second")
    for name in ("again", "anyway"):
        if not isinstance(parameters.get(name, False), bool):
            raise BadRequestError(f"{name}: expected true or false")
    limit = parse_number(parameters, "limit", 1)
    return RedriveOptions(
        float(rate), limit, bool(parameters.get("again", False)), bool(parameters.get("anyway", False))
    )
