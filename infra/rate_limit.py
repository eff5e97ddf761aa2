"""Limits records to a steady rate, until a stop interrupts the wait."""

import asyncio

from infra.first_of import wait_for_event

__all__ = ["RateLimit"]

_BURST_SECONDS = 1.0


class RateLimit:
    """Limits an operation to a number of records a second, and reports a requested stop."""

    def __init__(self, rate: float | None, stop: asyncio.Event) -> None:
        """Create a limit of `rate` records a second (None: no limit); the event `stop` ends a wait."""
        self._rate = rate
        self._stop = stop
        self._clock = asyncio.get_running_loop().time
        self._next = self._clock()

    def batch_size(self, most: int, side_by_side: int) -> int:
        """Return the maximum size of a batch: the records of one second, shared by the batches side by side."""
        return most if self._rate is None else max(1, min(most, round(self._rate / side_by_side)))

    async def before(self) -> bool:
        """Wait until the next record is due and count the record; return True instead if a stop is requested."""
        self._forgive_delay()
        if await self._stopped_before(self._next):
            return True
        self._count(1)
        return False

    async def after(self, done: int) -> bool:
        """Count finished records and wait until the next is due; return True if a stop is requested."""
        self._forgive_delay()
        self._count(done)
        return await self._stopped_before(self._next)

    def _forgive_delay(self) -> None:
        """Forget a delay of more than one second, so that no burst follows a slow answer of a server."""
        self._next = max(self._next, self._clock() - _BURST_SECONDS)

    def _count(self, records: int) -> None:
        if self._rate is not None:
            self._next += records / self._rate

    async def _stopped_before(self, due: float) -> bool:
        if not self._stop.is_set() and due > self._clock():
            await wait_for_event(self._stop, due - self._clock())
        return self._stop.is_set()
