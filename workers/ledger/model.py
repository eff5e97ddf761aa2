"""The ledger's words in Python: codes, requests in, journal rows out."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

__all__ = ["ACCEPTED", "Code", "Entry", "Origin", "Place", "Request", "Tick", "WorkerName"]

Event = TypeVar("Event")

Place = tuple[int, int]
"""Identifies an input record within its topic: its partition and its offset."""


class WorkerName(StrEnum):
    """Who books: names the input topic of a journal row."""

    SEND = "send"
    BILLING = "billing"
    EXPIRY = "expiry"


class Origin(StrEnum):
    """Where a lot's credits come from."""

    SUBSCRIPTION = "subscription"
    PROMOTION = "promotion"
    SURVEY = "survey"
    PURCHASE = "purchase"
    ADJUSTMENT = "adjustment"


class Code(StrEnum):
    """What a journal row says happened.

    In order of precedence: where several could be said of one request, the first one here is. Each is described from
    the side of whoever reads it; the functions in `sql/` decide it.
    """

    # any request
    KEY_CONFLICT = "key_conflict"  # the request id was used before with another body
    ACCOUNT_ERASED = "account_erased"  # the account was erased: it gets nothing and spends nothing

    # a send
    RECIPIENT_IS_SENDER = "recipient_is_sender"  # a send to oneself
    FREE = "free"  # its relationship makes it free
    RATE_LIMITED = "rate_limited"  # over a limit of responsible use
    CHARGED = "charged"  # it took one credit
    BALANCE_NOT_CURRENT = "balance_not_current"  # it found none, but what gives credits was not read: not final
    INSUFFICIENT_CREDITS = "insufficient_credits"  # it found none

    # a report about a send: undeliverable, responded
    UNKNOWN_SEND = "unknown_send"  # the account has no send of that id
    NOT_CHARGED = "not_charged"  # the send was free or refused
    ALREADY_REVERSED = "already_reversed"  # it was taken back before
    NO_CREDIT_BACK = "no_credit_back"  # an answer, and the lot's plan gives nothing back for it
    RESPONSE_TOO_LATE = "response_too_late"  # an answer 90 days or more after the send
    REVERSED = "reversed"  # the credit is back on its lot
    LOT_ENDED = "lot_ended"  # recorded; its lot has ended, and the credit is not revived

    # a subscription's period: activated, renewed, plan changed
    SUBSCRIPTION_ENDED = (
        "subscription_ended"  # the period starts at its end or later; also: too late to take a cancel back
    )
    PLAN_UNCHANGED = "plan_unchanged"  # a change to the plan that the subscription has already
    PERIOD_ALREADY_GRANTED = "period_already_granted"  # the period has its lot, by whatever event
    NO_CREDITS_IN_PLAN = "no_credits_in_plan"  # its plan gives none
    PLAN_CHANGED = "plan_changed"  # read late: the lot of its period had started, stays, and lacks nothing

    # cancels
    CANCELLED = "cancelled"  # the subscription has an end
    NOT_CANCELLED = "not_cancelled"  # there is no cancel to take back
    CANCELLATION_TAKEN_BACK = "cancellation_taken_back"  # the subscription goes on

    # other billing
    NOT_SOLD_SEPARATELY = "not_sold_separately"  # no plan of the account's sells credits on their own
    GRANTED = "granted"  # a lot is open
    UNKNOWN_GRANT = "unknown_grant"  # no lot was opened by that event
    GRANT_ENDED = "grant_ended"  # nothing is left of it to void
    VOIDED = "voided"  # billing, or an erasure, closed a lot
    EXCEEDS_BALANCE = "exceeds_balance"  # a downward adjustment of more than there is
    ADJUSTED = "adjusted"  # somebody took credits away
    ERASED = "erased"  # the account is erased

    # movements that a request or a tick causes, and notices
    FORFEITED = "forfeited"  # a plan change closed a lot
    CAP_FORFEITED = "cap_forfeited"  # a subscription held more than its cap
    EXPIRED = "expired"  # what was left of a lot when it ended
    LOW = "low"  # the balance fell to the threshold
    EXHAUSTED = "exhausted"  # the balance fell to nothing
    EXPIRING_SOON = "expiring_soon"  # a lot with credits ends within days


ACCEPTED = frozenset(
    {
        Code.FREE,
        Code.CHARGED,
        Code.REVERSED,
        Code.LOT_ENDED,
        Code.NO_CREDITS_IN_PLAN,
        Code.PLAN_CHANGED,
        Code.CANCELLED,
        Code.CANCELLATION_TAKEN_BACK,
        Code.GRANTED,
        Code.VOIDED,
        Code.ADJUSTED,
        Code.ERASED,
    }
)


class Request(NamedTuple, Generic[Event]):
    """One input record to decide: its event, and where and when the broker has it."""

    event: Event
    account_id: str
    request_id: UUID
    fingerprint: int  # of the event's type and data: the same id with another one is a conflict
    as_of: datetime  # the latest broker timestamp its lane had read, this record's included
    partition: int  # the partition that the record was read from
    offset: int

    @property
    def place(self) -> Place:
        """The record's partition and offset."""
        return self.partition, self.offset


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
    sender_id: str | None
    reverses: int | None


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
    steps: int
    ended: tuple[datetime, int, int]  # how far its steps have come, in each of the things they do
    cut: tuple[datetime, int, int]
    announced: tuple[datetime, int, int]
