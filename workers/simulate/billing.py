"""Billing events of simulated accounts: periods, plan changes and cancels of subscriptions."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from random import Random
from typing import NamedTuple

from schemas.billing import (
    CancellationTakenBack,
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionPlanChanged,
    SubscriptionRenewed,
)
from schemas.envelope import Event
from workers.simulate.accounts import NEVER, Account, add_months, utc_day
from workers.simulate.agenda import Agenda
from workers.simulate.population import Population
from workers.simulate.records import DAY, HOUR, MINUTE, SECOND, Record, create_request_id, encode_event, format_instant

__all__ = ["BillingEvents"]

_OPENING_SPREAD = MINUTE  # the running periods of established accounts arrive within it
_JOINING_SPREAD = 30 * DAY
_RESUBSCRIBING_MEAN = 20 * DAY
_DELAY_MEAN = 30 * SECOND

_FROM_NOW, _FROM_NEXT_PERIOD = 0.6, 0.9  # cumulative shares of plan changes; the others name the running period


class DelayedEvent(NamedTuple):
    """An event that arrives out of order, after its successor."""

    model: type[Event]
    account: Account
    data: Mapping[str, object]


class BillingEvents:
    """Creates the billing events of all accounts."""

    def __init__(self, population: Population, accounts: Sequence[Account], agenda: Agenda, dice: Random) -> None:
        self._population = population
        self._agenda = agenda
        self._dice = dice
        self._uniform = dice.random
        self._accounts = accounts

    def schedule(self, start: int) -> None:
        """Schedule the first subscription event of each account."""
        for account in self._accounts:
            if account.due == NEVER:
                first = start + int(self._uniform() * _JOINING_SPREAD)
            else:
                first = start + _OPENING_SPREAD * account.number // len(self._accounts)
            self._agenda.add(first, self._activate, account)

    # -- periods ------------------------------------------------------------------------------------------------

    def _activate(self, time: int, account: Account) -> Iterable[Record]:
        if account.erased:
            return ()
        account.subscription += 1
        account.ends = NEVER
        if account.due != NEVER:
            return self._start_period(time, SubscriptionActivated, account, account.due)
        start = time // SECOND * SECOND
        if self._uniform() < self._population.late:
            start -= int(self._uniform() * DAY) // SECOND * SECOND
        account.anchor = utc_day(start)
        return self._start_period(time, SubscriptionActivated, account, start)

    def _renew(self, time: int, account: Account) -> Iterable[Record]:
        if account.erased or account.due == NEVER or account.due > time + HOUR:
            return ()  # a plan change has moved or ended the period
        if account.ends <= account.due:
            account.due = NEVER
            if self._uniform() < self._population.resubscribing:
                self._agenda.add(time + HOUR + self._random_wait(_RESUBSCRIBING_MEAN), self._activate, account)
            return ()
        return self._start_period(time, SubscriptionRenewed, account, account.due)

    def _start_period(self, time: int, model: type[Event], account: Account, start: int) -> Iterable[Record]:
        """Return the events of a period, one for each subscription, and schedule the next period."""
        account.due = add_months(start, account.anchor, account.term)
        self._agenda.add(max(time, self._arrival_time(account.due)), self._renew, account)
        subscription_data = self._subscription_data(account, start, account.due)
        if not account.annual and self._uniform() < self._population.out_of_order:
            arrival = account.due + HOUR + self._random_wait(HOUR)
            for data in subscription_data:
                self._agenda.add(arrival, self._publish_delayed, DelayedEvent(model, account, data))
            return ()
        return [self._grant_event(time, model, account, data) for data in subscription_data]

    def _subscription_data(self, account: Account, start: int, end: int) -> list[dict[str, object]]:
        data: dict[str, object] = {
            "plan": account.plan.plan,
            "period_start": format_instant(start),
            "period_end": format_instant(end),
        }
        if account.annual:
            data["term"] = "annual"
        if account.annual or account.number % 2:
            data["anchor_day"] = account.anchor
        return [{"subscription_id": subscription} | data for subscription in account.subscriptions]

    def _arrival_time(self, due: int) -> int:
        """Return the arrival time of a period's event: up to a day late, up to an hour early, or half a minute late."""
        chance = self._uniform() - self._population.late
        if chance < 0:
            return due + int(self._uniform() * DAY)
        if chance < self._population.early:
            return due - int(self._uniform() * HOUR)
        return due + self._random_wait(_DELAY_MEAN)

    def _publish_delayed(self, time: int, delayed: DelayedEvent) -> Iterable[Record]:
        return () if delayed.account.erased else (self._grant_event(time, *delayed),)

    # -- changes ------------------------------------------------------------------------------------------------

    def change_plan(self, time: int, account: Account) -> Iterable[Record]:
        """Change an account's plan to another of its kind: from now, from the next period, or for the running one."""
        plans = [p for p in self._population.plans if p.pooled == account.plan.pooled and p != account.plan]
        if not (account.is_subscribed and plans):
            return ()
        (account.plan,) = self._dice.choices(plans, cum_weights=list(accumulate(p.weight for p in plans)))
        chance = self._uniform()
        if chance < _FROM_NOW:
            start = time // SECOND * SECOND
            account.anchor = utc_day(start)
        elif chance < _FROM_NEXT_PERIOD:
            start = account.due
        else:
            running = add_months(account.due, account.anchor, -account.term)
            subscription_data = self._subscription_data(account, running, account.due)
            return [self._grant_event(time, SubscriptionPlanChanged, account, data) for data in subscription_data]
        return self._start_period(time, SubscriptionPlanChanged, account, start)

    def cancel(self, time: int, account: Account) -> Iterable[Record]:
        """Cancel an account's subscription, at once or at period end; a share of cancels is taken back later."""
        if not account.is_subscribed:
            return ()
        if self._uniform() < self._population.cancels_at_once:
            late = self._uniform() < self._population.late
            account.ends = time - (int(self._uniform() * DAY) if late else 0)
            regret = DAY
        else:
            account.ends = account.due
            regret = account.ends - time
        if self._uniform() < self._population.taken_back:
            self._agenda.add(time + 1 + int(self._uniform() * regret), self._take_back, account)
        subscription_data = [
            {"subscription_id": s, "effective_at": format_instant(account.ends)} for s in account.subscriptions
        ]
        return [self._create_event(time, SubscriptionCancelled, account, data) for data in subscription_data]

    def _take_back(self, time: int, account: Account) -> Iterable[Record]:
        if account.erased or account.ends == NEVER:
            return ()
        if account.ends > time and account.due != NEVER:
            account.ends = NEVER
        subscription_data = [{"subscription_id": subscription} for subscription in account.subscriptions]
        return [self._create_event(time, CancellationTakenBack, account, data) for data in subscription_data]

    # -- events -------------------------------------------------------------------------------------------------

    def _random_wait(self, mean: int) -> int:
        return int(self._dice.expovariate(1 / mean))

    def _create_event(self, time: int, model: type[Event], account: Account, data: Mapping[str, object]) -> Record:
        return encode_event(time, create_request_id(time, self._dice), model, account.name, data)

    def _grant_event(self, time: int, model: type[Event], account: Account, data: Mapping[str, object]) -> Record:
        account.grant = create_request_id(time, self._dice)
        return encode_event(time, account.grant, model, account.name, data)
