"""The oracle's rules of what opens lots, plan changes aside: allotments, gifts, purchases; and the cap on them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.ledger.oracle_calendar import Period
from tests.ledger.oracle_case import Case
from tests.ledger.oracle_periods import (
    anchor_told_by,
    bound_of,
    change_at,
    credits_lacking,
    is_outdated,
    lots_against,
    lots_of_told_change,
    lots_that_tell_of,
    periods_of,
    plan_at,
    plan_begun,
)
from tests.ledger.oracle_refused import enforce_refused
from tests.ledger.oracle_state import Lot

__all__ = [
    "RULES",
    "Opening",
    "cut_after_grant",
    "cut_to_cap",
    "give",
    "note_subscription",
    "note_told",
    "open_allotments",
    "opening_of",
    "told_of",
]


@dataclass(frozen=True)
class Opening:
    """A lot to open: for a period, or as what a lot that stays lacks to the credits of a new plan."""

    period: Period
    credits: int
    tops_up: Lot | None = None


# -- rule 11: allotments ----------------------------------------------------------------------------------------------


def allot(case: Case) -> None:
    """Rules 10 and 11: a period before the subscription's end is granted, once, whatever the event ids say.

    A renewal of the new plan that begins a moment before the change is the change, told by another system.
    """
    subscription = case.account.subscription(case.data("subscription_id"))
    periods = periods_of(case)
    openings = [opening for period in periods if (opening := opening_of(case, period))]
    told_change = lots_of_told_change(case)
    if told_change:
        openings = [opening for opening in openings if opening.period is not periods[0]]
    if subscription.ended(case.data("period_start")):
        case.answer("subscription_ended", details=told_of(case))
    elif not openings:
        plan = case.data("plan")
        known = lots_against(case.account, case.data("subscription_id"), periods[0], plan)
        known.sort(key=lambda lot: (lot.plan != plan, lot.lot))
        first, *_ = told_change or known
        case.answer("period_already_granted", details=told_of(case) | {"grant_id": first.request_id})
    else:
        note_told(case, openings[0].period.start)
        note_subscription(case, openings[0].period.start)
        enforce_refused(case, openings[0].period.start)
        if case.terms.plans[case.data("plan")].credits == 0:
            case.answer("no_credits_in_plan", details=told_of(case))
        else:
            open_allotments(case, openings)
            cut_after_grant(case)
        case.notice_after_all()


def opening_of(case: Case, period: Period) -> Opening | None:
    """Return what an allotment opens for a month; beside a lot of the same start it is what that lacks."""
    plan = case.data("plan")
    credits_ = credits_lacking(case, case.data("subscription_id"), plan, case.terms.plans[plan].credits, period)
    if credits_ is None:
        return None
    same = [lot for lot in lots_that_tell_of(case, period) if lot.period_start == period.start]
    return Opening(period, credits_, same[0] if same else None)


def cut_after_grant(case: Case) -> None:
    """Rules 5 and 12: what is read after plan changes that have begun counts as if they had been read after it.

    The caps of its own time count for what had started by then; what a change would have forfeited of it is; and the
    caps of later plans, for what they gave too. Where no change has begun, the cap counts now.
    """
    lots = case.account.lots_of(case.data("subscription_id"))
    if not any(lot.request_id == case.request.request_id and lot.spendable(case.now) for lot in lots):
        return
    bound = bound_of(case)
    changes = case.account.subscription(case.data("subscription_id")).changes
    others = [each for each, plan in changes.items() if bound and bound <= each and plan != case.data("plan")]
    bound = min(others, default=None)  # what is not in force takes nothing
    begun = [each for each in sorted(changes) if bound and bound <= each <= case.now]
    for change in [*begun, None]:
        started = [lot for lot in lots if lot.spendable(case.now) and (change is None or lot.granted_at < change)]
        newest = max(started, key=lambda lot: (lot.granted_at, lot.lot), default=None)
        if newest and newest.balance_cap is not None:
            cut_to_cap(case, newest, case.now, change)
        if change and change == bound:
            forfeit_late(case, change)


def forfeit_late(case: Case, change: datetime) -> None:
    """Rule 12: what is read after a plan change closes as the change would have, had it been read as it began."""
    for lot in case.account.lots_of(case.data("subscription_id")):
        assert lot.period_start
        is_ours = lot.request_id == case.request.request_id and lot.period_start < change
        if is_ours and lot.open and lot.spendable(case.now) and lot.on_change == "forfeit":
            details = {"subscription_id": lot.subscription_id, "plan": lot.plan, "reason": "plan_changed"}
            case.close(lot, "forfeited", details)


def open_allotments(case: Case, openings: list[Opening], *, answered: bool = False) -> None:
    """Open lots in date order, the first as the answer if there is none yet. The cap of one that waits is to come."""
    for index, opening in enumerate(openings):
        lot = allotment(case, opening)
        lot.cap_pending = lot.balance_cap is not None and not lot.started(case.now)
        details = told_of(case) | {"origin": "subscription"}
        details |= {"period_start": lot.period_start, "granted_at": lot.granted_at}
        if opening.tops_up:
            details["tops_up"] = opening.tops_up.lot
        open_lot(case, lot, details, is_answer=not answered and index == 0)


def allotment(case: Case, opening: Opening) -> Lot:
    """Rules 4 and 5: it lives from its period's start, late or early event alike; without rollover, to its end.

    What tops up a lot begins and ends with that; but where nothing of that counts, it ends like any other.
    """
    plan = case.terms.plans[case.data("plan")]
    period = opening.period
    full = period.start + case.terms.validity
    expires_at = full if plan.rollover else min(full, period.end)
    lot = Lot(
        lot=len(case.account.lots) + 1,
        origin="subscription",
        request_id=case.request.request_id,
        priority=case.terms.priorities["subscription"],
        granted=opening.credits,
        granted_at=period.start,
        expires_at=expires_at,
        full_expires_at=expires_at,
        subscription_id=case.data("subscription_id"),
        plan=case.data("plan"),
        period_start=period.start,
        period_end=period.end,
        on_change=plan.on_change,
        credit_back=plan.credit_back_on_response,
        balance_cap=plan.balance_cap if case.terms.apply_balance_caps else None,
    )
    if opening.tops_up:
        lot.tops_up = opening.tops_up.lot
        lot.period_start, lot.granted_at = opening.tops_up.period_start, opening.tops_up.granted_at
        if opening.credits < plan.credits:
            lot.period_end = opening.tops_up.period_end
            lot.expires_at = lot.full_expires_at = opening.tops_up.full_expires_at
    clamp_to_end(case, lot)
    return lot


def clamp_to_end(case: Case, lot: Lot) -> None:
    """Rule 10: a grant that arrives after the cancel gets the lot it would have had before it."""
    ends_at = case.account.subscription(case.data("subscription_id")).ends_at
    if ends_at:
        lot.expires_at = max(lot.granted_at, min(lot.expires_at, ends_at))


def note_subscription(case: Case, start: datetime, *, even_earlier: bool = False) -> None:
    """Keep what the latest period says of plan, credits and anchor day, to name the next allotment (rule 8).

    `start`: of its first month that no other event has: one before that may be another plan's.
    `even_earlier`: also if a later period was noted, since it is none any more.
    """
    subscription = case.account.subscription(case.data("subscription_id"))
    if subscription.period_start and start < subscription.period_start and not even_earlier:
        return
    if is_outdated(case):
        return
    subscription.plan = case.data("plan")
    subscription.credits = case.terms.plans[case.data("plan")].credits
    subscription.anchor_day = anchor_told_by(case)
    subscription.period_start = start


def note_told(case: Case, start: datetime) -> None:
    """Remember a period of another plan than the one known that no lot tells of.

    Its plan gives 0 credits; or the latest change before was to another plan.
    """
    subscription_id, plan = case.data("subscription_id"), case.data("plan")
    if is_outdated(case) or plan_begun(case, subscription_id, start) == plan:
        return
    change = change_at(case.account, subscription_id, start)
    told = case.account.subscription(subscription_id).told
    told.pop(start, None)
    if case.terms.plans[plan].credits == 0 or (change and change.plan != plan):
        told[start] = plan


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


def cut_to_cap(case: Case, allotment: Lot, instant: datetime, before: datetime | None = None) -> None:
    """Rule 5: what a subscription's spendable lots hold above the cap is taken, soonest to expire first.

    `before`: only what has started before that counts.
    """
    assert allotment.subscription_id
    assert allotment.balance_cap is not None
    lots = [lot for lot in case.account.lots_of(allotment.subscription_id) if lot.spendable(instant)]
    lots = [lot for lot in lots if before is None or lot.granted_at < before]
    excess = sum(lot.remaining for lot in lots) - allotment.balance_cap
    for lot in sorted(lots, key=lambda lot: (lot.expires_at, lot.lot)):
        share = min(lot.remaining, max(excess, 0))
        if share:
            details = {"subscription_id": allotment.subscription_id, "cap": allotment.balance_cap}
            case.book("cap_forfeited", -share, lot, details=details)
            excess -= share


# -- rules 3 and 6: gifts and purchases -------------------------------------------------------------------------------


def promotion(case: Case) -> None:
    """Rule 6: a promotion gives credits without a subscription."""
    give(case, "promotion", told_of(case))


def survey(case: Case) -> None:
    """Rule 6: an answered survey gives credits without a subscription."""
    give(case, "survey", told_of(case))


def purchase(case: Case) -> None:
    """Rule 3: credits are sold on their own only where the plan that an unended subscription has now says so."""
    plans = [
        case.terms.plans.get(plan_at(case, subscription_id, case.now) or "")
        for subscription_id, subscription in case.account.subscriptions.items()
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
    "inmail.promotion.granted.v1": promotion,
    "inmail.survey.granted.v1": survey,
    "inmail.credits.purchased.v1": purchase,
}
