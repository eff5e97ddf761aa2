"""A lane's inbox: what the consumer drained for it and it has not taken yet. Bounded, and never waited for."""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from aiokafka.structs import ConsumerRecord

__all__ = ["Inbox", "Taken"]

_ENOUGH_BYTES = 512 * 1024  # about two fetches of a partition: one to work on, one behind it
_MOST_BYTES = 8 * 1024 * 1024  # to work together: a fetch that was compressed well may hold many times more
_RECORD_BYTES = 100  # of a record beside what it carries


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
        self._bytes = 0  # in them
        self._position: int | None = None  # after what was offered last; None: the lane has not sought yet
        self._error: Exception | None = None
        self._stopped = False
        self._changed = asyncio.Event()

    @property
    def hungry(self) -> bool:
        """Whether records should be fetched for this lane."""
        waiting = self._position is not None and self._error is None
        return waiting and not self._stopped and self._bytes < _ENOUGH_BYTES

    @property
    def error(self) -> Exception | None:
        """The error that the next `take` would raise."""
        return self._error

    def open(self, position: int) -> None:
        """Begin empty at an offset that the consumer has been made to seek."""
        self._chunks.clear()
        self._bytes = 0
        self._error = None
        self._position = position

    def close(self) -> None:
        """Take nothing more: what comes now belongs before a seek that is still to be made."""
        self._position = None

    def offer(self, records: Sequence[ConsumerRecord], position: int) -> None:
        """Take what the consumer drained, and where it stands after it."""
        if self._position is not None and (records or position > self._position):
            self._chunks.append(Taken(records, position))
            self._bytes += sum(map(_size, records))
            self._position = position
            self._changed.set()

    def put_back(self, taken: Taken) -> None:
        """Have records that were taken, and may not be decided yet, taken again."""
        self._chunks.appendleft(taken)
        self._bytes += sum(map(_size, taken.records))

    def interrupt(self, error: Exception) -> None:
        """Let the lane's next `take` raise an error of the consumer's."""
        self._error = error
        self._changed.set()

    def stop(self) -> None:
        """Let the lane's next `take`, and all after it, return None."""
        self._stopped = True
        self._changed.set()

    async def take(self, limit: int) -> Taken | None:
        """Return what is there, up to so many records or bytes, as soon as anything is; None when asked to stop."""
        while not (self._chunks or self._error or self._stopped):
            self._changed.clear()
            await self._changed.wait()
        if self._stopped:
            return None
        if self._error is not None:
            raise self._error
        records: list[ConsumerRecord] = []
        next_offset = 0
        while self._chunks and len(records) < limit:  # what came while the lane was busy needs no turn of its own
            chunk = self._chunks.popleft()
            room = limit - len(records)
            if room < len(chunk.records):
                self._chunks.appendleft(chunk._replace(records=chunk.records[room:]))
                chunk = Taken(chunk.records[:room], chunk.records[room].offset)
            records += chunk.records
            next_offset = chunk.next_offset
        sizes = list(accumulate(map(_size, records)))
        if (fits := max(1, bisect_right(sizes, _MOST_BYTES))) < len(records):
            self._chunks.appendleft(Taken(records[fits:], next_offset))
            records, next_offset = records[:fits], records[fits].offset
        self._bytes -= sizes[fits - 1] if records else 0
        return Taken(records, next_offset)

    async def stopped(self, seconds: float) -> None:
        """Wait for `stop`, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                while not self._stopped:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return


def _size(record: ConsumerRecord) -> int:
    size = _RECORD_BYTES + len(record.key or b"") + len(record.value or b"")
    if record.headers:
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
    return size
