"""What a simulated population is like: how many, for how long, and how often each thing happens to them."""

import math
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["PLANS", "PlanShare", "Population", "PopulationError"]

_EARLIEST = datetime(2002, 1, 1, tzinfo=UTC)  # an annual term may have begun a year before, and events begin in 2000
_LATEST = datetime(2180, 1, 1, tzinfo=UTC)  # and end in 2199


class PopulationError(ValueError):
    """A population cannot be as told. The message names the field, what was expected and what was there."""


class PlanShare(NamedTuple):
    """How many of the accounts have a plan, as a weight among all plans."""

    plan: str
    weight: float
    pooled: bool = False  # an account of several seats: each has a subscription, and names itself as the sender


PLANS = (
    PlanShare("basic", 15),
    PlanShare("premium_career", 30),
    PlanShare("premium_business", 25),
    PlanShare("sales_navigator_core", 10),
    PlanShare("sales_navigator_advanced", 5),
    PlanShare("sales_navigator_advanced_plus", 2),
    PlanShare("recruiter_lite", 6),
    PlanShare("recruiter_professional", 4, pooled=True),
    PlanShare("recruiter_corporate", 3, pooled=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """A population and the time it is watched for. The same values give the same bytes.

    A share is of the things it is about, from 0 to 1. A `yearly` rate is of each account, in expectation, times
    `turbulence`. Raises PopulationError for values that make no sense.
    """

    seed: int = 1
    """Where all chance comes from."""
    accounts: int = 1_000
    """How many accounts there are."""
    start: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    """The first instant of the history."""
    days: float = 120.0
    """Length of the history, in days of 24 hours. A longer history begins with the shorter one."""
    plans: tuple[PlanShare, ...] = PLANS
    """Who has which plan."""
    established: float = 0.8
    """Share of accounts whose subscription began before the history: it opens with their running periods, within a
    minute. The others join in the first 30 days; until then they send without credits."""
    annual: float = 0.25
    """Share of accounts that pay for twelve months at once."""

    sends_per_day: float = 0.5
    """Sends of an account and day of 24 hours, on the average of all accounts and of a week."""
    hot: float = 0.7
    """Zipf's exponent of who sends: the account of rank r sends in proportion to r ** -hot. 0: all alike."""
    connections: float = 0.25
    """Share of sends to connections, which are free."""
    open_profiles: float = 0.05
    """Share of sends to open profiles."""
    self_sends: float = 0.0005
    """Share of sends to oneself."""
    undeliverable: float = 0.02
    """Share of sends reported as undeliverable, 10 minutes later on average."""
    responses: float = 0.15
    """Share of sends that are answered, a day later on average."""

    duplicates: float = 0.01
    """Share of events that come again with the same id and body: half of them at once and byte by byte, half within
    a day and with the time of that."""
    conflicts: float = 0.0005
    """Share of events whose id comes again within a day with another body."""
    late: float = 0.05
    """Share of billing's periods and immediate cancels that arrive up to a day late. Others take half a minute."""
    early: float = 0.01
    """Share of renewals that arrive up to an hour early."""
    out_of_order: float = 0.002
    """Share of monthly periods that arrive after the one that follows, and of reports that come before their send."""

    turbulence: float = 1.0
    """Factor on all yearly rates: for short histories with a bit of everything."""
    promotions_yearly: float = 1.0
    """Promotions."""
    surveys_yearly: float = 0.5
    """Answered surveys."""
    purchases_yearly: float = 0.1
    """Purchases of credits, which no shipped plan allows."""
    cancels_yearly: float = 0.3
    """Cancels; those of accounts without a running subscription do not take place."""
    cancels_at_once: float = 0.3
    """Share of cancels that end a subscription at once. The others end it with its period."""
    taken_back: float = 0.2
    """Share of cancels taken back: at period end before that, at once too late."""
    resubscribing: float = 0.5
    """Share of ended subscriptions that a new one follows, 20 days later on average."""
    plan_changes_yearly: float = 0.3
    """Plan changes: most for a period from now on, some for the next one, a few for the running one."""
    voids_yearly: float = 0.05
    """Withdrawals of an account's latest grant; where there is none, of one that nobody knows."""
    adjustments_yearly: float = 0.1
    """Manual adjustments, half of them upward."""
    erasures_yearly: float = 0.01
    """Erasures. Of the sends of an erased account, one in a hundred still takes place."""

    tick_hours: float = 6.0
    """Hours between ticks. 0: no ticks."""

    def __post_init__(self) -> None:
        for field in fields(self):
            low, high = _BOUNDS.get(field.name, (0.0, 1.0))
            value = getattr(self, field.name)
            if field.name not in {"start", "plans"} and not low <= value <= high:
                raise PopulationError(f"{field.name}: expected {low:,} to {high:,}, got {value}")
        if self.start.tzinfo is None or not _EARLIEST <= self.start < _LATEST:
            raise PopulationError(f"start: expected a time with a zone from 2002 to 2179, got {self.start.isoformat()}")
        for names in _SHARE_SUMS:
            if (total := math.fsum(getattr(self, name) for name in names)) > 1:
                raise PopulationError(f"{' + '.join(names)}: expected at most 1, got {total:g}")
        if not self.plans or any(share.weight <= 0 for share in self.plans):
            raise PopulationError("plans: expected at least one, each of a weight above 0")


_MAX_RATE = 1_000.0
_BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "accounts": (1, 10_000_000),
    "days": (0.0, 3_660.0),
    "sends_per_day": (0.0, 100_000.0),
    "hot": (0.0, 2.0),
    "turbulence": (0.0, _MAX_RATE),
    "tick_hours": (0.0, 24.0 * 3_660),
} | {field.name: (0.0, _MAX_RATE) for field in fields(Population) if field.name.endswith("_yearly")}
_SHARE_SUMS = (
    ("connections", "open_profiles"),
    ("undeliverable", "responses"),
    ("duplicates", "conflicts"),
    ("late", "early"),
)
