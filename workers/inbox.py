"""A lane's inbox: what the consumer drained for it and it has not taken yet. Bounded, and never waited for."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka.structs import ConsumerRecord

__all__ = ["Inbox", "Taken"]

_CHUNKS = 2


class Taken(NamedTuple):
    """Records to work together, and the offset after them.

    That offset may pass the last record: control markers of transactions take offsets too, and a lag that counted
    them would never be 0. Then there may be no record at all.
    """

    records: Sequence[ConsumerRecord]
    next_offset: int


class Inbox:
    """Filled by the worker's one consumer, emptied by the lane's task."""

    def __init__(self) -> None:
        self._chunks: deque[Taken] = deque()
        self._position: int | None = None  # after what was offered last; None: the lane has not sought yet
        self._error: Exception | None = None
        self._stopped = False
        self._changed = asyncio.Event()

    @property
    def hungry(self) -> bool:
        """Whether records should be fetched for this lane."""
        waiting = self._position is not None and self._error is None
        return waiting and not self._stopped and len(self._chunks) < _CHUNKS

    def open(self, position: int) -> None:
        """Begin empty at an offset that the consumer has been made to seek."""
        self._chunks.clear()
        self._error = None
        self._position = position

    def close(self) -> None:
        """Take nothing more: what comes now belongs before a seek that is still to be made."""
        self._position = None

    def offer(self, records: Sequence[ConsumerRecord], position: int) -> None:
        """Take what the consumer drained, and where it stands after it."""
        if self._position is not None and (records or position > self._position):
            self._chunks.append(Taken(records, position))
            self._position = position
            self._changed.set()

    def interrupt(self, error: Exception) -> None:
        """Let the lane's next `take` raise an error of the consumer's."""
        self._error = error
        self._changed.set()

    def stop(self) -> None:
        """Let the lane's next `take`, and all after it, return None."""
        self._stopped = True
        self._changed.set()

    async def take(self, limit: int) -> Taken | None:
        """Return what is there, up to so many records, as soon as anything is; None when asked to stop."""
        while not (self._chunks or self._error or self._stopped):
            self._changed.clear()
            await self._changed.wait()
        if self._stopped:
            return None
        if self._error is not None:
            raise self._error
        chunk = self._chunks.popleft()
        if len(chunk.records) <= limit:
            return chunk
        self._chunks.appendleft(chunk._replace(records=chunk.records[limit:]))
        return Taken(chunk.records[:limit], chunk.records[limit].offset)

    async def stopped(self, seconds: float) -> None:
        """Wait for `stop`, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                while not self._stopped:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return
