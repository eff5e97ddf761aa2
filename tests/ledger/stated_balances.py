"""What a row says of the balance, held against the lots as all rows before it left them.

Every row's `balance_before` and `balance_after` mean one thing, whatever its code: what the account could spend at the
row's own `as_of` before the row and after it. The lots are rebuilt here from the rows, so neither ledger is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["check_stated_balances"]


@dataclass
class Held:
    """A lot as the rows so far tell it."""

    subscription_id: str | None
    granted_at: datetime
    expires_at: datetime
    full_expires_at: datetime
    remaining: int = 0


def check_stated_balances(lots: Sequence[dict[str, Any]], journal: Sequence[dict[str, Any]]) -> None:
    """See that each row of an account tells what could be spent before it and after it.

    Raises:
        AssertionError: naming the first row that tells something else.

    """
    full = {lot["lot"]: lot["full_expires_at"] for lot in lots}
    held: dict[int, Held] = {}
    for row in journal:
        before = _spendable(held, row["as_of"])
        _apply(row, held, full)
        told, true = (row["balance_before"], row["balance_after"]), (before, _spendable(held, row["as_of"]))
        assert told == true, (
            f"row {row['sequence']}, {row['code']}, tells a balance of {told[0]} to {told[1]},"
            f" it was {true[0]} to {true[1]}"
        )


def _spendable(held: dict[int, Held], instant: datetime) -> int:
    """Rules 4 and 11: availability is a predicate at both ends."""
    return sum(lot.remaining for lot in held.values() if lot.granted_at <= instant < lot.expires_at)


def _apply(row: dict[str, Any], held: dict[int, Held], full: dict[int, datetime]) -> None:
    details = row["details"] or {}
    match row["code"]:
        case "granted":
            lot = row["lot"]
            held[lot] = Held(details.get("subscription_id"), details["granted_at"], row["lot_expires_at"], full[lot])
        case "cancelled":
            for lot in _of(held, details):
                if row["as_of"] < lot.expires_at:
                    lot.expires_at = max(lot.granted_at, min(lot.expires_at, details["effective_at"]))
        case "cancellation_taken_back":
            for lot in _of(held, details):
                lot.expires_at = lot.full_expires_at
    if row["amount"]:
        held[row["lot"]].remaining += row["amount"]


def _of(held: dict[int, Held], details: dict[str, Any]) -> list[Held]:
    return [lot for lot in held.values() if lot.subscription_id == details["subscription_id"]]
