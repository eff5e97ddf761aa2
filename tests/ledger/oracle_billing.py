"""The oracle's rules of inmail.billing-events: cancels, voids, adjustments, erasure; what grants is beside it."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.ledger import oracle_changes, oracle_grants
from tests.ledger.oracle_case import Case
from tests.ledger.oracle_sends import burn_down
from tests.ledger.oracle_state import Lot

__all__ = ["RULES"]


# -- rule 10: cancels -------------------------------------------------------------------------------------------------


def cancel(case: Case) -> None:
    """Rule 10: the subscription ends at the earliest of its cancels, and its lots with it. No credit moves.

    A lot that had ended by itself keeps its end, whether it was booked or not.
    """
    subscription = case.account.subscription(case.data("subscription_id"))
    effective_at = case.data("effective_at")
    subscription.ends_at = min(subscription.ends_at or effective_at, effective_at)
    moved = move_ends(
        case,
        lambda lot: lot.expires_at if lot.ended(case.now) else clamp(lot, min(lot.expires_at, subscription.ends_at)),
    )
    details = (told_of(case) or {}) | {"effective_at": subscription.ends_at, "lot_ends": moved}
    case.answer("cancelled", balance_before=case.before, details=details)
    case.notice_after_all()


def take_back(case: Case) -> None:
    """Rule 10: before the end, a cancel can be taken back; the lots get the expiry they were opened with."""
    known = case.account.subscriptions.get(case.data("subscription_id"))
    details = told_of(case)
    if known is None or known.ends_at is None:
        case.answer("not_cancelled", details=details)
    elif known.ended(case.now):
        case.answer("subscription_ended", details=details)
    else:
        known.ends_at = None
        moved = move_ends(case, lambda lot: lot.full_expires_at)
        told = (details or {}) | {"lot_ends": moved}
        case.answer("cancellation_taken_back", balance_before=case.before, details=told)
        case.notice_after_all()


def move_ends(case: Case, end_of: Callable[[Lot], datetime]) -> list[dict[str, Any]]:
    """Give the subscription's open lots another end; return those whose end that is, for the answer."""
    moved = []
    for lot in open_lots(case):
        if (end := end_of(lot)) != lot.expires_at:
            lot.expires_at = end
            moved.append({"lot": lot.lot, "expires_at": end})
    return moved


def open_lots(case: Case) -> list[Lot]:
    """Return the lots of the event's subscription that are not closed, ended or not."""
    return [lot for lot in case.account.lots_of(case.data("subscription_id")) if lot.open]


def clamp(lot: Lot, expires_at: datetime) -> datetime:
    """Rule 10: a lot whose period starts after the end is clamped to nothing."""
    return max(lot.granted_at, expires_at)


# -- withdrawing ------------------------------------------------------------------------------------------------------


def void(case: Case) -> None:
    """Withdraw what one event granted: all of its lots that have not ended. Their periods stay used."""
    details = told_of(case)
    lots = [lot for lot in case.account.lots if lot.request_id == case.data("grant_id")]
    alive = [lot for lot in lots if not lot.ended(case.now)]
    if not lots:
        case.answer("unknown_grant", details=details)
    elif not alive:
        case.answer("grant_ended", details=details)
    else:
        answer_with_first(case, "voided", [(lot, lot.remaining) for lot in alive], details)
        for lot in alive:
            lot.close(withdrawn=True)
        case.notice_after_all()


def adjust(case: Case) -> None:
    """A correction by hand, with actor and reason: upward it grants, downward it takes by burn-down or is refused."""
    details = told_of(case) or {}
    if case.data("credits") > 0:
        oracle_grants.give(case, "adjustment", details)
        return
    wanted = -case.data("credits")
    if wanted > case.balance:
        case.refuse_for_want("exceeds_balance", details=details)
        return
    answer_with_first(case, "adjusted", shares(burn_down(case), wanted), details)
    case.notice_after_all()


def shares(lots: list[Lot], wanted: int) -> list[tuple[Lot, int]]:
    """Return how much each lot gives, in order, until enough is taken."""
    taken = []
    for lot in lots:
        share = min(lot.remaining, wanted)
        if share:
            taken.append((lot, share))
            wanted -= share
    return taken


def answer_with_first(case: Case, code: str, taken: list[tuple[Lot, int]], details: dict[str, Any]) -> None:
    """Rule 19: a row for each lot; the first is the answer, the others are movements that name it as their cause."""
    for index, (lot, credits_) in enumerate(taken):
        book = case.book if index else case.answer
        book(code, -credits_, lot, details=details)


def erase(case: Case) -> None:
    """Rule 20: the account closes with its lots; amounts stay. What had ended before is left to the tick."""
    case.answer("erased")
    case.account.erased_at = case.now
    for lot in case.account.lots:
        if not lot.ended(case.now):
            case.close(lot, "voided", {"reason": "account_erased"})
    case.account.level = 2


# -- what answers tell ------------------------------------------------------------------------------------------------


def told_of(case: Case) -> dict[str, Any] | None:
    """Return what an answer tells of its event, refusals too: all that it named, and who asked why."""
    names = {
        "inmail.subscription.cancelled.v1": ("subscription_id", "effective_at"),
        "inmail.subscription.cancellation-taken-back.v1": ("subscription_id",),
        "inmail.grant.voided.v1": ("grant_id", "reason"),
        "inmail.credits.adjusted.v1": ("actor", "reason"),
        "inmail.account.erased.v1": (),
    }
    details = oracle_grants.told_of(case) or {name: case.data(name) for name in names.get(case.request.type, ())}
    if "actor" in details and case.data("credits") < 0:
        details["credits"] = case.data("credits")
    return details or None


RULES = (
    oracle_grants.RULES
    | oracle_changes.RULES
    | {
        "inmail.subscription.cancelled.v1": cancel,
        "inmail.subscription.cancellation-taken-back.v1": take_back,
        "inmail.grant.voided.v1": void,
        "inmail.credits.adjusted.v1": adjust,
        "inmail.account.erased.v1": erase,
    }
)
