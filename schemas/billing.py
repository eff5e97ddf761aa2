"""What billing says: periods that give credits, cancels, and gifts."""

from typing import Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from schemas.envelope import AccountEvent, Credits, Data, Instant, OpaqueId

__all__ = [
    "CreditsGift",
    "CreditsGiftData",
    "PromotionGranted",
    "PromotionGrantedData",
    "SubscriptionActivated",
    "SubscriptionCancelled",
    "SubscriptionCancelledData",
    "SubscriptionPeriod",
    "SubscriptionPeriodData",
    "SubscriptionRenewed",
    "SurveyGranted",
    "SurveyGrantedData",
]


class SubscriptionPeriodData(Data):
    """One paid period [period_start, period_end) of a subscription. Its plan says what that gives."""

    subscription_id: OpaqueId
    plan: OpaqueId
    period_start: Instant
    period_end: Instant

    @model_validator(mode="after")
    def _starts_before_it_ends(self) -> Self:
        if self.period_end <= self.period_start:
            raise PydanticCustomError("period", "expected period_end to be after period_start")
        return self


class SubscriptionPeriod(AccountEvent):
    """A period of a subscription began: what activation and renewal have in common."""

    data: SubscriptionPeriodData


class SubscriptionActivated(SubscriptionPeriod):
    """A subscription began, with its first period."""

    type: Literal["inmail.subscription.activated.v1"]


class SubscriptionRenewed(SubscriptionPeriod):
    """A subscription went on for another period."""

    type: Literal["inmail.subscription.renewed.v1"]


class SubscriptionCancelledData(Data):
    """Which subscription ends, and when: a period that starts at `effective_at` is not granted any more."""

    subscription_id: OpaqueId
    effective_at: Instant


class SubscriptionCancelled(AccountEvent):
    """A subscription ends."""

    type: Literal["inmail.subscription.cancelled.v1"]
    data: SubscriptionCancelledData


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
