"""Places that a history can reach, by its journal and lots: what no history reaches is compared by nobody."""

from collections.abc import Callable, Iterator
from datetime import timedelta

from tests.ledger.oracle_state import Account, Lot, Row

__all__ = ["PLACES", "places_reached"]

WEEK = timedelta(days=7)
DAY = timedelta(hours=24)


def places_reached(account: Account) -> list[str]:
    """Return the names of the places that an account has been to."""
    return [name for name, reached in PLACES.items() if reached(account)]


def _end_announced_after_another(account: Account) -> bool:
    return any(len(lot.announced_ends) > 1 for lot in account.lots)


def _taken_back_onto_announced_end(account: Account) -> bool:
    """Whether a take-back brought an end back that had been announced, with credits left to lose."""
    return any(
        lot.remaining and len(lot.announced_ends) > 1 and lot.expires_at == lot.announced_ends[0]
        for lot in account.lots
        if not account.erased_at
    )


def _later_cancel(account: Account) -> bool:
    """Whether a cancel came that another one, of an earlier end, had made idle."""
    ends: dict[str, object] = {}
    for row in account.journal:
        details = row.details or {}
        if row.code == "cancelled":
            if ends.get(details["subscription_id"]) == details["effective_at"]:
                return True
            ends[details["subscription_id"]] = details["effective_at"]
        elif row.code == "cancellation_taken_back":
            ends.pop(details["subscription_id"], None)
    return False


def _voided_while_waiting(account: Account) -> bool:
    return any(lot.granted_at > row.as_of for row, lot in _rows_of_lots(account) if row.code == "voided" and row.amount)


def _told_by_billing_after_a_rise_by_date(account: Account) -> bool:
    """Whether billing told that an account is empty which had been told so before and had got no credits since."""
    told = None
    for row in account.journal:
        if row.code == "exhausted":
            if told and row.worker == "billing":
                return True
            told = row
        elif row.code in ("granted", "reversed") and row.balance_after > row.balance_before:
            told = None
    return False


def _refilled_in_its_last_week(account: Account) -> bool:
    left: dict[int, int] = {}
    for row, lot in _rows_of_lots(account):
        if row.code == "reversed" and left[lot.lot] == 0 and lot.expires_at - row.as_of <= WEEK:
            return True
        left[lot.lot] = left.get(lot.lot, 0) + row.amount
    return False


def _short_cooldown(account: Account) -> bool:
    """Whether a send was refused by a cool-down of less than a day, and one at its very end was not."""
    paid = [row for row in account.journal if row.code == "charged"]
    return any(
        row.details and row.details["limit"] == "recipient" and row.details["retry_at"] - sent.as_of < DAY
        for row in account.journal
        for sent in paid
        if row.code == "rate_limited" and sent.recipient_id == row.recipient_id and sent.as_of <= row.as_of
    )


def _rows_of_lots(account: Account) -> Iterator[tuple[Row, Lot]]:
    return ((row, account.lots[row.lot - 1]) for row in account.journal if row.lot)


PLACES: dict[str, Callable[[Account], bool]] = {
    "an end announced after another one of the same lot": _end_announced_after_another,
    "an announced end that a take-back brought back": _taken_back_onto_announced_end,
    "a second cancel, of a later end": _later_cancel,
    "a void of credits that wait": _voided_while_waiting,
    "a crossing by billing of credits that came by date": _told_by_billing_after_a_rise_by_date,
    "a reversal onto an emptied lot in its last week": _refilled_in_its_last_week,
    "a cool-down of less than a day": _short_cooldown,
}
