"""A queue of scheduled actions, ordered by time."""

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count
from typing import Any

from workers.simulate.records import Record

__all__ = ["Action", "Agenda"]

Action = Callable[[int, Any], Iterable[Record]]
"""Called with its time (in Kafka's milliseconds) and subject; returns the records of that time."""


class Agenda:
    """Actions in the order of time, then of addition. Actions at or after the end are dropped."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._heap: list[tuple[int, int, Action, Any]] = []
        self._numbers = count()

    def add(self, time: int, action: Action, subject: object = None) -> None:
        """Schedule an action."""
        if time < self._end:
            heappush(self._heap, (time, next(self._numbers), action, subject))

    def next_time(self) -> int:
        """Return the time of the next action, or the end if there is none."""
        return self._heap[0][0] if self._heap else self._end

    def run_next(self) -> Iterable[Record]:
        """Run the next action and return its records.

        Raises:
            IndexError: when no action is left.

        """
        time, _, action, subject = heappop(self._heap)
        return action(time, subject)
