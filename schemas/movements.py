"""Movements of credits other than the charge of a send: lots that open, and what happens to them by and by."""

from typing import Annotated, Literal, NotRequired
from uuid import UUID

from pydantic import Field

from schemas.envelope import AccountResult, AnyInstant, OpaqueId, Open, Reason
from schemas.outgoing import AccountResultData, Cause, Count, Lot, SendId, write_result

__all__ = [
    "CreditsExpired",
    "CreditsExpiredData",
    "CreditsForfeited",
    "CreditsForfeitedData",
    "CreditsGranted",
    "CreditsGrantedData",
    "CreditsReversed",
    "CreditsReversedData",
    "CreditsVoided",
    "CreditsVoidedData",
    "credits_expired",
    "credits_forfeited",
    "credits_granted",
    "credits_reversed",
    "credits_voided",
]


class CreditsGrantedData(AccountResultData):
    """The lot that a billing event opened."""

    code: Annotated[Literal["granted"], Open]
    credits: Annotated[int, Field(ge=1)]
    lot: Lot
    granted_at: Annotated[AnyInstant, Field(description="First instant the credits can be spent.")]
    expires_at: Annotated[
        AnyInstant,
        Field(
            description="First instant they no longer can. A cancel of the subscription brings it forward until the"
            " cancel is taken back; the answers to both list the lots that have another end in lot_ends. Of a lot that"
            " opens under a cancel this is the cancel's end."
        ),
    ]
    origin: Annotated[Literal["subscription", "promotion", "survey", "purchase", "adjustment"], Open]
    subscription_id: OpaqueId | None
    plan: OpaqueId | None
    period_start: AnyInstant | None
    tops_up: NotRequired[
        Annotated[
            Lot | None,
            Field(
                description="Of a plan change read late: the lot of the same period, which had started and stays; of a"
                " renewal after one: the old plan's lot with the same start. This lot is the difference to the new"
                " plan's credits, with the same end; where that lot was voided, it is all of them, with its own end."
            ),
        ]
    ]
    source_id: Annotated[OpaqueId | None, Field(description="The promotion, survey or purchase that the lot is of.")]
    actor: Annotated[OpaqueId | None, Field(description="Of an adjustment: who made it.")]
    reason: Annotated[Reason | None, Field(description="Of an adjustment: why.")]


class CreditsGranted(AccountResult):
    """A lot opened. The first that a billing event opens is its answer."""

    type: Literal["inmail.credits.granted.v1"]
    data: CreditsGrantedData


class CreditsReversedData(AccountResultData):
    """The credit that a send had cost, back on its own lot; or none, where the lot has ended meanwhile."""

    code: Annotated[Literal["reversed", "lot_ended"], Open]
    credits: Literal[0, 1]
    lot: Lot
    expires_at: AnyInstant
    send_id: SendId
    cause: Cause


class CreditsReversed(AccountResult):
    """The answer to an accepted report on a send: its charge is undone, at most once."""

    type: Literal["inmail.credits.reversed.v1"]
    data: CreditsReversedData


class CreditsVoidedData(AccountResultData):
    """What was taken from a lot: all that was left, or by an adjustment its part of it."""

    code: Annotated[Literal["voided", "adjusted"], Open]
    credits: Count
    lot: Lot
    expires_at: AnyInstant
    grant_id: Annotated[UUID | None, Field(description="Of a void: the request id of the event that granted.")]
    actor: Annotated[OpaqueId | None, Field(description="Of an adjustment: who made it.")]
    reason: Annotated[Reason, Field(description="Why. An erasure's is account_erased.")]


class CreditsVoided(AccountResult):
    """Credits of a lot were withdrawn: by a void, an erasure or a downward adjustment."""

    type: Literal["inmail.credits.voided.v1"]
    data: CreditsVoidedData


class CreditsForfeitedData(AccountResultData):
    """What a lot lost to a change of plan, which closes it, or to a cap, which does not."""

    code: Annotated[Literal["forfeited", "cap_forfeited"], Open]
    credits: Annotated[int, Field(ge=1)]
    lot: Lot
    expires_at: AnyInstant
    subscription_id: OpaqueId
    plan: Annotated[OpaqueId | None, Field(description="Where forfeited: the plan that the lot was of.")]
    cap: Annotated[Count | None, Field(description="Where cap_forfeited: how many credits may be held.")]


class CreditsForfeited(AccountResult):
    """Credits of a lot were lost to a rule of the plan: on a change of plan, or over its balance cap."""

    type: Literal["inmail.credits.forfeited.v1"]
    data: CreditsForfeitedData


class CreditsExpiredData(AccountResultData):
    """What was left of a lot when it ended. The request is the tick that booked it.

    The lot had ended by as_of, so the balance is the same before and after: what the account can spend without the lot.
    """

    code: Annotated[Literal["expired"], Open]
    credits: Annotated[int, Field(ge=1)]
    lot: Lot
    expires_at: AnyInstant


class CreditsExpired(AccountResult):
    """Credits of a lot that ended unspent."""

    type: Literal["inmail.credits.expired.v1"]
    data: CreditsExpiredData


def credits_granted(event_id: str, account_id: str, data: CreditsGrantedData) -> bytes:
    """Return the opening of a lot as the value of a record."""
    return write_result("inmail.credits.granted.v1", event_id, account_id, data["as_of"], data)


def credits_reversed(event_id: str, account_id: str, data: CreditsReversedData) -> bytes:
    """Return the answer to an accepted report on a send as the value of a record."""
    return write_result("inmail.credits.reversed.v1", event_id, account_id, data["as_of"], data)


def credits_voided(event_id: str, account_id: str, data: CreditsVoidedData) -> bytes:
    """Return the withdrawal of a lot's credits as the value of a record."""
    return write_result("inmail.credits.voided.v1", event_id, account_id, data["as_of"], data)


def credits_forfeited(event_id: str, account_id: str, data: CreditsForfeitedData) -> bytes:
    """Return a lot's loss to a rule of the plan as the value of a record."""
    return write_result("inmail.credits.forfeited.v1", event_id, account_id, data["as_of"], data)


def credits_expired(event_id: str, account_id: str, data: CreditsExpiredData) -> bytes:
    """Return the end of a lot as the value of a record."""
    return write_result("inmail.credits.expired.v1", event_id, account_id, data["as_of"], data)
