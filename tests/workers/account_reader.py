"""What a reader of the result topics knows of one account, from its events alone, as the contract tells it to."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["AccountReader", "HeldLot", "instant", "read_accounts"]

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
    longest: datetime  # of the ends it had
    remaining: int = 0

    def spendable(self, at: datetime) -> int:
        """Return the credits that can be spent at an instant."""
        return self.remaining if self.granted_at <= at < self.ends else 0


@dataclass
class AccountReader:
    """The lots of one account, the ends of its subscriptions, and its events so far.

    It knows no rule of ends: a lot ends when its grant says, until an answer says otherwise.
    """

    lots: dict[int, HeldLot] = field(default_factory=dict)
    ends: dict[str, datetime] = field(default_factory=dict)  # of cancelled subscriptions
    events: list[dict[str, Any]] = field(default_factory=list)

    def balance(self, at: datetime) -> int:
        """Return what can be spent at an instant: credits of the lots that have begun and not ended."""
        return sum(lot.spendable(at) for lot in self.lots.values())

    def is_voided(self, lot: int) -> bool:
        """Whether billing has withdrawn a lot."""
        return any(each["data"]["code"] == "voided" and each["data"].get("lot") == lot for each in self.events)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take the next event of the account, by its sequence."""
        data = event["data"]
        code = data["code"]
        if code == "granted":
            self._open(data)
        elif code == "cancelled":
            self.ends[data["subscription_id"]] = instant(data["effective_at"])
        elif code == "cancellation_taken_back":
            self.ends.pop(data["subscription_id"])
        for each in data.get("lot_ends") or ():
            lot = self.lots[each["lot"]]
            lot.ends = instant(each["expires_at"])
            lot.longest = max(lot.longest, lot.ends)
        if code in _MOVES:
            member, sign = _MOVES[code]
            self.lots[data["lot"]].remaining += sign * data[member]
        self.events.append(dict(event))

    def _open(self, data: Mapping[str, Any]) -> None:
        self.lots[data["lot"]] = HeldLot(
            data["request_id"],
            data["subscription_id"],
            data["plan"],
            instant(data["granted_at"]),
            *[instant(data["expires_at"])] * 2,
        )


def read_accounts(events: Iterable[Mapping[str, Any]]) -> dict[str, AccountReader]:
    """Return what is known of each account from events of both result topics, in any order, repeats included."""
    first = {event["id"]: event for event in events if "subject" in event}
    readers: dict[str, AccountReader] = defaultdict(AccountReader)
    for event in sorted(first.values(), key=lambda each: (each["subject"], each["data"]["sequence"])):
        readers[event["subject"]].take(event)
    return dict(readers)
