"""How many records a second come in, are decided, and are answered: what offsets say, from one look to the next."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from workers.ops.books.lanes import LaneProgress
from workers.ops.lag import GroupLag

__all__ = ["Flow", "Rates"]

_MAX_RATES: Final = 180
_WINDOW_SAMPLES: Final = 5  # looks that the pace of now is taken over: a batch is not a burst


@dataclass(frozen=True, slots=True)
class Rates:
    """Records a second between two looks; None where nothing can be said."""

    at: datetime
    came_in: float | None
    decided: float | None  # their outcomes are stored in the books
    answered: float | None  # their answers are published: their offset is committed in the same transaction


OffsetsByPartition = Mapping[tuple[str, int], int]


@dataclass(slots=True)
class Flow:
    """The rates of the last looks."""

    _samples: "deque[tuple[datetime, OffsetsByPartition, OffsetsByPartition | None, OffsetsByPartition]]" = field(
        default_factory=lambda: deque(maxlen=_WINDOW_SAMPLES)
    )
    rates: "deque[Rates]" = field(default_factory=lambda: deque(maxlen=_MAX_RATES))

    def add_sample(self, at: datetime, lag: Sequence[GroupLag], lanes: Sequence[LaneProgress] | None) -> None:
        """Take one look.

        Args:
            at: when it was.
            lag: of the workers' groups.
            lanes: how far the books are; None where they could not be asked.

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
        """Return the rates for JSON: those of now, and how they were, the oldest first."""
        return {
            "now": asdict(self.rates[-1]) if self.rates else None,
            "history": [asdict(each) for each in self.rates],
        }


def _growth_rate(before: OffsetsByPartition, now: OffsetsByPartition, seconds: float) -> float | None:
    """Return the growth a second. A partition that went back was rewound or made anew: that is no flow."""
    if seconds <= 0:
        return None
    return sum(max(0, offset - before[partition]) for partition, offset in now.items() if partition in before) / seconds
