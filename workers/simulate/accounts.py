"""The accounts of a simulated population: what billing knows of each."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from random import Random

from infra.clock import from_milliseconds, to_milliseconds
from workers.simulate.population import PlanShare, Population
from workers.simulate.wire import DAY, SECOND

__all__ = ["NEVER", "Account", "day_of", "months_after", "populate"]

NEVER = 2**62
_LAST_DAY = 31
_MONTHS = 12


@dataclass(slots=True, eq=False)
class Account:
    """One account; small, as there may be a million."""

    number: int
    plan: PlanShare
    seats: int  # 0: not pooled
    annual: bool
    anchor: int  # day of the month
    subscription: int = 0  # its number; 0: none so far
    due: int = NEVER  # start of the next period
    ends: int = NEVER  # of the running subscription
    grant: str | None = None  # the event that granted last
    erased: bool = False

    @property
    def name(self) -> str:
        """The account's id."""
        return f"contract-{self.number}" if self.seats else f"member-{self.number}"

    @property
    def subscriptions(self) -> list[str]:
        """The ids of what it is subscribed to: one, or one for each seat."""
        stem = f"{self.name}-sub-{self.subscription}"
        return [f"{stem}-seat-{seat}" for seat in range(1, self.seats + 1)] if self.seats else [stem]

    @property
    def term(self) -> int:
        """How many months a period has."""
        return _MONTHS if self.annual else 1

    @property
    def is_subscribed(self) -> bool:
        """Whether a subscription runs that nothing is to end."""
        return self.subscription > 0 and self.due != NEVER and self.ends == NEVER and not self.erased


def months_after(start: int, anchor: int, months: int) -> int:
    """Return the date so many months later, or earlier, on the anchor's day or the month's last."""
    return to_milliseconds(_anchored(from_milliseconds(start), anchor, months))


def _anchored(start: datetime, day: int, months: int) -> datetime:
    """Return the date so many months after a start: on the anchor's day or the month's last, at the same time in UTC.

    Derived from the anchor and never from the date before, which would drift: 31 January, 28 February, 31 March.
    """
    start = start.astimezone(UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    return start.replace(year=year, month=month + 1, day=min(day, monthrange(year, month + 1)[1]))


def day_of(time: int) -> int:
    """Return the day of the month in UTC."""
    return from_milliseconds(time).day


def populate(population: Population, dice: Random) -> list[Account]:
    """Return the accounts. For those that are established, `due` is when their running period began."""
    start = to_milliseconds(population.start.astimezone(UTC))
    weights = list(accumulate(share.weight for share in population.plans))
    accounts = []
    for number in range(population.accounts):
        (plan,) = dice.choices(population.plans, cum_weights=weights)
        account = Account(
            number=number,
            plan=plan,
            seats=2 + int(dice.random() * 7) if plan.pooled else 0,
            annual=dice.random() < population.annual,
            anchor=1 + int(dice.random() * _LAST_DAY),
        )
        if dice.random() < population.established:
            account.due = _running_period(account, start, dice)
        accounts.append(account)
    return accounts


def _running_period(account: Account, start: int, dice: Random) -> int:
    """Return when the period began that runs at the start: at some time of day on the account's anchor."""
    if account.plan.plan.startswith("sales_navigator"):  # credited on the first of the month
        account.anchor, time_of_day = 1, 0
    else:
        time_of_day = int(dice.random() * DAY) // SECOND * SECOND
    begin = months_after(start // DAY * DAY + time_of_day, account.anchor, 0)
    if begin > start:
        begin = months_after(begin, account.anchor, -1)
    return months_after(begin, account.anchor, -int(dice.random() * account.term))
