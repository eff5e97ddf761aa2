"""What the oracle remembers: accounts, subscriptions, lots and journal rows in plain dataclasses, and the terms."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

__all__ = ["Account", "Lot", "Plan", "RefusedChange", "Request", "Row", "Subscription", "Terms"]


@dataclass(frozen=True)
class Plan:
    """What the catalogue says of one plan."""

    credits: int
    rollover: bool
    balance_cap: int | None = None
    on_change: str = "keep"
    credit_back_on_response: bool = False
    separate_purchase: bool = False


@dataclass(frozen=True)
class Terms:
    """The catalogue, read from its file's document. Rule 2: plans are data."""

    plans: dict[str, Plan]
    priorities: dict[str, int]
    validity: timedelta
    free_relationships: frozenset[str]
    apply_balance_caps: bool
    paid_sends_per_day: int
    seat_sends_per_day: int
    recipient_cooldown: timedelta
    low_balance: int
    expiring: timedelta

    @classmethod
    def read(cls, document: dict[str, Any]) -> "Terms":
        """Return the terms of a parsed TOML file."""
        return cls(
            plans={name: Plan(**plan) for name, plan in document["plans"].items()},
            priorities=document["origins"],
            validity=timedelta(hours=document["validity_hours"]),
            free_relationships=frozenset(document["free_relationships"]),
            apply_balance_caps=document["apply_balance_caps"],
            paid_sends_per_day=document["limits"]["paid_sends_per_day"],
            seat_sends_per_day=document["limits"]["seat_sends_per_day"],
            recipient_cooldown=timedelta(hours=document["limits"]["recipient_cooldown_hours"]),
            low_balance=document["notices"]["low_balance"],
            expiring=timedelta(days=document["notices"]["expiring_days"]),
        )


@dataclass(frozen=True)
class Request:
    """One input record. `type` is the event's short name, `data` its body without what was left at its default."""

    type: str
    account: str
    request_id: UUID
    data: dict[str, Any]
    as_of: datetime
    offset: int = 0
    partition: int = 0
    waited_for: str | None = None  # whose records are unread that come before it and may give credits (rule 21)
    fingerprint: int = 0  # noted in every row and never looked at: type and data are compared themselves

    @property
    def body(self) -> tuple[str, dict[str, Any]]:
        """What makes the same request id the same request."""
        return self.type, self.data


@dataclass
class Lot:
    """The block of credits that one grant opens; it can be spent in [granted_at, expires_at)."""

    lot: int
    origin: str
    request_id: UUID
    priority: int
    granted: int
    granted_at: datetime
    expires_at: datetime
    full_expires_at: datetime
    subscription_id: str | None = None
    plan: str | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    tops_up: int | None = None  # the lot of the same period that it is the difference to
    on_change: str = "keep"
    credit_back: bool = False
    balance_cap: int | None = None
    remaining: int = 0
    open: bool = True
    freed: bool = False
    withdrawn: bool = False
    cap_pending: bool = False
    announced_ends: list[datetime] = field(default_factory=list)

    def started(self, instant: datetime) -> bool:
        """Whether its first instant has come."""
        return self.granted_at <= instant

    def ended(self, instant: datetime) -> bool:
        """Whether it was closed, or its first instant out of life has come."""
        return not self.open or self.expires_at <= instant

    def close(self, *, withdrawn: bool) -> None:
        """End it for good, with nothing left in it and nothing to come; before its time, where it is withdrawn."""
        self.open = False
        self.withdrawn = withdrawn
        self.cap_pending = False

    def spendable(self, instant: datetime) -> bool:
        """Rules 4 and 11: availability is a predicate at both ends."""
        return self.started(instant) and not self.ended(instant)


@dataclass(frozen=True)
class RefusedChange:
    """A plan change to the plan that was known at its start."""

    plan: str
    credits: int
    end: datetime  # of its first month
    anchor_day: int


@dataclass
class Subscription:
    """What is known of a subscription; of one that was only cancelled, nothing but its end."""

    plan: str | None = None
    credits: int = 0
    period_start: datetime | None = None
    anchor_day: int = 0
    changes: dict[datetime, str] = field(default_factory=dict)  # where its plan changes begin, and to which plan
    change_ends: dict[datetime, datetime] = field(default_factory=dict)  # and where the period ends that each begins
    change_credits: dict[datetime, int] = field(default_factory=dict)  # and what its plan gives
    told: dict[datetime, str] = field(default_factory=dict)  # periods of another plan that no lot tells of
    refused: dict[datetime, RefusedChange] = field(default_factory=dict)  # those among `changes` are in force
    ends_at: datetime | None = None

    def ended(self, instant: datetime) -> bool:
        """Whether its end is set and has come."""
        return self.ends_at is not None and self.ends_at <= instant


@dataclass
class Row:
    """One row of the journal; `account` is the account's text id."""

    account: str
    sequence: int
    request_id: UUID
    fingerprint: int
    is_answer: bool
    worker: str
    code: str
    amount: int
    lot: int | None
    lot_expires_at: datetime | None
    balance_before: int
    balance_after: int
    as_of: datetime
    source_partition: int
    source_offset: int
    recipient_id: str | None = None
    relationship: str | None = None
    next_allotment_at: datetime | None = None
    details: dict[str, Any] | None = None
    sender_id: str | None = None
    reverses: int | None = None


@dataclass
class Account:
    """A holder of credits, everything it was given and everything that happened."""

    account: str
    level: int = 2  # of the last notice: 0 above low, 1 low, 2 exhausted. A new account is not told that it is empty.
    erased_at: datetime | None = None
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    lots: list[Lot] = field(default_factory=list)
    journal: list[Row] = field(default_factory=list)
    answers: list[tuple[Request, Row]] = field(default_factory=list)

    def subscription(self, subscription_id: str) -> Subscription:
        """Return a subscription, made at its first mention."""
        return self.subscriptions.setdefault(subscription_id, Subscription())

    def lots_of(self, subscription_id: str) -> list[Lot]:
        """Return all lots that a subscription ever opened, in opening order."""
        return [lot for lot in self.lots if lot.subscription_id == subscription_id]

    def allotments_of(self, subscription_id: str) -> list[Lot]:
        """Return the lots by which a subscription's periods are used: not those that a plan change made room of."""
        return [lot for lot in self.lots_of(subscription_id) if not lot.freed and lot.tops_up is None]

    def balance(self, instant: datetime) -> int:
        """Return what can be spent at an instant."""
        return sum(lot.remaining for lot in self.lots if lot.spendable(instant))
