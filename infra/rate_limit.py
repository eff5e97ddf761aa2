"""A steady rate for what is sent, which a stop can interrupt."""

import asyncio

__all__ = ["Pace"]

_BURST_SECONDS = 1.0


class Pace:
    """Lets so many through in a second, and tells whether it is time to stop instead."""

    def __init__(self, rate: float, stop: asyncio.Event) -> None:
        """Take a rate in records a second, and what ends the wait."""
        self._rate = rate
        self._stop = stop
        self._clock = asyncio.get_running_loop().time
        self._next = self._clock()

    async def stopped(self) -> bool:
        """Wait until it is time for the next one; tell whether it is time to stop instead."""
        now = self._clock()
        self._next = max(self._next, now - _BURST_SECONDS)  # what a slow broker cost is not made up for in a burst
        if self._stop.is_set():
            return True
        if self._next > now:
            try:
                await asyncio.wait_for(self._stop.wait(), self._next - now)
            except TimeoutError:
                pass
            else:
                return True
        self._next += 1 / self._rate
        return False
