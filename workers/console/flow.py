"""Flow rates: records a second that arrive, are decided and are answered, from the offsets of successive samples."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from workers.ops.books.lanes import LaneProgress
from workers.ops.lag import GroupLag

__all__ = ["Flow", "Rates"]

_MAX_RATES: Final = 180
_WINDOW_SAMPLES: Final = 5  # a rate covers so many samples, so that one batch does not look like a burst


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates between two samples, in records a second; None where a rate is unknown."""

    at: datetime
    came_in: float | None
    decided: float | None  # outcomes stored in the ledger's database
    answered: float | None  # answers published: the offset is committed in the same transaction


OffsetsByPartition = Mapping[tuple[str, int], int]


@dataclass(slots=True)
class Flow:
    """The rates of the last samples."""

    _samples: "deque[tuple[datetime, OffsetsByPartition, OffsetsByPartition | None, OffsetsByPartition]]" = field(
        default_factory=lambda: deque(maxlen=_WINDOW_SAMPLES)
    )
    rates: "deque[Rates]" = field(default_factory=lambda: deque(maxlen=_MAX_RATES))

    def add_sample(self, at: datetime, lag: Sequence[GroupLag], lanes: Sequence[LaneProgress] | None) -> None:
        """Add a sample and the rate since the oldest sample of the window.

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
        if self._samples:
            then, ends_then, stored_then, committed_then = self._samples[0]
            seconds = (at - then).total_seconds()
            self.rates.append(
                Rates(
                    at,
                    _growth_rate(ends_then, ends, seconds),
                    None if stored is None or stored_then is None else _growth_rate(stored_then, stored, seconds),
                    _growth_rate(committed_then, committed, seconds),
                )
            )
        self._samples.append((at, ends, stored, committed))

    def summary(self) -> dict[str, Any]:
        """Return the current rates and their history, oldest first, for JSON."""
        return {
            "now": asdict(self.rates[-1]) if self.rates else None,
            "history": [asdict(each) for each in self.rates],
        }


def _growth_rate(before: OffsetsByPartition, now: OffsetsByPartition, seconds: float) -> float | None:
    """Return the growth a second. An offset that went back counts as none: its partition was rewound or recreated."""
    if seconds <= 0:
        return None
    return sum(max(0, offset - before[partition]) for partition, offset in now.items() if partition in before) / seconds
