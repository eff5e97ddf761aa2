"""The oracle's rules of what opens lots: allotments, plan changes, gifts, purchases; and the cap on them."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.ledger.oracle_case import Case
from tests.ledger.oracle_state import Lot, anchored

__all__ = ["RULES", "cut_to_cap", "give", "told_of"]

MONTHS = 12


@dataclass(frozen=True)
class Period:
    """One month, or whatever billing calls a period, of a subscription: [start, end)."""

    start: datetime
    end: datetime


# -- rule 11: allotments ----------------------------------------------------------------------------------------------


def allot(case: Case) -> None:
    """Rules 10 and 11: a period before the subscription's end is granted, once, whatever the event ids say."""
    if case.account.subscription(case.data("subscription_id")).ended(case.data("period_start")):
        case.answer("subscription_ended", details=told_of(case))
    elif not (periods := periods_left(case)):
        case.answer("period_already_granted", details=told_of(case))
    else:
        open_allotments(case, periods)


def periods_of(case: Case) -> list[Period]:
    """Rule 11: a monthly event names one period; an annual one has up to twelve, dated by the anchor day."""
    start, end = case.data("period_start"), case.data("period_end")
    if case.data("term") != "annual":
        return [Period(start, end)]
    anchor_day = case.data("anchor_day") or start.day
    dates = [anchored(start, anchor_day, month) for month in range(MONTHS)]
    starts = [date for date in dates if date < end]
    return [Period(*pair) for pair in zip(starts, [*starts[1:], end], strict=True)]


def periods_left(case: Case) -> list[Period]:
    """Rule 11: one allotment per subscription and period start. A period that a plan change freed can be had again."""
    lots = case.account.lots_of(case.data("subscription_id"))
    used = {lot.period_start for lot in lots if not lot.freed}
    return [period for period in periods_of(case) if period.start not in used]


def open_allotments(case: Case, periods: list[Period]) -> None:
    """Open a lot for each period, in date order, and apply the cap. A plan of 0 credits is accepted and opens none."""
    note_subscription(case)
    plan = case.terms.plans[case.data("plan")]
    if plan.credits == 0:
        case.answer("no_credits_in_plan", details=told_of(case))
    else:
        lots = [open_allotment(case, period, first=period is periods[0]) for period in periods]
        apply_cap(case, lots)
    case.notice_after_all()


def open_allotment(case: Case, period: Period, *, first: bool) -> Lot:
    """Rules 4 and 5: it lives from its period's start, late or early event alike; without rollover, to its end."""
    plan = case.terms.plans[case.data("plan")]
    full = period.start + case.terms.validity
    lot = Lot(
        lot=len(case.account.lots) + 1,
        origin="subscription",
        request_id=case.request.request_id,
        priority=case.terms.priorities["subscription"],
        granted=plan.credits,
        granted_at=period.start,
        expires_at=full if plan.rollover else min(full, period.end),
        full_expires_at=full if plan.rollover else min(full, period.end),
        subscription_id=case.data("subscription_id"),
        plan=case.data("plan"),
        period_start=period.start,
        on_change=plan.on_change,
        credit_back=plan.credit_back_on_response,
        balance_cap=plan.balance_cap if case.terms.apply_balance_caps else None,
    )
    clamp_to_end(case, lot)
    details = told_of(case) | {
        "origin": "subscription",
        "period_start": period.start,
        "granted_at": lot.granted_at,
    }
    open_lot(case, lot, details, is_answer=first)
    return lot


def clamp_to_end(case: Case, lot: Lot) -> None:
    """Rule 10: a grant that arrives after the cancel gets the lot it would have had before it."""
    ends_at = case.account.subscription(case.data("subscription_id")).ends_at
    if ends_at:
        lot.expires_at = max(lot.granted_at, min(lot.expires_at, ends_at))


def note_subscription(case: Case) -> None:
    """Keep what the latest period says of plan, credits and anchor day, to name the next allotment (rule 8)."""
    subscription = case.account.subscription(case.data("subscription_id"))
    start = case.data("period_start")
    if subscription.period_start and start < subscription.period_start:
        return
    subscription.plan = case.data("plan")
    subscription.credits = case.terms.plans[case.data("plan")].credits
    subscription.anchor_day = case.data("anchor_day") or anchor_day_told_by(start, subscription.anchor_day)
    subscription.period_start = start


def anchor_day_told_by(start: datetime, known: int) -> int:
    """Rule 11: the last of a short month stands for the later day that the subscription is anchored to."""
    is_last = start.day == monthrange(start.year, start.month)[1]
    return max(known, start.day) if is_last else start.day


def told_of(case: Case) -> dict[str, Any]:
    """Return what answers tell of the period, or of the gift, that their event named."""
    sources = [case.data(name) for name in ("promotion_id", "survey_id", "purchase_id") if case.data(name)]
    if sources:
        return {"source_id": sources[0]}
    if not case.data("plan"):
        return {}
    return {name: case.data(name) for name in ("subscription_id", "plan", "period_start")}


def open_lot(case: Case, lot: Lot, details: dict[str, Any], *, is_answer: bool) -> None:
    """Open a lot and book its credits."""
    case.account.lots.append(lot)
    book = case.answer if is_answer else case.book
    book("granted", lot.granted, lot, details=details)


# -- rule 5: the cap --------------------------------------------------------------------------------------------------


def apply_cap(case: Case, lots: list[Lot]) -> None:
    """Rule 5: the cap counts at the grant; for a lot that starts later, at its date."""
    for lot in lots:
        lot.cap_pending = lot.balance_cap is not None and not lot.started(case.now)
    if lots[0].balance_cap is not None and lots[0].spendable(case.now):
        cut_to_cap(case, lots[0], case.now)


def cut_to_cap(case: Case, allotment: Lot, instant: datetime) -> None:
    """Rule 5: what a subscription's spendable lots hold above the cap is taken, soonest to expire first."""
    assert allotment.subscription_id
    assert allotment.balance_cap is not None
    lots = [lot for lot in case.account.lots_of(allotment.subscription_id) if lot.spendable(instant)]
    excess = sum(lot.remaining for lot in lots) - allotment.balance_cap
    for lot in sorted(lots, key=lambda lot: (lot.expires_at, lot.lot)):
        share = min(lot.remaining, max(excess, 0))
        if share:
            details = {"subscription_id": allotment.subscription_id, "cap": allotment.balance_cap}
            case.book("cap_forfeited", -share, lot, details=details)
            excess -= share


# -- rule 12: plan changes --------------------------------------------------------------------------------------------


def change_plan(case: Case) -> None:
    """Rule 12: what the old plan gave ends as it says, and the new plan grants for the change's own period."""
    if case.account.subscription(case.data("subscription_id")).ended(case.data("period_start")):
        case.answer("subscription_ended", details=told_of(case))
    elif period_has_begun(case):
        case.answer("period_already_granted", details=told_of(case))
    else:
        close_old_lots(case)
        open_allotments(case, periods_left(case))


def period_has_begun(case: Case) -> bool:
    """Whether the change's period was granted and cannot be given back: its lot has started or is closed."""
    return any(
        lot.started(case.now) or not lot.open
        for lot in case.account.lots_of(case.data("subscription_id"))
        if lot.period_start == case.data("period_start") and not lot.freed
    )


def close_old_lots(case: Case) -> None:
    """Rule 12: later lots that have not started make room; of those that have, `on_change: forfeit` closes some."""
    for lot in case.account.lots_of(case.data("subscription_id")):
        assert lot.period_start
        details = {"subscription_id": lot.subscription_id, "plan": lot.plan, "reason": "plan_changed"}
        if lot.open and not lot.started(case.now) and lot.period_start >= case.data("period_start"):
            case.close(lot, "forfeited", details)
            lot.freed = True
        elif lot.spendable(case.now) and lot.on_change == "forfeit":
            case.close(lot, "forfeited", details)


# -- rules 3 and 6: gifts and purchases -------------------------------------------------------------------------------


def promotion(case: Case) -> None:
    """Rule 6: a promotion gives credits without a subscription."""
    give(case, "promotion", told_of(case))


def survey(case: Case) -> None:
    """Rule 6: an answered survey gives credits without a subscription."""
    give(case, "survey", told_of(case))


def purchase(case: Case) -> None:
    """Rule 3: credits are sold on their own only where an unended subscription's plan says so."""
    plans = [
        case.terms.plans.get(subscription.plan or "")
        for subscription in case.account.subscriptions.values()
        if not subscription.ended(case.now)
    ]
    if any(plan and plan.separate_purchase for plan in plans):
        give(case, "purchase", told_of(case))
    else:
        case.answer("not_sold_separately", details=told_of(case))


def give(case: Case, origin: str, details: dict[str, Any]) -> None:
    """Rules 4 and 6: a gift is bound to no subscription and lives from the instant it is read."""
    lot = Lot(
        lot=len(case.account.lots) + 1,
        origin=origin,
        request_id=case.request.request_id,
        priority=case.terms.priorities[origin],
        granted=case.data("credits"),
        granted_at=case.now,
        expires_at=case.now + case.terms.validity,
        full_expires_at=case.now + case.terms.validity,
    )
    open_lot(case, lot, details | {"origin": origin, "granted_at": lot.granted_at}, is_answer=True)
    case.notice_after_all()


RULES = {
    "inmail.subscription.activated.v1": allot,
    "inmail.subscription.renewed.v1": allot,
    "inmail.subscription.plan-changed.v1": change_plan,
    "inmail.promotion.granted.v1": promotion,
    "inmail.survey.granted.v1": survey,
    "inmail.credits.purchased.v1": purchase,
}
