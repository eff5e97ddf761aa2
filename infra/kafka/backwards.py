"""Reads partitions from their end towards their beginning, in bounded windows of offsets.

A consumer only reads forwards, and fetches on behind what is asked. Whoever shows the newest records needs what lies
just before the end, and no more: a window has a number of offsets, and the next one has more or fewer, by how large the
records are. Offsets are not records: a transaction's marker has one, and what was aborted or removed has some too.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord

from infra.clock import nearest_instant
from infra.kafka.cluster_queries import EARLIEST, ClusterQueries
from infra.kafka.peek import read_through

__all__ = ["FEWEST_OFFSETS", "BackwardReader", "ReadBudget"]

FEWEST_OFFSETS: Final = 8  # to begin with, while nothing tells how large the records are
_MOST_OFFSETS: Final = 1024
_WINDOW_BYTES: Final = 1024 * 1024  # that a window should have at most, as far as the one before tells
_FETCH_BYTES: Final = 64 * 1024  # of a request: what it fetches behind its window is waste


@dataclass(slots=True)
class ReadBudget:
    """How much may be read: offsets, which take time, and bytes, which take memory."""

    offsets: int
    bytes: int

    @property
    def is_spent(self) -> bool:
        """Whether nothing more should be read."""
        return self.offsets <= 0 or self.bytes <= 0


@dataclass(slots=True)
class BackwardReader:
    """One partition, read backwards."""

    lookup: ClusterQueries
    place: TopicPartition
    below: int  # everything from here on was read, or is not asked for
    oldest: int  # nothing before it is there, or is asked for
    size: int = 16  # offsets of the next window
    reached: datetime | None = field(default=None, init=False)  # time of the oldest record read

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to read."""
        return self.below <= self.oldest

    async def read_window(self, budget: ReadBudget | None = None) -> list[ConsumerRecord]:
        """Return the committed records of the next window, newest first, and take what was read off the budget.

        Raises:
            KafkaError: when the partition cannot be read now.

        """
        size = self.size
        if budget is not None:
            size = 1 if budget.is_spent else min(self.size, budget.offsets)
        start = max(self.oldest, self.below - size)
        try:
            window = read_through(self.lookup, self.place, start, self.below, _FETCH_BYTES, strict=True)
            records = [record async for record in window]
        except OffsetOutOfRangeError:  # retention has removed it meanwhile
            oldest = (await self.lookup.offsets({self.place: EARLIEST})).get(self.place, -1)
            if oldest <= self.oldest:
                raise
            self.oldest = oldest
            return []
        read = sum(len(record.value or b"") + len(record.key or b"") for record in records)
        if budget is not None:
            budget.offsets -= self.below - start
            budget.bytes -= read
        if records:
            self.reached = nearest_instant(records[0].timestamp)
        fitting = _WINDOW_BYTES * (self.below - start) // max(read, 1)
        self.size = max(1, min(2 * self.size, _MOST_OFFSETS, fitting))
        self.below = start
        return records[::-1]
