"""The history of a population: all its events, in the order of their arrival.

    for event in simulate(Population(accounts=100, days=30)): ...           # models, as a worker decodes them
    for topic, key, value, time in simulate_records(Population()): ...      # bytes, several times as fast

Both yield the same events lazily: memory grows with accounts (about 0.5 kB each), not with events. All randomness comes
from one seeded generator, used in the order of time, so that a longer history begins with the shorter one.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC
from random import Random

from infra.clock import to_milliseconds
from schemas.catalogue import decode
from schemas.envelope import Event
from schemas.ticks import ExpiryTick
from workers.simulate.account_events import AccountEvents
from workers.simulate.accounts import create_accounts
from workers.simulate.agenda import Agenda
from workers.simulate.billing import BillingEvents
from workers.simulate.population import Population
from workers.simulate.records import (
    DAY,
    HOUR,
    Record,
    alter_record,
    create_request_id,
    encode_event,
    format_instant,
    restamp_record,
)
from workers.simulate.sends import Sends

__all__ = ["history_bounds", "simulate", "simulate_records"]

_IMMEDIATE_SHARE = 0.5  # of duplicates


def history_bounds(population: Population) -> tuple[int, int]:
    """Return the start and the end (exclusive) of a history, in Kafka's milliseconds."""
    start = to_milliseconds(population.start.astimezone(UTC))
    return start, start + int(population.days * DAY)


def simulate(population: Population) -> Iterator[Event]:
    """Yield the events of a population, ordered by `time`."""
    for topic, key, value, _ in simulate_records(population):
        yield decode(topic, key, value)


def simulate_records(population: Population) -> Iterator[Record]:
    """Yield the events of a population as records, ordered by time."""
    return _History(population).records()


class _History:
    """Merges sends, scheduled actions, and duplicates of both."""

    def __init__(self, population: Population) -> None:
        self._start, self._end = history_bounds(population)
        self._dice = Random(population.seed)  # noqa: S311 - a workload
        self._agenda = Agenda(self._end)
        accounts = create_accounts(population, self._dice)
        self._sends = Sends(population, accounts, self._agenda, self._dice)
        billing = BillingEvents(population, accounts, self._agenda, self._dice)
        billing.schedule(self._start)
        AccountEvents(population, accounts, billing, self._dice).schedule(self._start, self._agenda)
        self._tick_interval = int(population.tick_hours * HOUR)
        if self._tick_interval:
            self._agenda.add(self._start + self._tick_interval, self._publish_tick)
        self._duplicated_share = population.duplicates
        self._copied_share = population.duplicates + population.conflicts

    def records(self) -> Iterator[Record]:
        agenda, end, chance, copied = self._agenda, self._end, self._dice.random, self._copied_share
        send_time = self._sends.start(self._start)
        while True:
            next_time = agenda.next_time()
            records: Iterable[Record]
            if send_time < next_time:
                records = (self._sends.create_send(int(send_time)),)
                send_time = self._sends.next_time()
            elif next_time < end:
                records = agenda.run_next()
            else:
                return
            for record in records:
                yield record
                if (dice := chance()) < copied:
                    self._schedule_copy(record, duplicate=dice < self._duplicated_share)

    def _schedule_copy(self, record: Record, *, duplicate: bool) -> None:
        """Schedule a copy of an event: a duplicate, or a conflict with another body."""
        if duplicate and self._dice.random() < _IMMEDIATE_SHARE:
            self._agenda.add(record.time, self._publish_copy, record)
            return
        time = record.time + 1 + int(self._dice.random() * DAY)
        copy = record if duplicate else alter_record(record)
        if copy is not None:
            self._agenda.add(time, self._publish_copy, copy)

    def _publish_copy(self, time: int, record: Record) -> Iterable[Record]:
        return (restamp_record(record, time),)

    def _publish_tick(self, time: int, _: object) -> Iterable[Record]:
        self._agenda.add(time + self._tick_interval, self._publish_tick)
        id_ = create_request_id(time, self._dice)
        return (encode_event(time, id_, ExpiryTick, None, {"as_of": format_instant(time)}),)
