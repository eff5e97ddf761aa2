"""The billing lane's movements: periods, gifts, cancels and corrections, as calls of the ledger's functions."""

from collections.abc import Sequence
from typing import Any

from schemas.billing import (
    CancellationTakenBack,
    CreditsAdjusted,
    CreditsPurchased,
    GrantVoided,
    PromotionGranted,
    SubscriptionCancelled,
    SubscriptionPeriod,
    SubscriptionPlanChanged,
    SurveyGranted,
)
from schemas.envelope import AccountEvent
from workers.ledger.model import Entry, Origin, Request
from workers.ledger.plans import Catalogue
from workers.ledger.store import Call, Fresh

__all__ = ["apply_caps", "cancel", "erase", "give", "grant_period", "refuse", "take", "take_back", "void"]


async def grant_period(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Decide activations, renewals and plan changes."""
    requests: list[Request[SubscriptionPeriod]] = [request for request, _ in fresh]
    return await made.of(
        "grant_period",
        made.opened.rows(requests),
        [_period(made.catalogue, request.event) for request in requests],
        made.catalogue.validity,
        made.low,
    )


def _period(catalogue: Catalogue, event: SubscriptionPeriod) -> tuple[Any, ...]:
    """Return a period as the SQL functions take it: the composite type `told_period`."""
    period = event.data
    plan = catalogue.plans[period.plan]
    return (
        period.subscription_id,
        period.plan,
        period.period_start,
        period.period_end,
        period.term == "annual",
        period.anchor_day,
        isinstance(event, SubscriptionPlanChanged),
        plan.credits,
        plan.rollover,
        catalogue.priorities[Origin.SUBSCRIPTION],
        plan.on_change,
        plan.credit_back_on_response,
        plan.balance_cap if catalogue.apply_balance_caps else None,
    )


async def give(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Decide promotions, surveys, purchases and upward adjustments: one lot each."""
    requests = [request for request, _ in fresh]
    return await made.of(
        "give",
        made.opened.rows(requests),
        [_gift(made.catalogue, request) for request in requests],
        made.catalogue.selling_plans,
        made.low,
    )


def _gift(catalogue: Catalogue, request: Request[AccountEvent]) -> tuple[Any, ...]:
    """Return the lot of a gift as the SQL functions take it: the composite type `lot_terms`. It starts when read."""
    event = request.event
    match event:
        case PromotionGranted():
            origin, named = Origin.PROMOTION, {"source_id": event.data.promotion_id}
        case SurveyGranted():
            origin, named = Origin.SURVEY, {"source_id": event.data.survey_id}
        case CreditsPurchased():
            origin, named = Origin.PURCHASE, {"source_id": event.data.purchase_id}
        case CreditsAdjusted():
            origin, named = Origin.ADJUSTMENT, {"actor": event.data.actor, "reason": event.data.reason}
        case _:
            raise TypeError(f"a gift of no known origin: {type(event).__name__}")
    return (
        origin.value,
        named.get("source_id"),
        None,  # of no subscription, plan or period
        None,
        None,
        event.data.credits,
        catalogue.priorities[origin],
        request.as_of,
        request.as_of + catalogue.validity,
        "keep",
        False,  # no plan gives credits back
        None,
        named.get("actor"),
        named.get("reason"),
    )


async def apply_caps(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Apply the caps of lots that have come to their date, ahead of whatever else the requests ask for."""
    return await made.of("apply_caps", made.opened.rows(request for request, _ in fresh), made.low)


async def take(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Decide downward adjustments."""
    requests: list[Request[CreditsAdjusted]] = [request for request, _ in fresh]
    return await made.of(
        "take",
        made.opened.rows(requests),
        [-request.event.data.credits for request in requests],
        [request.event.data.actor for request in requests],
        [request.event.data.reason for request in requests],
        made.low,
        made.waited_for,
    )


async def cancel(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Decide cancels."""
    requests: list[Request[SubscriptionCancelled]] = [request for request, _ in fresh]
    return await made.of(
        "cancel",
        made.opened.rows(requests),
        [request.event.data.subscription_id for request in requests],
        [request.event.data.effective_at for request in requests],
        made.low,
    )


async def take_back(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Decide cancellations taken back."""
    requests: list[Request[CancellationTakenBack]] = [request for request, _ in fresh]
    return await made.of(
        "take_back",
        made.opened.rows(requests),
        [request.event.data.subscription_id for request in requests],
        made.low,
    )


async def void(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Decide voids of what an event granted."""
    requests: list[Request[GrantVoided]] = [request for request, _ in fresh]
    return await made.of(
        "void_grant",
        made.opened.rows(requests),
        [request.event.data.grant_id for request in requests],
        [request.event.data.reason for request in requests],
        made.low,
    )


async def erase(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Decide erasures."""
    return await made.of("erase", made.opened.rows(request for request, _ in fresh))


async def refuse(made: Call, fresh: Sequence[Fresh]) -> list[Entry]:
    """Answer requests whose id was used before with another body."""
    return await made.of("refuse", made.opened.rows(request for request, _ in fresh))
