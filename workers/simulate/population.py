"""The parameters of a simulated population: its size, duration, plans and rates."""

import math
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["PLANS", "PlanShare", "Population", "PopulationError"]

_EARLIEST = datetime(
    2002, 1, 1, tzinfo=UTC
)  # events may be as early as 2000, and an annual term begins up to a year before
_LATEST = datetime(2180, 1, 1, tzinfo=UTC)  # events may be as late as 2199


class PopulationError(ValueError):
    """A population's parameter is not valid. The message names the field, the expected range and the value."""


class PlanShare(NamedTuple):
    """A plan and its weight among all plans."""

    plan: str
    weight: float
    pooled: bool = False  # accounts have several seats; each seat has a subscription and is the sender of its requests


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
    """A population and the length of its history. The same values give the same bytes.

    Shares are from 0 to 1. A `yearly` rate is the expected number of events per account and year, multiplied by
    `turbulence`.

    Raises:
        PopulationError: when a value is out of range.

    """

    seed: int = 1
    """Seed of the random generator."""
    accounts: int = 1_000
    """Number of accounts."""
    start: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    """Start of the history."""
    days: float = 120.0
    """Length of the history, in days of 24 hours. A longer history begins with the shorter one."""
    plans: tuple[PlanShare, ...] = PLANS
    """Plans with their weights."""
    established: float = 0.8
    """Share of accounts with a subscription from before the history, which opens with their running periods within a
    minute. Other accounts join in the first 30 days; until then they send without credits."""
    annual: float = 0.25
    """Share of accounts with annual terms."""

    sends_per_day: float = 0.5
    """Average sends per account and day (24 hours), over all accounts and a week."""
    hot: float = 0.7
    """Zipf exponent of senders: the account of rank r sends in proportion to r ** -hot. 0: all accounts send alike."""
    connections: float = 0.25
    """Share of sends to connections, which are free."""
    open_profiles: float = 0.05
    """Share of sends to open profiles."""
    self_sends: float = 0.0005
    """Share of sends to oneself."""
    undeliverable: float = 0.02
    """Share of sends reported as undeliverable, 10 minutes later on average."""
    responses: float = 0.15
    """Share of sends with a response, a day later on average."""

    duplicates: float = 0.01
    """Share of events with a duplicate of the same id and body: half of the duplicates are immediate and byte for byte,
    half arrive within a day with a new time."""
    conflicts: float = 0.0005
    """Share of events whose id is used again within a day with another body."""
    late: float = 0.05
    """Share of billing periods and immediate cancels that arrive up to a day late. Others take half a minute."""
    early: float = 0.01
    """Share of renewals that arrive up to an hour early."""
    out_of_order: float = 0.002
    """Share of monthly periods that arrive after their successor, and of reports that arrive before their send."""

    turbulence: float = 1.0
    """Factor on all yearly rates, so that short histories contain events of every kind."""
    promotions_yearly: float = 1.0
    """Promotions."""
    surveys_yearly: float = 0.5
    """Answered surveys."""
    purchases_yearly: float = 0.1
    """Purchases of credits, which no shipped plan allows."""
    cancels_yearly: float = 0.3
    """Cancels; accounts without a running subscription are skipped."""
    cancels_at_once: float = 0.3
    """Share of cancels that end a subscription at once. Other cancels take effect at period end."""
    taken_back: float = 0.2
    """Share of cancels taken back: before the period end, or, for immediate cancels, too late."""
    resubscribing: float = 0.5
    """Share of ended subscriptions followed by a new subscription, 20 days later on average."""
    plan_changes_yearly: float = 0.3
    """Plan changes: 60 % start a new period at once, 30 % apply from the next period, 10 % to the running period."""
    voids_yearly: float = 0.05
    """Voids of an account's latest grant, or of an unknown grant where the account has none."""
    adjustments_yearly: float = 0.1
    """Manual adjustments, half of them upward."""
    erasures_yearly: float = 0.01
    """Erasures. An erased account keeps one in a hundred of its sends."""

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
            raise PopulationError("plans: expected at least one plan, each with a weight above 0")


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
