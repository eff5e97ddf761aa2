"""Which event answers each request, found by the words of docs/events.md and held against the event's id."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from schemas.catalogue import EXPIRY_TICKS
from schemas.ids import answer_id

__all__ = ["answers_and_movements", "wrong_answers"]

# Where there is one of a type, the one with the lowest sequence; the first of these types counts.
_ANSWERS = (
    "inmail.send.decided.v1",
    "inmail.report.decided.v1",
    "inmail.billing.decided.v1",
    "inmail.credits.reversed.v1",
    "inmail.credits.granted.v1",
    "inmail.credits.voided.v1",
)
_NOT_OF_THE_REQUEST = ("key_conflict", "balance_not_current")

Event = dict[str, Any]
Request = tuple[str, str]  # account and request id


def wrong_answers(events: Iterable[Event]) -> list[tuple[Request, Event | None, Event | None]]:
    """Return requests that have no answer, or of which the page names an event whose id is not the answer's."""
    wrong = []
    for request, (told, true) in _by_request(events).items():
        answer = _answer([*told.values()])
        if true is None or answer is not true:
            wrong.append((request, answer, true))
    return wrong


def answers_and_movements(events: Iterable[Event]) -> set[tuple[str, bool]]:
    """Return the types of events with whether one of them was an answer."""
    requests = _by_request(events).values()
    return {(event["type"], event is true) for told, true in requests for event in told.values()}


def _by_request(events: Iterable[Event]) -> dict[Request, tuple[dict[str, Event], Event | None]]:
    """Return the events of each request by id, and of those the answer. A tick's answer is of no account."""
    requests: dict[Request, dict[str, Event]] = defaultdict(dict)
    for event in events:
        data = event["data"]
        if "subject" not in event or data["code"] in _NOT_OF_THE_REQUEST or data["source"]["topic"] == EXPIRY_TICKS:
            continue
        requests[event["subject"], data["request_id"]].setdefault(event["id"], event)
    return {
        (account, request_id): (told, told.get(answer_id(account, UUID(request_id))))
        for (account, request_id), told in requests.items()
    }


def _answer(told: list[Event]) -> Event | None:
    """Return the answer among the events of one account's request, by the page's words."""
    for name in _ANSWERS:
        if found := [event for event in told if event["type"] == name]:
            return min(found, key=lambda event: event["data"]["sequence"])
    return None
