"""The oracle's rules of what travels on inmail.send-requests: sends, and the reports that undo them."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from tests.ledger.oracle_calendar import Period, anchored
from tests.ledger.oracle_case import Case
from tests.ledger.oracle_periods import credits_lacking, month_of, plan_at, tell_of
from tests.ledger.oracle_state import Lot, Row, Subscription

__all__ = ["RULES", "burn_down", "report_details"]

DAY = timedelta(hours=24)
RESPONSE_DAYS = 90 * DAY
MONTHS_AHEAD = 14
FINAL = ("reversed", "lot_ended")


def send(case: Case) -> None:
    """Rules 1, 7 and 8, in order of precedence: to oneself, free, over a limit, one credit, none left."""
    lots = burn_down(case)
    limit = exceeded_limit(case)
    if case.data("recipient_id") == (case.data("sender_id") or case.account.account):
        case.answer("recipient_is_sender")
    elif case.data("relationship") in case.terms.free_relationships:
        case.answer("free")
    elif limit:
        case.answer("rate_limited", details=limit)
    elif lots:
        case.answer("charged", -1, lots[0])
        case.notice_after_all()
    elif case.refuse_for_want("insufficient_credits", next_allotment_at=next_allotment(case)):
        case.notice_after_all()


def burn_down(case: Case) -> list[Lot]:
    """Return what can be spent now in the order it is: priority, then the first to expire, then the older."""
    lots = [lot for lot in case.account.lots if lot.spendable(case.now) and lot.remaining]
    return sorted(lots, key=lambda lot: (lot.priority, lot.expires_at, lot.lot))


# -- rule 9: limits ---------------------------------------------------------------------------------------------------


def exceeded_limit(case: Case) -> dict[str, Any] | None:
    """Rule 9: the account's limit, then the seat's, then the recipient's cool-down; a limit of 0 is none."""
    to_recipient = charged_since(case, case.terms.recipient_cooldown, recipient_id=case.data("recipient_id"))
    return (
        over(case.terms.paid_sends_per_day, charged_since(case, DAY), DAY, "account")
        or (case.data("sender_id") and over_seat(case))
        or over(1, to_recipient, case.terms.recipient_cooldown, "recipient")
    )


def over_seat(case: Case) -> dict[str, Any] | None:
    """Rule 9: a pooled seat's limit is checked like the account's, where the send names a seat."""
    of_seat = charged_since(case, DAY, sender_id=case.data("sender_id"))
    return over(case.terms.seat_sends_per_day, of_seat, DAY, "seat")


def charged_since(case: Case, window: timedelta, **columns: str) -> list[datetime]:
    """Return when the charged sends of the half-open window before now were made. Reversed ones count.

    So do those that a clock which was set back since let in ahead of now, by less than the window.
    """
    return sorted(
        row.as_of
        for row in case.account.journal
        if row.code == "charged"
        and case.now - window < row.as_of < case.now + window
        and all(getattr(row, name) == value for name, value in columns.items())
    )


def over(allowed: int, sends: list[datetime], window: timedelta, name: str) -> dict[str, Any] | None:
    """Return the limit that was reached, and the first instant that it alone lets a send pass again."""
    if allowed and len(sends) >= allowed:
        return {"limit": name, "retry_at": sends[-allowed] + window}
    return None


# -- rule 8: the next allotment ---------------------------------------------------------------------------------------


def next_allotment(case: Case) -> datetime | None:
    """Rule 8: the first date after now on which a subscription will give credits, as far as is known.

    That is the date of a lot that waits, or of a period to come that nothing tells of yet.
    """
    dates = [
        date
        for subscription_id, subscription in case.account.subscriptions.items()
        for date in (*waiting(case, subscription_id), *unread(case, subscription_id, subscription))
        if not subscription.ended(date)
    ]
    return min(dates, default=None)


def waiting(case: Case, subscription_id: str) -> list[datetime]:
    """Return when the lots start that are open and have not started; not those that a cancel leaves no life."""
    lots = case.account.lots_of(subscription_id)
    return [lot.granted_at for lot in lots if not lot.started(case.now) and not lot.ended(lot.granted_at)]


def unread(case: Case, subscription_id: str, subscription: Subscription) -> list[datetime]:
    """Return when periods to come start for which something will be given. One that was withdrawn stays used."""
    due = renewals_due(case, subscription_id, subscription)
    dates = [each for each in due if not tell_of(case.account, subscription_id, month_of(each))]
    return dates + [
        period.start
        for period in periods_ahead(case, subscription)
        if credits_lacking(case, subscription_id, subscription.plan or "", subscription.credits, period)
    ]


def renewals_due(case: Case, subscription_id: str, subscription: Subscription) -> Iterator[datetime]:
    """Rule 8: the next period is due where one ends that billing told of, if credits are given then.

    Of periods that overlap, the later one tells. After the latest event the dates are derived from the anchor as well.
    """
    told = case.account.allotments_of(subscription_id)
    for lot in told:
        assert lot.period_start
        assert lot.period_end
        followers = [other for other in told if other.period_start and lot.period_start < other.period_start]
        is_followed = any(other.granted_at < lot.period_end for other in followers)
        if lot.period_end > case.now and not is_followed and is_followed_by_credits(case, subscription, lot):
            yield lot.period_end


def is_followed_by_credits(case: Case, subscription: Subscription, lot: Lot) -> bool:
    """Whether the plan gives credits when a lot's period ends, as far as the books know.

    Before the latest event's period that is the plan of the day, which the books know by its lots alone. Later on it is
    the latest event's, if that event told of the lot's period or the plan has gone on.
    """
    assert lot.subscription_id
    assert lot.period_start
    assert lot.period_end
    if not subscription.period_start:
        return False
    plan, gives = subscription.plan, subscription.credits > 0
    if lot.period_end < subscription.period_start:
        then = plan_at(case, lot.subscription_id, lot.period_end)
        lots = case.account.lots_of(lot.subscription_id)
        return gives if then == plan else any(other.plan == then for other in lots)
    if lot.period_start == subscription.period_start:
        return gives
    return gives and lot.period_start > subscription.period_start and lot.plan == plan


def periods_ahead(case: Case, subscription: Subscription) -> Iterator[Period]:
    """Rule 11: the months of the anchored dates after now, for fourteen months, if the plan gives credits."""
    if not subscription.credits or not subscription.period_start:
        return
    horizon = anchored(case.now, case.now.day, MONTHS_AHEAD)
    for months in count():
        date, following = (
            anchored(subscription.period_start, subscription.anchor_day, number) for number in (months, months + 1)
        )
        if date > horizon:
            return
        if date > case.now:
            yield Period(date, following)


# -- rule 13: reports -------------------------------------------------------------------------------------------------


def report(case: Case) -> None:
    """Rule 13 (and rule 1 for an answered send): one credit back to its own lot, at most once for a send."""
    sent = sent_by(case)
    details = report_details(case)
    if sent is None:
        case.answer("unknown_send", details=details)
    elif sent.code != "charged":
        case.answer("not_charged", details=details)
    elif any(row.code in FINAL and row.reverses == sent.sequence for row in case.account.journal):
        case.answer("already_reversed", details=details)
    elif refusal := response_refused(case, sent):
        case.answer(refusal, details=details)
    else:
        give_back(case, sent)


def sent_by(case: Case) -> Row | None:
    """Return the answer to the send that a report names. A conflicting body never became a send."""
    for request, row in case.account.answers:
        is_send = request.type == "inmail.send.requested.v1" and row.code != "key_conflict"
        if request.request_id == case.data("send_id") and is_send:
            return row
    return None


def response_refused(case: Case, sent: Row) -> str | None:
    """Rule 1: an answer gives the credit back only where the lot's plan says so, and within 90 days of the send."""
    if case.request.type != "inmail.recipient.responded.v1":
        return None
    if not lot_of(case, sent).credit_back:
        return "no_credit_back"
    return "response_too_late" if case.now >= sent.as_of + RESPONSE_DAYS else None


def give_back(case: Case, sent: Row) -> None:
    """Rule 13: the credit keeps its lot and its expiry; one whose lot has ended is recorded and not revived."""
    lot = lot_of(case, sent)
    code, amount = ("lot_ended", 0) if lot.ended(case.now) else ("reversed", 1)
    case.answer(code, amount, lot, reverses=sent.sequence, details=report_details(case))
    case.notice_after_all()


def lot_of(case: Case, sent: Row) -> Lot:
    """Return the lot that paid for a send."""
    assert sent.lot
    return case.account.lots[sent.lot - 1]


def report_details(case: Case) -> dict[str, Any] | None:
    """Return what every answer to a report tells."""
    causes = {"inmail.send.undeliverable.v1": "undeliverable", "inmail.recipient.responded.v1": "responded"}
    cause = causes.get(case.request.type)
    return {"send_id": case.data("send_id"), "cause": cause} if cause else None


RULES = {
    "inmail.send.requested.v1": send,
    "inmail.send.undeliverable.v1": report,
    "inmail.recipient.responded.v1": report,
}
