"""The oracle's rules of which periods an event is about, which lots tell of them, and which plan a subscription has."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from tests.ledger.oracle_calendar import Period, anchor_of, anchored, months_of_term
from tests.ledger.oracle_case import Case
from tests.ledger.oracle_state import Account, Lot, Subscription

__all__ = [
    "PLAN_CHANGED",
    "Change",
    "anchor_told_by",
    "bound_of",
    "change_at",
    "credits_lacking",
    "is_change_told",
    "is_outdated",
    "lots_against",
    "lots_of_change",
    "lots_of_told_change",
    "lots_that_tell_of",
    "month_of",
    "months_told",
    "next_change_of",
    "periods_of",
    "plain_period_of",
    "plan_at",
    "plan_begun",
    "tell_of",
]

PLAN_CHANGED = "inmail.subscription.plan-changed.v1"
DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)


class Change(NamedTuple):
    """A plan change that a subscription knows: where it begins, to which plan it is, and where its own period ends."""

    start: datetime
    plan: str
    end: datetime

    @property
    def period(self) -> Period:
        """What is taken for its own period: a month at most."""
        return Period(self.start, min(self.end, anchored(self.start, self.start.day, 1)))


def periods_of(case: Case) -> list[Period]:
    """Rule 11: a monthly event names one period; an annual one has up to twelve, dated by the anchor day.

    What begins when the next change to another plan has begun is that change's affair.
    """
    first, *others = months_told(case)
    if is_outdated(case):
        return [first]
    if bound := bound_of(case):
        others = [period for period in others if period.start < bound]
    return [first, *others]


def months_told(case: Case) -> list[Period]:
    """Return the months of an event, whatever else is known."""
    start, end = case.data("period_start"), case.data("period_end")
    annual = case.data("term") == "annual"
    first, *others = months_of_term(start, end, anchor_told_by(case)) if annual else [Period(start, end)]
    return [Period(first.start, first.end, begins_change=case.request.type == PLAN_CHANGED), *others]


def is_outdated(case: Case) -> bool:
    """Whether an allotment was sent by who did not know of the plan change before it, whose plan is the one that holds.

    It is of the plan before the change, if that is known, and starts as the change does, or within a day of that, or
    tells of a month that has its lot from then on.
    """
    start, subscription_id = case.data("period_start"), case.data("subscription_id")
    change = change_at(case.account, subscription_id, start)
    if case.request.type == PLAN_CHANGED or not change or lots_of_told_change(case):
        return False
    if case.data("plan") == change.plan or plan_at(case, subscription_id, start) != change.plan:
        return False
    if plan_at(case, subscription_id, change.start - MOMENT) not in {None, case.data("plan")}:
        return False
    known = lots_that_tell_of(case, months_told(case)[0])
    return start < change.start + DAY or any(lot.period_start and lot.period_start >= change.start for lot in known)


def changes_seen(subscription: Subscription, plan: str | None) -> dict[datetime, str]:
    """Return where plan changes begin, and to which plan, as an event of a plan sees them.

    That is with those that were refused since they were to the plan then known: they end the event's plan.
    """
    refused = {start: each.plan for start, each in subscription.refused.items() if plan and each.plan != plan}
    return subscription.changes | refused


def bound_of(case: Case) -> datetime | None:
    """Return where the next change to another plan begins."""
    start, plan = case.data("period_start"), case.data("plan")
    changes = changes_seen(case.account.subscription(case.data("subscription_id")), plan)
    return min((each for each, to in changes.items() if each > start and to != plan), default=None)


def next_change_of(case: Case, start: datetime | None = None) -> datetime | None:
    """Return where the first known plan change begins that is later than the event's own period, or than `start`."""
    changes = changes_seen(case.account.subscription(case.data("subscription_id")), case.data("plan"))
    return min((each for each in changes if each > (start or case.data("period_start"))), default=None)


def change_at(account: Account, subscription_id: str, instant: datetime) -> Change | None:
    """Return the latest known plan change that begins by an instant."""
    subscription = account.subscription(subscription_id)
    begun = [start for start in subscription.changes if start <= instant]
    return change_of(subscription, max(begun)) if begun else None


def change_of(subscription: Subscription, start: datetime) -> Change:
    """Return the plan change that begins at an instant."""
    return Change(start, subscription.changes[start], subscription.change_ends[start])


def anchor_told_by(case: Case) -> int:
    """Rule 11: the anchor day of an event, as it says itself or as the subscription's latest period has it."""
    known = case.account.subscription(case.data("subscription_id"))
    return anchor_of(
        case.data("period_start"),
        case.data("anchor_day"),
        (known.period_start, known.anchor_day) if known.period_start else None,
    )


def tell_of(account: Account, subscription_id: str, period: Period, plan: str | None = None) -> list[Lot]:
    """Rule 11: the allotments of a subscription that are for the same period, voided ones too, in opening order.

    `plan`: of the period. A later change to the same plan begins nothing new where none to another one is between. Nor
    does the period of a change after a lot of the same plan that goes on.
    """
    subscription = account.subscription(subscription_id)
    seen = changes_seen(subscription, plan)
    others = [start for start, to in seen.items() if start > period.start and to != plan]
    new = {start for start in subscription.changes if plan is None or any(other <= start for other in others)}
    found = []
    for lot in account.allotments_of(subscription_id):
        begins_change = period.begins_change and not (lot.plan == plan and goes_on(account, lot, period.start))
        own = replace(period, begins_change=begins_change)
        if own.tells_of(replace(plain_period_of(lot), begins_change=lot.period_start in new)):
            found.append(lot)
    return found


def goes_on(account: Account, lot: Lot, start: datetime) -> bool:
    """Whether a lot is of the month, too, with which a change to its own plan begins later.

    Nothing tells of another plan between, and the lot does not count for the month of a change to another plan.
    """
    assert lot.subscription_id
    assert lot.period_start
    told = plans_told(account, lot.subscription_id)
    if any(lot.period_start <= each <= start and plan != lot.plan for each, _, _, plan in told):
        return False
    change = change_at(account, lot.subscription_id, lot.period_start)
    if not change or change.plan == lot.plan or not change.period.tells_of(plain_period_of(lot)):
        return True
    return account.subscription(lot.subscription_id).change_credits[change.start] == 0


def lots_against(account: Account, subscription_id: str, period: Period, plan: str) -> list[Lot]:
    """Return those of them that a plan's month is held against.

    What began before a change has no month after it, where the lot is of another plan, or the change is to this one and
    the lot does not go on.
    """
    change = change_at(account, subscription_id, period.start)
    known = tell_of(account, subscription_id, period, plan)
    if not change:
        return known
    return [
        lot
        for lot in known
        if lot.period_start
        if lot.period_start >= change.start
        or (lot.plan == plan and (change.plan != plan or goes_on(account, lot, change.start)))
    ]


def lots_that_tell_of(case: Case, period: Period) -> list[Lot]:
    """Return the same for the event's subscription."""
    return tell_of(case.account, case.data("subscription_id"), period)


def is_change_told(case: Case) -> bool:
    """Whether an event tells of the next plan change with an earlier start: two systems tell of one a moment apart.

    That change is to the same plan, and shares more than half of the shorter period with the event's first month.
    """
    next_change = next_change_of(case)
    subscription = case.account.subscription(case.data("subscription_id"))
    if not next_change or next_change not in subscription.changes:
        return False
    change = change_of(subscription, next_change)
    own = Period(change.start, change.end)
    return change.plan == case.data("plan") and months_told(case)[0].tells_of(own)


def lots_of_told_change(case: Case) -> list[Lot]:
    """Return the lots of the change that an allotment tells of with an earlier start, where it does."""
    next_change = next_change_of(case)
    return lots_of_change(case, next_change) if next_change and is_change_told(case) else []


def lots_of_change(case: Case, start: datetime) -> list[Lot]:
    """Return the lots of a change's own period: its own, or those that stay; the event's plan's come first."""
    subscription_id = case.data("subscription_id")
    known = [lot for lot in case.account.lots_of(subscription_id) if not lot.freed and lot.period_start]
    since = {lot.lot: change_at(case.account, subscription_id, lot.period_start) for lot in known if lot.period_start}
    own = [
        lot
        for lot in known
        if (change := since[lot.lot]) and change.start == start
        if lot.period_start == start or change.period.tells_of(plain_period_of(lot))
    ]
    return sorted(own, key=lambda lot: (lot.plan != case.data("plan"), lot.lot))


def plain_period_of(lot: Lot) -> Period:
    """Return the period that a lot is for, whether or not a plan change begins with it."""
    assert lot.period_start
    assert lot.period_end
    return Period(lot.period_start, lot.period_end)


def month_of(start: datetime) -> Period:
    """Return what is taken for the own period of a plan change, and for one that nothing tells of yet."""
    return Period(start, anchored(start, start.day, 1))


def stays_for_change(account: Account, lot: Lot) -> bool:
    """Whether a lot of an old plan has stayed for a change's own period, and begins later: it tells of no plan."""
    assert lot.subscription_id
    assert lot.period_start
    change = change_at(account, lot.subscription_id, lot.period_start)
    if not change or change.start == lot.period_start or change.plan == lot.plan:
        return False
    return change.period.tells_of(plain_period_of(lot))


def plan_at(case: Case, subscription_id: str, instant: datetime) -> str | None:
    """Return the plan at an instant: the latest event tells it from its period on, before that what began by then."""
    subscription = case.account.subscription(subscription_id)
    if subscription.period_start and subscription.period_start <= instant:
        return subscription.plan
    return plan_begun(case, subscription_id, instant)


def plan_begun(case: Case, subscription_id: str, instant: datetime) -> str | None:
    """Return the plan at an instant as the latest of what began by then tells it."""
    told = plans_told(case.account, subscription_id)
    return max((known for known in told if known[0] <= instant), default=(None, 0, 0, None))[3]


def plans_told(account: Account, subscription_id: str) -> list[tuple[datetime, int, int, str | None]]:
    """Return what tells of a plan, and from when on: a lot, a change, a period told.

    A change may leave no lot of its own, nor may a period. A period told counts before a change with the same start,
    which would have removed it.
    """
    subscription = account.subscription(subscription_id)
    lots = [lot for lot in account.lots_of(subscription_id) if not lot.freed and not stays_for_change(account, lot)]
    told = [(lot.period_start, 0, lot.lot, lot.plan) for lot in lots if lot.period_start]
    told += [(start, 1, 0, plan) for start, plan in subscription.changes.items()]
    told += [(start, 2, 0, plan) for start, plan in subscription.told.items()]
    return told


def credits_lacking(case: Case, subscription_id: str, plan: str, credits_: int, period: Period) -> int | None:
    """Rules 11, 12: what of a plan's credits an allotment gives for a month: all where none has its lot, or nothing.

    A lot of another plan that began after the change to this one does not have the month: that change, or the lot, was
    read late. It counts for what it gave and was not withdrawn, unless it has stayed for the change's own period.
    """
    known = lots_against(case.account, subscription_id, period, plan)
    if not known:
        return credits_
    change = change_at(case.account, subscription_id, period.start)
    if not change or change.plan != plan or change.period.tells_of(Period(period.start, period.end)):
        return None
    if any(lot.plan == plan or not lot.period_start or lot.period_start <= change.start for lot in known):
        return None
    counted = [lot.lot for lot in known if not change.period.tells_of(plain_period_of(lot))]
    topped_up = [*counted, *(lot.lot for lot in known if lot.period_start == period.start)]
    if any(lot.tops_up in topped_up and lot.plan == plan for lot in case.account.lots):  # this month's own already
        return None
    gave = [lot for lot in case.account.lots if lot.lot in counted or lot.tops_up in counted]
    left = credits_ - sum(lot.granted for lot in gave if not lot.withdrawn)
    return left if left > 0 else None
