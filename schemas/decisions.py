"""Answers that move no credit, or one: what became of sends, of reports on sends, of billing events and of ticks."""

from typing import Annotated, Literal, NotRequired
from uuid import UUID

from pydantic import Field
from typing_extensions import TypedDict

from schemas.envelope import AccountResult, AnyInstant, OpaqueId, Open, ResultEvent
from schemas.outgoing import AccountResultData, Cause, Count, Lot, Outcome, SendId, Source, write_result
from schemas.sends import Relationship

__all__ = [
    "BillingDecided",
    "BillingDecidedData",
    "ReportDecided",
    "ReportDecidedData",
    "SendDecided",
    "SendDecidedData",
    "TickDecided",
    "TickDecidedData",
    "billing_decided",
    "report_decided",
    "send_decided",
    "tick_decided",
]


WaitedFor = Annotated[
    str,
    Field(
        description="Where balance_not_current: the consumer group that had records unread which come before the"
        " request and may give credits. The answer is not final: the same request id may be sent again."
    ),
]
RetryAfterSeconds = Annotated[
    int, Field(description="Where balance_not_current: how long to wait before the request is sent again.")
]


class SendDecidedData(AccountResultData):
    """May the message be sent, and what did it cost."""

    code: Annotated[
        Literal[
            "charged",
            "free",
            "balance_not_current",
            "insufficient_credits",
            "rate_limited",
            "recipient_is_sender",
            "account_erased",
            "key_conflict",
        ],
        Open,
    ]
    outcome: Outcome
    recipient_id: OpaqueId
    relationship: Annotated[Relationship, Open]
    credits_charged: Literal[0, 1]
    lot: Annotated[Lot | None, Field(description="The lot that paid.")]
    lot_expires_at: AnyInstant | None
    next_allotment_at: Annotated[
        AnyInstant | None, Field(description="Where credits were insufficient: when the next are due, if known.")
    ]
    sender_id: Annotated[OpaqueId | None, Field(description="The seat that asked, if the request named one.")]
    limit: Annotated[
        Annotated[Literal["account", "seat", "recipient"], Open] | None,
        Field(description="Where rate_limited: whose limit was reached. That of a recipient is the cool-down."),
    ]
    retry_at: Annotated[
        AnyInstant | None, Field(description="Where rate_limited: when this limit alone would let the send pass.")
    ]
    waited_for: NotRequired[WaitedFor]
    retry_after_seconds: NotRequired[RetryAfterSeconds]


class SendDecided(AccountResult):
    """The answer to a request to send."""

    type: Literal["inmail.send.decided.v1"]
    data: SendDecidedData


class ReportDecidedData(AccountResultData):
    """Why a report on a send gave no credit back."""

    code: Annotated[
        Literal[
            "unknown_send",
            "not_charged",
            "already_reversed",
            "no_credit_back",
            "response_too_late",
            "key_conflict",
        ],
        Open,
    ]
    outcome: Annotated[
        Outcome, Field(description="Always rejected: an accepted report is answered by inmail.credits.reversed.v1.")
    ]
    send_id: SendId
    cause: Cause


class ReportDecided(AccountResult):
    """The answer to a report on a send, undeliverable or responded to, that was refused."""

    type: Literal["inmail.report.decided.v1"]
    data: ReportDecidedData


class LotEnd(TypedDict):
    """The end that a lot has from now on."""

    lot: Lot
    expires_at: AnyInstant


class BillingDecidedData(AccountResultData):
    """What became of a billing event that moved no credit."""

    code: Annotated[
        Literal[
            "cancelled",
            "cancellation_taken_back",
            "erased",
            "no_credits_in_plan",
            "plan_changed",
            "plan_unchanged",
            "period_already_granted",
            "subscription_ended",
            "not_cancelled",
            "not_sold_separately",
            "unknown_grant",
            "grant_ended",
            "balance_not_current",
            "exceeds_balance",
            "account_erased",
            "key_conflict",
        ],
        Open,
    ]
    outcome: Outcome
    subscription_id: OpaqueId | None
    effective_at: Annotated[
        AnyInstant | None,
        Field(
            description="Of a cancel: when the subscription ends, by the earliest of its cancels that hold; where"
            " account_erased, when it was to end."
        ),
    ]
    plan: OpaqueId | None
    period_start: AnyInstant | None
    grant_id: Annotated[
        UUID | None,
        Field(
            description="Of a void, and where period_already_granted or plan_unchanged: the request id of the event"
            " that granted."
        ),
    ]
    kept_lot: NotRequired[
        Annotated[
            Lot | None,
            Field(description="Of a plan change read late: the lot of its period, which had started and stays."),
        ]
    ]
    lot_ends: NotRequired[
        Annotated[
            list[LotEnd] | None,
            Field(
                description="Where cancelled or cancellation_taken_back: the open lots of the subscription whose end"
                " this moved, each with its new end; one that had ended keeps its end. No other event moves the end of"
                " a lot. Null with other codes, and in answers of before version 0.2.0, which do not tell."
            ),
        ]
    ]
    waited_for: NotRequired[WaitedFor]
    retry_after_seconds: NotRequired[RetryAfterSeconds]


class BillingDecided(AccountResult):
    """The answer to a billing event that moved no credit: a cancel, an empty plan, an erasure, a refusal."""

    type: Literal["inmail.billing.decided.v1"]
    data: BillingDecidedData


class TickDecidedData(TypedDict):
    """What a tick booked in its partition."""

    request_id: UUID
    code: Annotated[Literal["booked", "key_conflict"], Open]
    as_of: AnyInstant
    horizon: Annotated[
        AnyInstant,
        Field(description="Where booked: expiry is booked up to here. Where key_conflict nothing was booked."),
    ]
    lots: Annotated[
        Count, Field(description="Lots that had ended by the horizon and are closed, those spent to nothing included.")
    ]
    credits: Annotated[
        Count,
        Field(
            description="Credits that were left on these lots. Each lot that had some has an inmail.credits.expired.v1."
        ),
    ]
    complete: Annotated[bool, Field(description="False: more lots have ended by the horizon than one tick books.")]
    source: Source
    repeat: bool


class TickDecided(ResultEvent):
    """The answer to a tick."""

    type: Literal["inmail.tick.decided.v1"]
    subject: None = Field(default=None, exclude=True)
    data: TickDecidedData


def send_decided(event_id: str, account_id: str, data: SendDecidedData) -> bytes:
    """Return the answer to a request to send as the value of a record."""
    return write_result("inmail.send.decided.v1", event_id, account_id, data["as_of"], data)


def report_decided(event_id: str, account_id: str, data: ReportDecidedData) -> bytes:
    """Return the answer to a refused report on a send as the value of a record."""
    return write_result("inmail.report.decided.v1", event_id, account_id, data["as_of"], data)


def billing_decided(event_id: str, account_id: str, data: BillingDecidedData) -> bytes:
    """Return the answer to a billing event that moved no credit as the value of a record."""
    return write_result("inmail.billing.decided.v1", event_id, account_id, data["as_of"], data)


def tick_decided(event_id: str, data: TickDecidedData) -> bytes:
    """Return the answer to a tick as the value of a record."""
    return write_result("inmail.tick.decided.v1", event_id, None, data["as_of"], data)
