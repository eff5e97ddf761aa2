"""The oracle's rule of plan changes: what ends, what stays, and what is granted for the new plan."""

from datetime import datetime

from tests.ledger.oracle_calendar import Period
from tests.ledger.oracle_case import Case
from tests.ledger.oracle_grants import (
    Opening,
    cut_after_grant,
    note_subscription,
    note_told,
    open_allotments,
    opening_of,
    told_of,
)
from tests.ledger.oracle_periods import (
    PLAN_CHANGED,
    bound_of,
    is_change_told,
    lots_against,
    lots_of_change,
    next_change_of,
    periods_of,
    plain_period_of,
    plan_at,
)
from tests.ledger.oracle_refused import enforce_refused, note_refused
from tests.ledger.oracle_state import Lot

__all__ = ["RULES"]


def change_plan(case: Case) -> None:
    """Rule 12: what the old plan gave ends as it says, and the new plan grants for the change's own periods."""
    start = case.data("period_start")
    periods = periods_of(case)
    kept = lots_against(case.account, case.data("subscription_id"), periods[0], case.data("plan"))
    voided = [lot for lot in kept if is_voided(case, lot) and case.now < lot.expires_at]
    if case.account.subscription(case.data("subscription_id")).ended(start):
        case.answer("subscription_ended", details=told_of(case))
    elif is_change_told(case) or is_unchanged(case):
        tell_again(case)
    elif voided:
        case.answer("period_already_granted", details=told_of(case) | {"grant_id": voided[0].request_id})
    else:
        close_old_lots(case)
        grant_new_plan(case, periods)
        cut_after_grant(case)
        case.notice_after_all()


def is_voided(case: Case, lot: Lot) -> bool:
    """Whether billing withdrew a lot. A plan change that forfeits one does not."""
    return any(row.lot == lot.lot and row.code == "voided" for row in case.account.journal)


def is_unchanged(case: Case) -> bool:
    """Whether a change is to the plan that is the one at its start.

    One that was refused, and is in force since another plan is known before it, gives its period once it is sent again.
    """
    subscription, start = case.account.subscription(case.data("subscription_id")), case.data("period_start")
    if start in subscription.refused and start in subscription.changes:
        return False
    return plan_at(case, case.data("subscription_id"), start) == case.data("plan")


def tell_again(case: Case) -> None:
    """Refuse a change to the plan that the subscription has already; of one told as an annual term open later months.

    That is, where it is known as a change with this start or a moment later, and told as a month.
    """
    is_known = is_change_told(case) or case.data("period_start") in changes_to(case, case.data("plan"))
    has_credits = case.terms.plans[case.data("plan")].credits > 0
    months = periods_of(case)[1:] if is_known and has_credits else []
    openings = [opening for month in months if (opening := opening_of(case, month))]
    if not openings:
        who = who_granted_next(case) if is_change_told(case) else who_granted(case)
        case.answer("plan_unchanged", details=told_of(case) | who)
        note_refused(case)
        return
    note_told(case, openings[0].period.start)
    note_subscription(case, openings[0].period.start)
    enforce_refused(case, openings[0].period.start)
    open_allotments(case, openings)
    cut_after_grant(case)
    case.notice_after_all()


def changes_to(case: Case, plan: str) -> list[datetime]:
    """Return where the known changes of the event's subscription begin that are to a plan."""
    changes = case.account.subscription(case.data("subscription_id")).changes
    return [start for start, to in changes.items() if to == plan]


def who_granted_next(case: Case) -> dict[str, object]:
    """Return the event that granted for the next change, which is to the same plan, if it opened a lot of that."""
    next_change = next_change_of(case)
    assert next_change
    lots = [lot for lot in lots_of_change(case, next_change) if lot.plan == case.data("plan")]
    return {"grant_id": lots[0].request_id} if lots else {}


def who_granted(case: Case) -> dict[str, object]:
    """Return the event that granted for the plan that the subscription has already, if one did."""
    lots = [lot for lot in case.account.lots_of(case.data("subscription_id")) if not lot.freed]
    known = [
        (lot.period_start, lot.lot, lot.request_id)
        for lot in lots
        if lot.plan == case.data("plan") and lot.period_start and lot.period_start <= case.data("period_start")
    ]
    return {"grant_id": max(known)[2]} if known else {}


def close_old_lots(case: Case) -> None:
    """Rule 12: the old plan's later lots that have not started make room, up to where the next change begins.

    Of what began before the change, `on_change: forfeit` closes some; a lot of its own period stays. A lot of the new
    plan that waits makes room for a month of the change that begins before it, up to the next change to another plan.
    """
    start = case.data("period_start")
    periods = periods_of(case)
    next_change, next_other_plan = next_change_of(case), bound_of(case)
    for lot in case.account.lots_of(case.data("subscription_id")):
        assert lot.period_start
        details = {"subscription_id": lot.subscription_id, "plan": lot.plan, "reason": "plan_changed"}
        told = plain_period_of(lot)
        is_same_plan = lot.plan == case.data("plan")
        bound = next_other_plan if is_same_plan else next_change
        makes_room = not is_same_plan or any(period.start < told.start and period.tells_of(told) for period in periods)
        is_later = start <= lot.period_start and (not bound or lot.period_start < bound)
        if lot.open and not lot.started(case.now) and is_later and makes_room:
            case.close(lot, "forfeited", details)
            lot.freed = True
        elif lot.spendable(case.now) and lot.period_start < start and lot.on_change == "forfeit":
            case.close(lot, "forfeited", details)


def grant_new_plan(case: Case, periods: list[Period]) -> None:
    """Rule 12: a lot for each period that has none; where one stays, what it lacks to the new plan's credits.

    The answer is the lot of the change's own period, or says which lot stays there.
    """
    note_change(case)
    subscription_id, plan = case.data("subscription_id"), case.data("plan")
    kept = {period: lots_against(case.account, subscription_id, period, plan) for period in periods}
    credits_ = case.terms.plans[plan].credits
    openings = [opening for period in periods if (opening := opening_for(case, period, kept[period], credits_))]
    stays = {"kept_lot": kept[periods[0]][0].lot} if kept[periods[0]] else {}
    if credits_ == 0:
        case.answer("no_credits_in_plan", details=told_of(case) | stays)
    elif openings and openings[0].period is periods[0]:
        open_allotments(case, openings)
    else:
        case.answer("plan_changed", details=told_of(case) | stays)
        open_allotments(case, openings, answered=True)


def opening_for(case: Case, period: Period, kept: list[Lot], credits_: int) -> Opening | None:
    """Return what a period gets: all credits, or the difference to what it was granted, or nothing.

    A lot that a later change has forfeited, since that was read first, is topped up all the same.
    """
    if not kept:
        return Opening(period, credits_) if credits_ else None
    numbers = [lot.lot for lot in kept]
    granted = sum(lot.granted for lot in case.account.lots if lot.lot in numbers or lot.tops_up in numbers)
    is_alive = kept[0].started(case.now) and case.now < kept[0].expires_at and not is_voided(case, kept[0])
    if credits_ > granted and is_alive:
        return Opening(period, credits_ - granted, kept[0])
    return None


def note_change(case: Case) -> None:
    """Remember where the change begins: earlier events say nothing of what follows, nor do early ones."""
    subscription = case.account.subscription(case.data("subscription_id"))
    is_other = subscription.plan != case.data("plan")
    bound = next_change_of(case) if is_other else bound_of(case)
    is_before_next = not bound or not subscription.period_start or subscription.period_start < bound
    known = case.account.lots_of(case.data("subscription_id"))
    noted = [lot.freed for lot in known if lot.period_start == subscription.period_start]
    is_none = is_other or (noted and all(noted))
    note_subscription(case, case.data("period_start"), even_earlier=bool(is_before_next and is_none))
    start, later = case.data("period_start"), next_change_of(case)
    subscription.told = {
        told: plan
        for told, plan in subscription.told.items()
        if told < start or plan == case.data("plan") or (later and told >= later)
    }
    end = periods_of(case)[0].end  # by what was known before
    subscription.changes[start], subscription.change_ends[start] = case.data("plan"), end
    subscription.change_credits[start] = case.terms.plans[case.data("plan")].credits
    subscription.refused.pop(start, None)
    enforce_refused(case, start)


RULES = {PLAN_CHANGED: change_plan}
