"""The send lane's movements: sends, and reports about them, as calls of the ledger's functions."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

from schemas.sends import RecipientResponded, SendRequested
from workers.ledger.model import Entry, Request
from workers.ledger.store import Call, Fresh

__all__ = ["debit", "reverse"]

Value = TypeVar("Value")

RESPONSE_LIFE = timedelta(days=90)  # a recipient's answer gives a credit back for less than this (rule 1)


async def debit(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Decide sends, in input order within each account."""
    accounts = made.opened.accounts
    ordered = sorted(fresh, key=lambda item: accounts[item[0].account_id])
    requests: list[Request[SendRequested]] = [request for request, _ in ordered]
    data = [request.event.data for request in requests]
    limits = made.catalogue.limits
    free = made.catalogue.free_relationships
    return await made.of(
        "debit_sends",
        [accounts[request.account_id] for request in requests],
        [request.request_id for request in requests],
        [request.fingerprint for request in requests],
        _if_any([conflict for _, conflict in ordered]),
        _if_any(
            [
                body.recipient_id == (body.sender_id or request.account_id)
                for request, body in zip(requests, data, strict=True)
            ]
        ),
        [body.relationship in free for body in data],
        [body.recipient_id for body in data],
        [body.relationship for body in data],
        _if_any([body.sender_id for body in data]),
        [request.as_of for request in requests],
        [request.partition for request in requests],
        [request.offset for request in requests],
        (
            limits.paid_sends_per_day,
            limits.seat_sends_per_day,
            timedelta(hours=limits.recipient_cooldown_hours),
        ),
        made.low,
        made.waited_for,
    )


def _if_any(values: Sequence[Value]) -> Sequence[Value] | None:
    """Return values, or null if all are false or None: that is what an element of a null array is, for less."""
    return values if any(values) else None


async def reverse(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Decide reports about sends: undeliverable, answered."""
    requests = [request for request, _ in fresh]
    return await made.of(
        "reverse",
        made.opened.rows(requests),
        [conflict for _, conflict in fresh],
        [isinstance(request.event, RecipientResponded) for request in requests],
        [request.event.data.send_id for request in requests],
        RESPONSE_LIFE,
        made.low,
    )
