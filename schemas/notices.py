"""Notices: what an account's holder will want to know about its balance. They move no credit."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.envelope import AccountResult, AnyInstant, Open
from schemas.outgoing import AccountResultData, Lot, write_result

__all__ = [
    "CreditsExhausted",
    "CreditsExhaustedData",
    "CreditsExpiringSoon",
    "CreditsExpiringSoonData",
    "CreditsLow",
    "CreditsLowData",
    "credits_exhausted",
    "credits_expiring_soon",
    "credits_low",
]


class CreditsLowData(AccountResultData):
    """The balance came down to the threshold, or below it, and is not yet nothing."""

    code: Annotated[Literal["low"], Open]
    threshold: Annotated[int, Field(ge=1, description="A balance of so many credits is low, and so is a smaller one.")]


class CreditsLow(AccountResult):
    """An account has few credits left. Said once, until the balance has been above the threshold again."""

    type: Literal["inmail.credits.low.v1"]
    data: CreditsLowData


class CreditsExhaustedData(AccountResultData):
    """The balance came down to nothing."""

    code: Annotated[Literal["exhausted"], Open]


class CreditsExhausted(AccountResult):
    """An account has no credits left. Said once, until it has had some again."""

    type: Literal["inmail.credits.exhausted.v1"]
    data: CreditsExhaustedData


class CreditsExpiringSoonData(AccountResultData):
    """What is left of a lot that ends soon. The request is the tick that noticed."""

    code: Annotated[Literal["expiring_soon"], Open]
    credits: Annotated[int, Field(ge=1, description="Credits left in the lot; they are not gone yet.")]
    lot: Lot
    expires_at: AnyInstant


class CreditsExpiringSoon(AccountResult):
    """A lot with credits left ends soon. Said once for each end of a lot: a cancel brings another one forward."""

    type: Literal["inmail.credits.expiring-soon.v1"]
    data: CreditsExpiringSoonData


def credits_low(event_id: str, account_id: str, data: CreditsLowData) -> bytes:
    """Return the notice that few credits are left as the value of a record."""
    return write_result("inmail.credits.low.v1", event_id, account_id, data["as_of"], data)


def credits_exhausted(event_id: str, account_id: str, data: CreditsExhaustedData) -> bytes:
    """Return the notice that no credits are left as the value of a record."""
    return write_result("inmail.credits.exhausted.v1", event_id, account_id, data["as_of"], data)


def credits_expiring_soon(event_id: str, account_id: str, data: CreditsExpiringSoonData) -> bytes:
    """Return the notice that a lot ends soon as the value of a record."""
    return write_result("inmail.credits.expiring-soon.v1", event_id, account_id, data["as_of"], data)
