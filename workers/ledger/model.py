"""The ledger's words in Python: codes, requests in, journal rows out."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

__all__ = ["ACCEPTED", "Code", "Entry", "Origin", "Request", "Tick", "Worker"]

Event = TypeVar("Event")


class Worker(StrEnum):
    """Who books: names the input topic of a journal row."""

    SEND = "send"
    BILLING = "billing"
    EXPIRY = "expiry"


class Origin(StrEnum):
    """Where a lot's credits come from."""

    SUBSCRIPTION = "subscription"
    PROMOTION = "promotion"
    SURVEY = "survey"


class Code(StrEnum):
    """What a journal row says happened. Where several could be said of one request, the first one here is."""

    KEY_CONFLICT = "key_conflict"  # the request id was used before with another body

    FREE = "free"  # a send that its relationship makes free
    CHARGED = "charged"  # a send that took one credit
    INSUFFICIENT_CREDITS = "insufficient_credits"  # a send that found none

    SUBSCRIPTION_ENDED = "subscription_ended"  # a grant for a period that starts at its end or later
    PERIOD_ALREADY_GRANTED = "period_already_granted"  # a second grant for one period
    NO_CREDITS_IN_PLAN = "no_credits_in_plan"  # a grant of a plan that gives none
    GRANTED = "granted"  # a grant that opened a lot
    CANCELLED = "cancelled"  # a cancel that set its subscription's end

    EXPIRED = "expired"  # what was left of a lot when it ended; caused by a tick


ACCEPTED = frozenset({Code.FREE, Code.CHARGED, Code.GRANTED, Code.NO_CREDITS_IN_PLAN, Code.CANCELLED})


class Request(NamedTuple, Generic[Event]):
    """One input record to decide: its event, and where and when the broker has it."""

    event: Event
    account_id: str
    request_id: UUID
    fingerprint: int  # of the event's type and data: the same id with another one is a conflict
    as_of: datetime  # the latest broker timestamp its lane had read, this record's included
    offset: int


class Entry(NamedTuple):
    """One row of the journal, column for column in the table's order.

    A named tuple and not a dataclass: one is made for every send, and this is made from a database record in one
    step.
    """

    account: int
    sequence: int
    request_id: UUID
    fingerprint: int
    is_answer: bool
    worker: str
    code: str
    amount: int
    lot: int | None
    lot_expires_at: datetime | None
    balance_before: int
    balance_after: int
    as_of: datetime
    source_partition: int
    source_offset: int
    recipient_id: str | None
    relationship: str | None
    next_allotment_at: datetime | None
    details: dict[str, Any] | None


class Tick(NamedTuple):
    """The stored answer to a tick, column for column in the table's order."""

    partition: int
    request_id: UUID
    fingerprint: int
    code: str
    source_offset: int
    as_of: datetime
    horizon: datetime
    lots: int
    credits: int
    complete: bool
