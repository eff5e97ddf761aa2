"""What a reader of the result topics knows of one account, from its events alone, as the contract tells it to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["AccountReader", "HeldLot", "instant"]

# By code: the member with the credits that moved, and the sign of what moves on the lot.
_MOVES = {
    "charged": ("credits_charged", -1),
    "granted": ("credits", 1),
    "reversed": ("credits", 1),
    "voided": ("credits", -1),
    "adjusted": ("credits", -1),
    "forfeited": ("credits", -1),
    "cap_forfeited": ("credits", -1),
    "expired": ("credits", -1),
}


def instant(text: str) -> datetime:
    """Return an instant of an event."""
    return datetime.fromisoformat(text)


@dataclass
class HeldLot:
    """A lot as the events so far tell it."""

    granted_by: str  # id of the event that granted
    subscription_id: str | None
    plan: str | None
    granted_at: datetime
    ends: datetime
    full_ends: datetime | None  # None: it began under a cancel, so that only a later event tells its full life
    remaining: int = 0

    def spendable(self, at: datetime) -> int:
        """Return the credits that can be spent at an instant."""
        return self.remaining if self.granted_at <= at < self.ends else 0


@dataclass
class AccountReader:
    """The lots of one account, the ends of its subscriptions, and its events so far."""

    lots: dict[int, HeldLot] = field(default_factory=dict)
    ends: dict[str, datetime] = field(default_factory=dict)  # of cancelled subscriptions
    events: list[dict[str, Any]] = field(default_factory=list)

    def balance(self, at: datetime) -> int:
        """Return what can be spent at an instant: credits of the lots that have begun and not ended."""
        return sum(lot.spendable(at) for lot in self.lots.values())

    def take(self, event: Mapping[str, Any]) -> None:
        """Take the next event of the account, by its sequence."""
        data = event["data"]
        code = data["code"]
        if code == "granted":
            self._open(data)
        elif code == "cancelled":
            self._cancel(data["subscription_id"], instant(data["effective_at"]))
        elif code == "cancellation_taken_back":
            self.ends.pop(data["subscription_id"])
            for lot in self._lots_of(data["subscription_id"]):
                lot.ends = lot.full_ends or lot.ends
        told = data.get("lot_expires_at") or data.get("expires_at")
        if data.get("lot") is not None and told is not None:
            lot = self.lots[data["lot"]]
            if lot.full_ends is None and instant(told) > lot.ends:
                lot.ends = lot.full_ends = instant(told)
        if code in _MOVES:
            member, sign = _MOVES[code]
            self.lots[data["lot"]].remaining += sign * data[member]
        self.events.append(dict(event))

    def _open(self, data: Mapping[str, Any]) -> None:
        name, ends = data["subscription_id"], instant(data["expires_at"])
        clamped = name is not None and self.ends.get(name) is not None and ends >= self.ends[name]
        self.lots[data["lot"]] = HeldLot(
            data["request_id"], name, data["plan"], instant(data["granted_at"]), ends, None if clamped else ends
        )

    def _cancel(self, name: str, effective_at: datetime) -> None:
        self.ends[name] = effective_at
        for lot in self._lots_of(name):
            lot.ends = max(lot.granted_at, min(lot.ends, effective_at))

    def _lots_of(self, name: str) -> list[HeldLot]:
        return [lot for lot in self.lots.values() if lot.subscription_id == name]
