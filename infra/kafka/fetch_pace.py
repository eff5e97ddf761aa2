"""Decides how long a worker's fetches wait at the brokers: few records are fetched at once, many are gathered."""

from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

__all__ = ["GATHERING", "WAITING", "FetchPace", "FetchWait"]

_FEW_A_SECOND = 20  # fewer than the turns that gathering makes in that time: they cost no more one by one


class FetchWait(NamedTuple):
    """When a broker answers a fetch: once it has so many bytes, or after so many milliseconds."""

    bytes: int
    milliseconds: int


# Each answer begins a turn, and a transaction costs the broker 4 ms of CPU, whatever its size. At 1,000 requests a
# second on 2 cores a fetch that waits for one record gives a median of 21 instead of 32 ms, and takes 2.1 times the
# CPU; with 20 ms both were about as with 25.
GATHERING = FetchWait(64 * 1024, 25)
# Where little comes, waiting for more would only make it late, and asking again and again would cost an idle worker
# 4 % of a core. Not longer, as a partition that was just assigned is fetched after the answer to the fetch before.
WAITING = FetchWait(1, 200)


class FetchPace:
    """Follows how many records arrive, and changes how fetches wait."""

    def __init__(self, change: Callable[[FetchWait], None], clock: Callable[[], float] = monotonic) -> None:
        """Take what changes the fetches from the next one on. They gather at first."""
        self._change, self._clock = change, clock
        self._wait = GATHERING
        self._since, self._count = clock(), 0  # of the current second

    @property
    def is_waiting(self) -> bool:
        """Whether few records arrive, so that a poll may wait for the next one."""
        return self._wait is WAITING

    def gather(self) -> None:
        """Gather for a second at least: partitions that were just assigned are not to wait for long fetches."""
        self._since, self._count = self._clock(), 0
        self._set(GATHERING)

    def count(self, records: int) -> None:
        """Count the records of a poll."""
        self._count += records
        if self._count > _FEW_A_SECOND:
            self._set(GATHERING)
        if self._clock() - self._since >= 1:
            if self._count <= _FEW_A_SECOND:
                self._set(WAITING)
            self._since, self._count = self._clock(), 0

    def _set(self, wait: FetchWait) -> None:
        if wait is not self._wait:
            self._wait = wait
            self._change(wait)
