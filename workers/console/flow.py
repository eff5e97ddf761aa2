"""Flow rates: records a second that arrive, are decided and are answered, from the offsets of successive samples."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from workers.ops.books.lanes import LaneProgress
from workers.ops.lag import GroupLag

__all__ = ["Flow", "Growth", "Rates"]

_MAX_RATES: Final = 180
_WINDOW_SAMPLES: Final = 5  # a rate covers so many samples, so that one batch does not look like a burst


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates between two samples, in records a second, None where one is unknown; and what waited at the later one."""

    at: datetime
    came_in: float | None
    decided: float | None  # outcomes stored in the ledger's database
    answered: float | None  # answers published: the offset is committed in the same transaction
    oldest_seconds: float  # the age of the oldest unread record; 0 where all is read


@dataclass(frozen=True, slots=True)
class Growth:
    """How many records arrived, were decided and were answered since the sample before; None where that is unknown."""

    seconds: float
    came_in: float
    decided: float | None
    answered: float


OffsetsByPartition = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class _Offsets:
    """The offsets of one sample."""

    at: datetime
    ends: OffsetsByPartition
    stored: OffsetsByPartition | None
    committed: OffsetsByPartition


@dataclass(slots=True)
class Flow:
    """The rates of the last samples."""

    _samples: "deque[_Offsets]" = field(default_factory=lambda: deque(maxlen=_WINDOW_SAMPLES))
    rates: "deque[Rates]" = field(default_factory=lambda: deque(maxlen=_MAX_RATES))

    def add_sample(self, at: datetime, lag: Sequence[GroupLag], lanes: Sequence[LaneProgress] | None) -> Growth | None:
        """Add a sample and the rate since the oldest sample of the window, and return what grew since the last one.

        Args:
            at: the time of the sample.
            lag: the lag of the workers' groups.
            lanes: the lanes' progress in the ledger's database; None where the database did not answer.

        """
        partitions = [each for group in lag for each in group.partitions]
        ends = {(each.topic, each.partition): each.end for each in partitions}
        committed = {(each.topic, each.partition): each.committed for each in partitions if each.committed is not None}
        stored = None
        if lanes is not None:
            stored = {(each.topic, each.partition): each.next_offset for each in lanes if each.next_offset is not None}
        now = _Offsets(at, ends, stored, committed)
        growth = None
        if self._samples:
            total = _growth(self._samples[0], now)
            if total is not None:
                growths = (total.came_in, total.decided, total.answered)
                came_in, decided, answered = (_rate(each, total.seconds) for each in growths)
                oldest = max((group.seconds for group in lag), default=0.0)
                self.rates.append(Rates(at, came_in, decided, answered, oldest))
            growth = _growth(self._samples[-1], now)
        self._samples.append(now)
        return growth

    def summary(self) -> dict[str, Any]:
        """Return the current rates and their history, oldest first, for JSON."""
        return {
            "now": asdict(self.rates[-1]) if self.rates else None,
            "history": [asdict(each) for each in self.rates],
        }


def _growth(before: _Offsets, now: _Offsets) -> Growth | None:
    seconds = (now.at - before.at).total_seconds()
    if seconds <= 0:
        return None
    decided = None
    if before.stored is not None and now.stored is not None:
        # A lane without a row has decided nothing beyond its group's offset: new books are no slower than their lanes.
        decided = _grown({**before.committed, **before.stored}, now.stored)
    return Growth(seconds, _grown(before.ends, now.ends), decided, _grown(before.committed, now.committed))


def _grown(before: OffsetsByPartition, now: OffsetsByPartition) -> float:
    """Return by how much offsets grew. One that went back counts as none: its partition was rewound or recreated."""
    return sum(max(0, offset - before[partition]) for partition, offset in now.items() if partition in before)


def _rate(grown: float | None, seconds: float) -> float | None:
    return None if grown is None else grown / seconds
