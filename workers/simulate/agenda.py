"""What is still to happen, in order of time."""

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count
from typing import Any

from workers.simulate.records import Record

__all__ = ["Action", "Agenda"]

Action = Callable[[int, Any], Iterable[Record]]
"""Happens at a time to a subject of its own choice, and gives the records of that time."""


class Agenda:
    """Actions by time; at the same time, in the order in which they were added. What comes after the end is dropped."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._heap: list[tuple[int, int, Action, Any]] = []
        self._numbers = count()

    def add(self, time: int, action: Action, subject: object = None) -> None:
        """Note an action."""
        if time < self._end:
            heappush(self._heap, (time, next(self._numbers), action, subject))

    def next_time(self) -> int:
        """Return when the next action is due; the end if there is none."""
        return self._heap[0][0] if self._heap else self._end

    def run_next(self) -> Iterable[Record]:
        """Do what is due next."""
        time, _, action, subject = heappop(self._heap)
        return action(time, subject)
