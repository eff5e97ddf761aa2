"""A history as a readable file of newline-delimited JSON, generated on reading."""

import io
from collections.abc import Iterable, Iterator
from itertools import islice

from typing_extensions import Buffer, override

from workers.simulate.records import Record

__all__ = ["HistoryFile"]

_BATCH = 1_000


class HistoryFile(io.RawIOBase):
    """A binary file with one event on each line. `events` and `time` are the number and time of the events read."""

    def __init__(self, records: Iterable[Record], start: int) -> None:
        self._records: Iterator[Record] = iter(records)
        self._pending = bytearray()
        self.events = 0
        self.time = start  # of the latest event, in Kafka's milliseconds

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        while len(self._pending) < len(view) and (batch := list(islice(self._records, _BATCH))):
            self._pending += b"".join(record.value + b"\n" for record in batch)
            self.events += len(batch)
            self.time = batch[-1].time
        size = min(len(view), len(self._pending))
        view[:size] = self._pending[:size]
        del self._pending[:size]
        return size
