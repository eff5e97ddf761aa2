"""What billing says: periods that give credits, cancels, gifts and purchases, and what is set right afterwards."""

from calendar import monthrange
from datetime import datetime, time, timedelta
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.envelope import AccountEvent, Credits, Data, Instant, OpaqueId, Reason

__all__ = [
    "AccountErased",
    "AccountErasedData",
    "CancellationTakenBack",
    "CancellationTakenBackData",
    "CreditsAdjusted",
    "CreditsAdjustedData",
    "CreditsGift",
    "CreditsGiftData",
    "CreditsPurchased",
    "CreditsPurchasedData",
    "GrantVoided",
    "GrantVoidedData",
    "PromotionGranted",
    "PromotionGrantedData",
    "SubscriptionActivated",
    "SubscriptionCancelled",
    "SubscriptionCancelledData",
    "SubscriptionPeriod",
    "SubscriptionPeriodData",
    "SubscriptionPlanChanged",
    "SubscriptionRenewed",
    "SurveyGranted",
    "SurveyGrantedData",
]


_EARLIEST_MIDNIGHT = time(10)  # in UTC, of a day that begins in UTC+14


class SubscriptionPeriodData(Data):
    """One paid period [period_start, period_end) of a subscription. Its plan says what that gives."""

    subscription_id: OpaqueId
    plan: OpaqueId
    period_start: Instant
    period_end: Instant
    term: Annotated[
        Literal["monthly", "annual"],
        Field(
            description="How long is paid for at once. An annual term gives its twelve months their credits each, on"
            " dates derived from anchor_day.",
            exclude_if=lambda term: term == "monthly",
        ),
    ] = "monthly"
    anchor_day: Annotated[
        Annotated[int, Field(ge=1, le=31)] | None,
        Field(
            description="Day of the month on which periods start; in a shorter month, its last day. The day is that of"
            " UTC or, where periods start at a midnight east of Greenwich, the day that begins there: 31 for"
            " 2026-01-30T23:00:00Z. The lots of an annual term and the dates of next allotments are derived from it, at"
            " the time of day in UTC of period_start. Without it the anchor day of the subscription's latest period"
            " counts, if period_start is on that day, or else the day of period_start in UTC. So it is needed where a"
            " first period starts on the last day of a short month, or on another day there than in UTC.",
            exclude_if=lambda anchor_day: anchor_day is None,
        ),
    ] = None

    @model_validator(mode="after")
    def _starts_on_its_day_and_before_it_ends(self) -> Self:
        start = self.period_start
        if self.period_end <= start:
            raise PydanticCustomError("period", "expected period_end to be after period_start")
        if self.anchor_day is not None:
            day = min(self.anchor_day, monthrange(start.year, start.month)[1])
            if start.day != day and not _begins_day_ahead(start, self.anchor_day):
                raise PydanticCustomError(
                    "anchor_day",
                    "expected period_start on day {day} of its month in UTC, where anchor_day {anchor_day} falls,"
                    " got day {got}",
                    {"day": day, "anchor_day": self.anchor_day, "got": start.day},
                )
        return self


def _begins_day_ahead(start: datetime, anchor_day: int) -> bool:
    """Tell whether an instant is on the anchor where the calendar is a day ahead of UTC's, in UTC+14 at the most."""
    there = start + timedelta(days=1)
    return start.time() >= _EARLIEST_MIDNIGHT and there.day == min(anchor_day, monthrange(there.year, there.month)[1])


class SubscriptionPeriod(AccountEvent):
    """A period of a subscription began: what activation and renewal have in common."""

    data: SubscriptionPeriodData


class SubscriptionActivated(SubscriptionPeriod):
    """A subscription began, with its first period."""

    type: Literal["inmail.subscription.activated.v1"]


class SubscriptionRenewed(SubscriptionPeriod):
    """A subscription went on for another period."""

    type: Literal["inmail.subscription.renewed.v1"]


class SubscriptionPlanChanged(SubscriptionPeriod):
    """A subscription changed to another plan, with a period of that plan."""

    type: Literal["inmail.subscription.plan-changed.v1"]


class SubscriptionCancelledData(Data):
    """Which subscription ends, and when: a period that starts at `effective_at` is not granted any more."""

    subscription_id: OpaqueId
    effective_at: Instant


class SubscriptionCancelled(AccountEvent):
    """A subscription ends."""

    type: Literal["inmail.subscription.cancelled.v1"]
    data: SubscriptionCancelledData


class CancellationTakenBackData(Data):
    """Which subscription goes on after all."""

    subscription_id: OpaqueId


class CancellationTakenBack(AccountEvent):
    """A subscription that was to end does not."""

    type: Literal["inmail.subscription.cancellation-taken-back.v1"]
    data: CancellationTakenBackData


class CreditsGiftData(Data):
    """Credits that no subscription pays for."""

    credits: Credits


class CreditsGift(AccountEvent):
    """Credits were given outside any subscription: what promotions and surveys have in common."""

    data: CreditsGiftData


class PromotionGrantedData(CreditsGiftData):
    """The promotion that gives the credits."""

    promotion_id: OpaqueId


class PromotionGranted(CreditsGift):
    """A promotion gives credits."""

    type: Literal["inmail.promotion.granted.v1"]
    data: PromotionGrantedData


class SurveyGrantedData(CreditsGiftData):
    """The survey whose answering gives the credits."""

    survey_id: OpaqueId


class SurveyGranted(CreditsGift):
    """An answered survey gives credits."""

    type: Literal["inmail.survey.granted.v1"]
    data: SurveyGrantedData


class CreditsPurchasedData(Data):
    """How many credits were bought, and in which purchase."""

    credits: Credits
    purchase_id: OpaqueId


class CreditsPurchased(AccountEvent):
    """Credits were bought on their own, which only some plans allow."""

    type: Literal["inmail.credits.purchased.v1"]
    data: CreditsPurchasedData


class GrantVoidedData(Data):
    """Which grant is withdrawn, and why."""

    grant_id: Annotated[UUID, Field(description="The request_id of the event that granted: its id, if a UUID.")]
    reason: Reason


class GrantVoided(AccountEvent):
    """Billing withdraws what is left of a grant, as after a refund."""

    type: Literal["inmail.grant.voided.v1"]
    data: GrantVoidedData


def _not_zero(change: int) -> int:
    if change == 0:
        raise PydanticCustomError("no_credits", "expected an integer other than 0")
    return change


class CreditsAdjustedData(Data):
    """By how many credits the balance is set right, up or down; by whom, and why."""

    credits: Annotated[
        int, Field(ge=-1_000_000, le=1_000_000, json_schema_extra={"not": {"const": 0}}), AfterValidator(_not_zero)
    ]
    actor: OpaqueId
    reason: Reason


class CreditsAdjusted(AccountEvent):
    """Somebody sets a balance right by hand."""

    type: Literal["inmail.credits.adjusted.v1"]
    data: CreditsAdjustedData


class AccountErasedData(Data):
    """Nothing: the account is the subject."""


class AccountErased(AccountEvent):
    """An account's holder is gone: its credits end, and nothing is decided for it any more."""

    type: Literal["inmail.account.erased.v1"]
    data: AccountErasedData
