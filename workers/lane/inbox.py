"""A lane's inbox: what the consumer fetched for the lane and no turn has taken yet. Bounded, and never waited for."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from aiokafka.structs import ConsumerRecord

__all__ = ["MOST_BYTES", "Inbox", "Taken"]

MOST_BYTES = 8 * 1024 * 1024  # to decide together: a fetch that was compressed well may hold many times more
_ENOUGH_BYTES = 512 * 1024  # about two fetches of a partition: one to work on, one behind it
_RECORD_BYTES = 100  # of a record beside what it carries


class Taken(NamedTuple):
    """Records to work together, and the offset after them.

    That offset may pass the last record: control markers of transactions take offsets too, and a lag that counted
    them would never be 0. Then there may be no record at all.
    """

    records: Sequence[ConsumerRecord]
    next_offset: int


class Inbox:
    """Filled by the worker's one consumer, emptied by its turns. `changed` is called when there is something new."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._chunks: deque[Taken] = deque()
        self._bytes = 0  # in them
        self._position: int | None = None  # after what was offered last; None: the lane has not sought yet
        self._changed = changed
        self.error: Exception | None = None  # of the consumer, since the lane sought

    @property
    def is_open(self) -> bool:
        """Whether the lane has sought, and takes what comes after."""
        return self._position is not None

    @property
    def hungry(self) -> bool:
        """Whether records should be fetched for this lane."""
        return self.is_open and self.error is None and self._bytes < _ENOUGH_BYTES

    @property
    def bytes(self) -> int:
        """Size of what is there to take."""
        return self._bytes

    @property
    def records(self) -> int:
        """Number of records to take."""
        return sum(len(chunk.records) for chunk in self._chunks)

    def __len__(self) -> int:
        """Return how many chunks are there to take."""
        return len(self._chunks)

    def open(self, position: int) -> None:
        """Begin empty at an offset that the consumer has been made to seek."""
        self._chunks.clear()
        self._bytes = 0
        self.error = None
        self._position = position

    def close(self) -> None:
        """Drop what is there and take nothing more: what comes now belongs before a seek that is still to be made."""
        self._chunks.clear()
        self._bytes = 0
        self._position, self.error = None, None

    def offer(self, records: Sequence[ConsumerRecord], position: int) -> None:
        """Take what the consumer fetched, and where it stands after it; nothing of before the lane's offset.

        What was fetched from before that offset on and passes it is taken from there: the consumer fetches on after it.
        """
        if self._position is None:
            return
        new = records[bisect_left(records, self._position, key=lambda record: record.offset) :]
        if new or position > self._position:
            self._chunks.append(Taken(new, position))
            self._bytes += sum(map(_size, new))
            self._position = position
            self._changed()

    def put_back(self, taken: Taken) -> None:
        """Have records that were taken, and may not be decided yet, taken again."""
        self._chunks.appendleft(taken)
        self._bytes += sum(map(_size, taken.records))

    def interrupt(self, error: Exception) -> None:
        """Note an error of the consumer: the lane has to begin again from its offsets."""
        if self._position is not None:
            self.error = error
            self._changed()

    def take(self, limit: int, most_bytes: int = MOST_BYTES) -> Taken:
        """Return the first records, up to so many records or bytes and one at least. There has to be a chunk."""
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
        if (fits := max(1, bisect_right(sizes, most_bytes))) < len(records):
            self._chunks.appendleft(Taken(records[fits:], next_offset))
            records, next_offset = records[:fits], records[fits].offset
        self._bytes -= sizes[fits - 1] if records else 0
        return Taken(records, next_offset)


def _size(record: ConsumerRecord) -> int:
    size = _RECORD_BYTES + len(record.key or b"") + len(record.value or b"")
    if record.headers:
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
    return size
