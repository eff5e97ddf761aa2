"""The oracle's rules of which periods an event is about, which lots tell of them, and which plan a subscription has."""

from dataclasses import replace
from datetime import datetime

from tests.ledger.oracle_calendar import Period, anchor_of, months_of_term
from tests.ledger.oracle_case import Case
from tests.ledger.oracle_state import Account, Lot

__all__ = [
    "anchor_told_by",
    "is_outdated",
    "lots_of_same_change",
    "lots_that_tell_of",
    "next_change_of",
    "period_of",
    "periods_of",
    "plan_at",
    "tell_of",
]

PLAN_CHANGED = "inmail.subscription.plan-changed.v1"


def periods_of(case: Case) -> list[Period]:
    """Rule 11: a monthly event names one period; an annual one has up to twelve, dated by the anchor day.

    What begins when the next plan change has begun is that change's affair.
    """
    start, end = case.data("period_start"), case.data("period_end")
    annual = case.data("term") == "annual"
    first, *others = months_of_term(start, end, anchor_told_by(case)) if annual else [Period(start, end)]
    first = Period(first.start, first.end, begins_change=case.request.type == PLAN_CHANGED)
    if is_outdated(case):
        return [first]
    if next_change := next_change_of(case):
        others = [period for period in others if period.start < next_change]
    return [first, *others]


def is_outdated(case: Case) -> bool:
    """Whether an allotment starts where a known change to another plan does: it was sent without knowing of that."""
    changes = case.account.subscription(case.data("subscription_id")).changes
    plan = changes.get(case.data("period_start"))
    return case.request.type != PLAN_CHANGED and plan is not None and plan != case.data("plan")


def next_change_of(case: Case) -> datetime | None:
    """Return where the first known plan change begins that is later than the event's own period."""
    changes = case.account.subscription(case.data("subscription_id")).changes
    return min((each for each in changes if each > case.data("period_start")), default=None)


def anchor_told_by(case: Case) -> int:
    """Rule 11: the anchor day of an event, as it says itself or as the subscription's latest period has it."""
    known = case.account.subscription(case.data("subscription_id"))
    return anchor_of(
        case.data("period_start"),
        case.data("anchor_day"),
        (known.period_start, known.anchor_day) if known.period_start else None,
    )


def period_of(account: Account, lot: Lot) -> Period:
    """Return the period that a lot of a subscription is for."""
    assert lot.subscription_id
    assert lot.period_start
    assert lot.period_end
    changes = account.subscription(lot.subscription_id).changes
    return Period(lot.period_start, lot.period_end, begins_change=lot.period_start in changes)


def tell_of(account: Account, subscription_id: str, period: Period) -> list[Lot]:
    """Rule 11: the allotments of a subscription that are for the same period, voided ones too, in opening order."""
    return [lot for lot in account.allotments_of(subscription_id) if period.tells_of(period_of(account, lot))]


def lots_that_tell_of(case: Case, period: Period) -> list[Lot]:
    """Return the same for the event's subscription."""
    return tell_of(case.account, case.data("subscription_id"), period)


def lots_of_same_change(case: Case, end: datetime) -> list[Lot]:
    """Return the lots by which the event's change is known already, told by another system with a later start.

    They are at the start of the next change, if that is to the same plan and shares more than half of the shorter
    period; those of the plan come first, then what stays there of another.
    """
    subscription_id, plan = case.data("subscription_id"), case.data("plan")
    next_change = next_change_of(case)
    if not next_change or case.account.subscription(subscription_id).changes[next_change] != plan:
        return []
    event = Period(case.data("period_start"), end)
    lots = [lot for lot in case.account.lots_of(subscription_id) if not lot.freed and lot.period_start == next_change]
    same = [lot for lot in lots if event.tells_of(replace(period_of(case.account, lot), begins_change=False))]
    return sorted(same, key=lambda lot: (lot.plan != plan, lot.lot))


def plan_at(case: Case, subscription_id: str, instant: datetime) -> str | None:
    """Return the plan of the latest period that began by an instant, as the latest event, plan changes and lots tell.

    A change may leave no lot of its own.
    """
    subscription = case.account.subscription(subscription_id)
    lots = [lot for lot in case.account.lots_of(subscription_id) if not lot.freed and lot.period_start]
    told = [(lot.period_start, 0, lot.lot, lot.plan) for lot in lots if lot.period_start]
    told += [(start, 1, 0, plan) for start, plan in subscription.changes.items()]
    if subscription.period_start:
        told.append((subscription.period_start, 2, 0, subscription.plan))
    return max((known for known in told if known[0] <= instant), default=(None, 0, 0, None))[3]
