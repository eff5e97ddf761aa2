"""The oracle's rule of plan changes that were refused since their plan was the one known at their start."""

from datetime import datetime, timedelta

from tests.ledger.oracle_case import Case
from tests.ledger.oracle_periods import anchor_told_by, is_outdated, months_told, next_change_of, plan_at
from tests.ledger.oracle_state import RefusedChange

__all__ = ["enforce_refused", "note_refused"]

MOMENT = timedelta(microseconds=1)


def note_refused(case: Case) -> None:
    """Remember a change that is refused since its plan is the one known: one before it may be read later."""
    subscription = case.account.subscription(case.data("subscription_id"))
    start, plan = case.data("period_start"), case.data("plan")
    if start in subscription.changes or plan_at(case, case.data("subscription_id"), start) != plan:
        return
    credits_, end = case.terms.plans[plan].credits, months_told(case)[0].end
    subscription.refused[start] = RefusedChange(plan, credits_, end, anchor_told_by(case))


def enforce_refused(case: Case, start: datetime) -> None:
    """Put a refused change in force, if an event has told of another plan from a start on and up to that change."""
    subscription = case.account.subscription(case.data("subscription_id"))
    then = next_change_of(case, start)
    refused = subscription.refused.get(then) if then else None
    if is_outdated(case) or not then or not refused or then in subscription.changes:
        return
    if plan_at(case, case.data("subscription_id"), then - MOMENT) == refused.plan:
        return
    subscription.changes[then], subscription.change_ends[then] = refused.plan, refused.end
    subscription.change_credits[then] = refused.credits
    if subscription.period_start and subscription.period_start < then:
        subscription.plan, subscription.credits = refused.plan, refused.credits
        subscription.period_start, subscription.anchor_day = then, refused.anchor_day
