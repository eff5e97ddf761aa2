"""The history of a population: every event of it, in the order in which they arrive.

    for event in simulate(Population(accounts=100, days=30)): ...           # models, as a worker decodes them
    for topic, key, value, time in simulate_records(Population()): ...      # bytes, several times as fast

Both give the same events, lazily: memory grows with accounts (some 0.5 kB each) and not with events. All chance comes
from one seeded generator, drawn from in order of time, so that a longer history begins with the shorter one.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC
from random import Random

from infra.clock import to_milliseconds
from schemas.catalogue import decode
from schemas.envelope import Event
from schemas.ticks import ExpiryTick
from workers.simulate.accounts import populate
from workers.simulate.agenda import Agenda
from workers.simulate.billing import Billing
from workers.simulate.occasions import Occasions
from workers.simulate.population import Population
from workers.simulate.sends import Sends
from workers.simulate.wire import DAY, HOUR, Record, altered, event, instant, request_id, restamped

__all__ = ["bounds", "simulate", "simulate_records"]

_AT_ONCE = 0.5  # of duplicates


def bounds(population: Population) -> tuple[int, int]:
    """Return when a history begins and ends, half-open, in Kafka's milliseconds."""
    start = to_milliseconds(population.start.astimezone(UTC))
    return start, start + int(population.days * DAY)


def simulate(population: Population) -> Iterator[Event]:
    """Yield the events of a population in the order of their `time`."""
    for topic, key, value, _ in simulate_records(population):
        yield decode(topic, key, value)


def simulate_records(population: Population) -> Iterator[Record]:
    """Yield the events of a population as records in the order of their time."""
    return _History(population).records()


class _History:
    """Sends one by one, everything else by the agenda, and copies of both."""

    def __init__(self, population: Population) -> None:
        self._start, self._end = bounds(population)
        self._dice = Random(population.seed)  # noqa: S311 - a workload
        self._agenda = Agenda(self._end)
        accounts = populate(population, self._dice)
        self._sends = Sends(population, accounts, self._agenda, self._dice)
        billing = Billing(population, accounts, self._agenda, self._dice)
        billing.begin(self._start)
        Occasions(population, accounts, billing, self._dice).begin(self._start, self._agenda)
        self._tick_every = int(population.tick_hours * HOUR)
        if self._tick_every:
            self._agenda.add(self._start + self._tick_every, self._tick)
        self._duplicated = population.duplicates
        self._copied = population.duplicates + population.conflicts

    def records(self) -> Iterator[Record]:
        agenda, end, chance, copied = self._agenda, self._end, self._dice.random, self._copied
        send_time = self._sends.begin(self._start)
        while True:
            next_time = agenda.next_time()
            records: Iterable[Record]
            if send_time < next_time:
                records = (self._sends.at(int(send_time)),)
                send_time = self._sends.advance()
            elif next_time < end:
                records = agenda.run_next()
            else:
                return
            for record in records:
                yield record
                if (dice := chance()) < copied:
                    self._copy(record, duplicate=dice < self._duplicated)

    def _copy(self, record: Record, *, duplicate: bool) -> None:
        """Note when an event comes again, as it was or with another body."""
        if duplicate and self._dice.random() < _AT_ONCE:
            self._agenda.add(record.time, self._again, record)
            return
        time = record.time + 1 + int(self._dice.random() * DAY)
        copy = record if duplicate else altered(record)
        if copy is not None:
            self._agenda.add(time, self._again, copy)

    def _again(self, time: int, record: Record) -> Iterable[Record]:
        return (restamped(record, time),)

    def _tick(self, time: int, _: object) -> Iterable[Record]:
        self._agenda.add(time + self._tick_every, self._tick)
        id_ = request_id(time, self._dice)
        return (event(time, id_, ExpiryTick, None, {"as_of": instant(time)}),)
