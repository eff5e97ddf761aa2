"""The oracle's rules of ticks: what they book for each account, and in which order."""

from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from tests.ledger.oracle_case import Case
from tests.ledger.oracle_grants import cut_to_cap
from tests.ledger.oracle_state import Account, Lot, Request, Row, Terms

__all__ = ["Tick", "tick", "warn_of_expiry"]


@dataclass
class Tick:
    """What a tick answers: how many ended lots it closed, what expired with them, and the rows it booked."""

    code: str = "booked"
    lots: int = 0
    credits: int = 0
    repeat: bool = False
    rows: list[Row] = field(default_factory=list)


def tick(terms: Terms, accounts: list[Account], request: Request, horizon: datetime) -> Tick:
    """Rule 15: book what has ended up to the horizon. Nothing depends on when this happens but the lines."""
    answer = Tick()
    for account in accounts:
        case = Case(terms, account, request, "expiry")
        apply_pending_caps(case, horizon)
        answer.lots += book_ended(case, horizon)
        expired = [row for row in case.rows if row.code == "expired"]
        answer.credits -= sum(row.amount for row in expired)
        if expired:
            case.notice_after_all()
        warn_of_expiry(case, horizon)
        answer.rows += case.rows
    return answer


def book_ended(case: Case, horizon: datetime) -> int:
    """Rule 15: a line for each lot that ended with credits left; one that ended empty is closed without a line."""
    ended = [lot for lot in case.account.lots if lot.open and lot.expires_at <= horizon]
    for lot in sorted(ended, key=expiry_order):
        case.close(lot, "expired")
    return len(ended)


def apply_pending_caps(case: Case, until: datetime) -> None:
    """Rule 5: an allotment opened ahead of its date is capped at that date, once, by what comes first from then on.

    Each as of its own date, so that it does not matter what comes, nor when.
    """
    pending = [lot for lot in case.account.lots if lot.cap_pending and lot.started(until)]
    pending.sort(key=lambda lot: (lot.granted_at, lot.subscription_id or "", lot.lot))
    for (date, _), lots in groupby(pending, key=lambda lot: (lot.granted_at, lot.subscription_id)):
        *_, newest = lots
        cut_to_cap(case, newest, date)
    for lot in pending:
        lot.cap_pending = False
    if case.rows:
        case.notice_after_all()


def warn_of_expiry(case: Case, horizon: datetime) -> None:
    """What is left in a lot is announced when an end of it comes near: once for each end, never of an empty lot."""
    if case.account.erased_at:
        return
    held = [lot for lot in case.account.lots if lot.spendable(horizon) and lot.remaining]
    for lot in sorted(held, key=expiry_order):
        if lot.expires_at <= horizon + case.terms.expiring and lot.expires_at not in lot.announced_ends:
            lot.announced_ends.append(lot.expires_at)
            row = case.book("expiring_soon", 0, lot, details={"credits": lot.remaining})
            case.account.level = min(case.account.level, case.level(row.balance_after))  # what it tells was seen


def expiry_order(lot: Lot) -> tuple[datetime, int]:
    """Return what lots that end are sorted by."""
    return lot.expires_at, lot.lot
