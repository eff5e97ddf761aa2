"""Send requests of simulated accounts, and the delivery reports that follow them."""

from collections.abc import Iterable, Sequence
from math import gcd, inf
from random import Random
from typing import NamedTuple

from schemas.envelope import Event
from schemas.sends import RecipientResponded, SendUndeliverable
from workers.simulate.accounts import Account
from workers.simulate.agenda import Agenda
from workers.simulate.population import Population
from workers.simulate.records import (
    DAY,
    HOUR,
    MINUTE,
    Record,
    create_request_id,
    encode_event,
    encode_send,
    restamp_record,
)

__all__ = ["Sends"]

# Relative send rates by hour of the day in UTC and by day of the week: office hours, with an evening.
_HOURS = (2, 1, 1, 1, 2, 3, 6, 10, 14, 16, 16, 14, 12, 14, 16, 16, 14, 12, 9, 8, 8, 7, 5, 3)
_WEEKEND = 0.4
_WEEKDAY = (7 - 2 * _WEEKEND) / 5
_SATURDAY = 5
_FIRST_WEEKDAY = 3  # 1 January 1970 was a Thursday

_ERASED_SEND_SHARE = 0.01
_RECIPIENTS_PER_ACCOUNT = 10
_GOLDEN_RATIO = 0.618
_EXPONENT_TOLERANCE = 1e-6  # near exponent 1, the power becomes a logarithm


class DeliveryReport(NamedTuple):
    """A report about a send, to be published later."""

    model: type[Event]
    account: str
    send_id: str


class Sends:
    """Creates the sends of all accounts: one Poisson process with an hourly rate, whose sends are dealt to accounts.

    So the process needs no memory per account, and the cost of a send does not depend on the number of accounts.
    """

    def __init__(self, population: Population, accounts: Sequence[Account], agenda: Agenda, dice: Random) -> None:
        self._population = population
        self._accounts = accounts
        self._agenda = agenda
        self._dice = dice
        self._uniform = dice.random
        self._mean_rate = population.sends_per_day * len(accounts) / DAY
        self._time = 0.0
        self._hour_end = 0
        self._rate = 0.0
        self._rank_power = 0.0 if abs(1 - population.hot) < _EXPONENT_TOLERANCE else 1 - population.hot
        self._rank_span = (len(accounts) + 1) ** self._rank_power - 1
        self._stride = next(
            n for n in range(max(1, int(len(accounts) * _GOLDEN_RATIO)), 2**32) if gcd(n, len(accounts)) == 1
        )
        self._recipients = len(accounts) * _RECIPIENTS_PER_ACCOUNT

    def start(self, start: int) -> float:
        """Return the time of the first send after the start."""
        self._time = start
        self._enter_hour(start // HOUR)
        return self.next_time()

    def next_time(self) -> float:
        """Return the time of the next send."""
        if not self._mean_rate:
            return inf
        while True:
            # A memoryless wait may be drawn again at the end of an hour, at the rate of the next hour.
            time = self._time + self._dice.expovariate(self._rate)
            if time < self._hour_end:
                self._time = time
                return time
            self._time = self._hour_end
            self._enter_hour(self._hour_end // HOUR)

    def _enter_hour(self, hour: int) -> None:
        day = (hour // 24 + _FIRST_WEEKDAY) % 7
        weight = _HOURS[hour % 24] * len(_HOURS) / sum(_HOURS) * (_WEEKDAY if day < _SATURDAY else _WEEKEND)
        self._rate = self._mean_rate * weight
        self._hour_end = (hour + 1) * HOUR

    def _choose_account(self) -> Account:
        """Return a sender: rank r in proportion to r ** -hot, with ranks spread over the accounts."""
        count = len(self._accounts)
        chance = self._uniform()
        span, power = self._rank_span, self._rank_power
        rank = (1 + chance * span) ** (1 / power) if power else (count + 1) ** chance
        return self._accounts[int(rank) * self._stride % count]

    def create_send(self, time: int) -> Record:
        """Return a send; where the send is delayed, the report that arrives before it."""
        uniform, population = self._uniform, self._population
        account = self._choose_account()
        if account.erased and uniform() > _ERASED_SEND_SHARE:
            account = self._choose_account()
        name = account.name
        seat = f"{name}-seat-{1 + int(uniform() * account.seats)}" if account.seats else None
        chance = uniform() - population.connections
        relationship = "connection" if chance < 0 else "open_profile" if chance < population.open_profiles else "none"
        recipient = f"member-{int(uniform() * self._recipients)}"
        if uniform() < population.self_sends:
            recipient = seat or name
        id_ = create_request_id(time, self._dice)
        record = encode_send(time, id_, name, recipient, relationship, seat)
        chance = uniform()
        if chance < population.undeliverable:
            return self._schedule_report(record, DeliveryReport(SendUndeliverable, name, id_), 10 * MINUTE)
        if chance < population.undeliverable + population.responses:
            return self._schedule_report(record, DeliveryReport(RecipientResponded, name, id_), DAY)
        return record

    def _schedule_report(self, record: Record, report: DeliveryReport, delay: int) -> Record:
        time = record.time
        if self._uniform() < self._population.out_of_order:
            self._agenda.add(time + 1 + int(self._uniform() * MINUTE), self._publish_late_send, record)
            return self._create_report(time, report)
        self._agenda.add(time + 1 + int(self._dice.expovariate(1 / delay)), self._publish_report, report)
        return record

    def _publish_report(self, time: int, report: DeliveryReport) -> Iterable[Record]:
        return (self._create_report(time, report),)

    def _create_report(self, time: int, report: DeliveryReport) -> Record:
        id_ = create_request_id(time, self._dice)
        return encode_event(time, id_, report.model, report.account, {"send_id": report.send_id})

    def _publish_late_send(self, time: int, record: Record) -> Iterable[Record]:
        return (restamp_record(record, time),)
