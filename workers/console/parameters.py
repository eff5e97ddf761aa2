"""What the page asks with, checked: dates, numbers, selections."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from schemas.catalogue import INPUT_TOPICS
from schemas.results import DeadLetterReason
from workers.console.problems import BadRequestError
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive_plan import RATES, RedriveOptions

__all__ = ["instant", "number", "options", "selection", "text"]

_LONGEST: Final = 1000
_MOST: Final = 2**53 - 1  # what a page counts with

Given = Mapping[str, Any]


def text(given: Given, name: str) -> str | None:
    """Return a text without the space around it; None where there is none.

    Raises:
        BadRequestError: when it is no text, or too long.

    """
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise BadRequestError(f"{name}: expected a text of {_LONGEST} characters at most")
    return value.strip() or None


def number(given: Given, name: str, least: int = 0, most: int = _MOST) -> int | None:
    """Return a whole number; None where there is none.

    Raises:
        BadRequestError: when it is none, or out of range.

    """
    value = given.get(name)
    if value is None or value == "":
        return None
    try:
        found = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
    except ValueError:
        found = None
    if found is None or not least <= found <= most:
        raise BadRequestError(f"{name}: expected a whole number from {least:,} to {most:,}")
    return found


def instant(given: Given, name: str) -> datetime | None:
    """Return an instant; one without a zone is of UTC. None where there is none.

    Raises:
        BadRequestError: when it is none.

    """
    value = text(given, name)
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadRequestError(f"{name}: expected an instant like 2026-01-31T09:30:00Z") from error


def selection(given: Given) -> LetterFilter:
    """Return which dead letters are meant.

    Raises:
        BadRequestError: when a part of it is wrong.

    """
    topic, reason = text(given, "topic"), text(given, "reason")
    if topic is not None and topic not in INPUT_TOPICS:
        raise BadRequestError(f"topic: expected one of {', '.join(INPUT_TOPICS)}")
    if reason is not None and reason not in set(DeadLetterReason):
        raise BadRequestError(f"reason: expected one of {', '.join(DeadLetterReason)}")
    return LetterFilter(
        None if reason is None else DeadLetterReason(reason),
        topic,
        text(given, "account"),
        text(given, "event_type"),
        instant(given, "after"),
        instant(given, "before"),
        number(given, "partition"),
        number(given, "offset"),
    )


def options(given: Given) -> RedriveOptions:
    """Return how a redrive is to be done.

    Raises:
        BadRequestError: when a part of it is wrong.

    """
    rate = given.get("rate", RedriveOptions().rate)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not RATES[0] <= rate <= RATES[1]:
        raise BadRequestError(f"rate: expected {RATES[0]:g} to {RATES[1]:,.0f} messages a second")
    for name in ("again", "anyway"):
        if not isinstance(given.get(name, False), bool):
            raise BadRequestError(f"{name}: expected true or false")
    limit = number(given, "limit", 1)
    return RedriveOptions(float(rate), limit, bool(given.get("again", False)), bool(given.get("anyway", False)))
