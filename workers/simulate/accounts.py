"""The accounts of a simulated population, with the state of their subscriptions."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from random import Random

from infra.clock import from_milliseconds, to_milliseconds
from workers.simulate.population import PlanShare, Population
from workers.simulate.records import DAY, SECOND

__all__ = ["NEVER", "Account", "add_months", "create_accounts", "utc_day"]

NEVER = 2**62
_LAST_DAY = 31
_MONTHS = 12


@dataclass(slots=True, eq=False)
class Account:
    """One account. Kept small, because a population may have ten million accounts."""

    number: int
    plan: PlanShare
    seats: int  # 0: not pooled
    annual: bool
    anchor: int  # day of the month
    subscription: int = 0  # number of the current subscription; 0: none so far
    due: int = NEVER  # start of the next period, in Kafka's milliseconds
    ends: int = NEVER  # end of the running subscription, in Kafka's milliseconds
    grant: str | None = None  # id of the last event that granted credits
    erased: bool = False

    @property
    def name(self) -> str:
        """The account id."""
        return f"contract-{self.number}" if self.seats else f"member-{self.number}"

    @property
    def subscriptions(self) -> list[str]:
        """The subscription ids: one, or one for each seat."""
        stem = f"{self.name}-sub-{self.subscription}"
        return [f"{stem}-seat-{seat}" for seat in range(1, self.seats + 1)] if self.seats else [stem]

    @property
    def term(self) -> int:
        """The length of a period in months."""
        return _MONTHS if self.annual else 1

    @property
    def is_subscribed(self) -> bool:
        """Whether a subscription runs and has no planned end."""
        return self.subscription > 0 and self.due != NEVER and self.ends == NEVER and not self.erased


def add_months(start: int, anchor: int, months: int) -> int:
    """Return a time moved by months (negative: back), on the anchor day or the last day of a shorter month."""
    return to_milliseconds(_add_months_utc(from_milliseconds(start), anchor, months))


def _add_months_utc(start: datetime, day: int, months: int) -> datetime:
    """Return a date moved by months, on the anchor day or the last day of a shorter month, at the same time in UTC.

    The anchor day is given, since days taken from the previous date would drift: 31 January, 28 February, 28 March.
    """
    start = start.astimezone(UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    return start.replace(year=year, month=month + 1, day=min(day, monthrange(year, month + 1)[1]))


def utc_day(time: int) -> int:
    """Return the day of the month in UTC."""
    return from_milliseconds(time).day


def create_accounts(population: Population, dice: Random) -> list[Account]:
    """Return the accounts of a population. `due` of an established account is the start of its running period."""
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
            account.due = _find_period_start(account, start, dice)
        accounts.append(account)
    return accounts


def _find_period_start(account: Account, start: int, dice: Random) -> int:
    """Return the start of the period that runs when the history starts, on the account's anchor day."""
    if account.plan.plan.startswith("sales_navigator"):  # credited on the first of the month
        account.anchor, time_of_day = 1, 0
    else:
        time_of_day = int(dice.random() * DAY) // SECOND * SECOND
    begin = add_months(start // DAY * DAY + time_of_day, account.anchor, 0)
    if begin > start:
        begin = add_months(begin, account.anchor, -1)
    return add_months(begin, account.anchor, -int(dice.random() * account.term))
