"""The bodies of the read API's answers. The OpenAPI document is rendered from these models.

A reader has to take members and values that it does not know: `code` and `origin` gain values with new versions.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["BalanceBody", "HealthBody", "LineBody", "LotBody", "OutcomeBody", "ProblemBody", "StatementBody"]


class _Body(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class LotBody(_Body):
    """A block of credits that one grant gave."""

    lot: int = Field(description="Number of the lot in its account.")
    origin: str = Field(description="subscription, promotion, survey, purchase, adjustment; others may come.")
    subscription_id: str | None
    plan: str | None
    granted: int
    remaining: int
    granted_at: datetime = Field(description="First instant at which its credits can be spent; may be to come.")
    expires_at: datetime = Field(description="First instant at which they no longer can.")


class BalanceBody(_Body):
    """What an account can spend."""

    account_id: str
    sequence: int = Field(description="Number of the account's newest row that the answer includes.")
    as_of: datetime = Field(description="The instant of the answer.")
    spendable: int = Field(description="Credits that can be spent at as_of.")
    next_allotment_at: datetime | None = Field(description="When a subscription gives the next credits, if one will.")
    changes_at: datetime | None = Field(
        description="Until when the answer holds if no row comes: a lot starts or ends then, or an allotment is due."
    )
    erased_at: datetime | None
    lot_count: int = Field(description="Lots with credits that can be spent now or later, also those left out of lots.")
    lots: list[LotBody] = Field(description="The first 200 of them, in the order in which they are spent.")


class LineBody(_Body):
    """One row of the journal: an answer, or a movement of credits that was none."""

    sequence: int
    as_of: datetime = Field(description="The broker's time of the record that was decided.")
    code: str = Field(description="What happened. Others may come: see docs/events.md.")
    reason: str = Field(description="The same in words, for people.")
    request_id: UUID = Field(description="The request that the row answers, or that caused it.")
    amount: int = Field(description="Change of the lot's credits.")
    balance_before: int
    balance_after: int
    lot: int | None
    lot_expires_at: datetime | None
    recipient_id: str | None
    relationship: str | None
    sender_id: str | None
    next_allotment_at: datetime | None
    reverses: int | None = Field(description="Sequence of the send that the row takes back.")
    details: dict[str, Any] | None = Field(description="What a code tells beside these members.")


class StatementBody(_Body):
    """A page of an account's statement."""

    account_id: str
    sequence: int = Field(description="Number of the account's newest row.")
    lines: list[LineBody]
    next: str | None = Field(description="Path and query of the next page in the same direction; null at the end.")


class OutcomeBody(_Body):
    """The ledger's stored answer to a request id of an account."""

    account_id: str
    request_id: UUID
    original_id: str | None = Field(description="The event's id, where it is no UUID.")
    final: bool = Field(description="False for balance_not_current: the same id may be sent again.")
    answer: LineBody
    conflicts: list[LineBody] = Field(description="Answers to the same id with another body: at most 49.")


class HealthBody(_Body):
    """Whether the API can answer."""

    ready: bool


class ProblemBody(_Body):
    """An error, as RFC 9457 has it."""

    type: str = Field(description="A URN for the kind of error; does not change.")
    title: str = Field(description="The kind of error in words.")
    status: int
    detail: str = Field(description="What is wrong with this request, and what to do.")
