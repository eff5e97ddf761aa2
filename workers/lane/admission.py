"""Which of the records that a lane has taken may be decided now: not of a time far ahead, and not before its order."""

from bisect import bisect_left
from collections.abc import Callable
from datetime import datetime

from infra.postgres import Pool
from infra.settings import Settings
from workers.jobs.record_times import TimePolicy
from workers.lane.clock_guard import ClockGuard
from workers.lane.inbox import Inbox, Taken
from workers.lane.lane_row import LaneRow
from workers.lane.numbering import agree_on_partitions, other_numbers, places_of
from workers.lane.time_order import Ends, Order, Turn
from workers.telemetry.lane_health import LaneHealth

__all__ = ["Admission"]


class Admission:
    """One lane's way from records that were taken to records that may be decided."""

    def __init__(  # noqa: PLR0913, PLR0917 - what the lane has
        self, pool: Pool, ends: Ends, row: LaneRow, inbox: Inbox, health: LaneHealth, settings: Settings
    ) -> None:
        self._pool, self._row, self._inbox = pool, row, inbox
        self._guard = ClockGuard(pool, row, health, settings)
        self._order = Order(pool, ends, row, settings.order_seconds, health)
        self._partitions = 1

    @property
    def times(self) -> TimePolicy:
        """Whose word for a record's time is taken."""
        return self._guard.times

    async def open(self, partitions: int) -> None:
        """Take the topic's number of partitions, and read what operators have decided.

        Raises:
            LaneError: when the books number accounts by another number of partitions.

        """
        await agree_on_partitions(self._pool, self._row.topic, partitions)
        await self._guard.open()
        self._partitions = partitions

    async def admit(
        self, taken: Taken, as_of: datetime, stored: int, stopping: Callable[[], bool]
    ) -> tuple[Taken, Turn] | None:
        """Wait until records may be decided, the first at least; return them; None where a stop came first.

        The rest is taken again. Records before the offset `stored` are decided already: they wait for nobody.
        """
        if decided := bisect_left(taken.records, stored, key=lambda record: record.offset):
            return self._cut(taken, decided), Turn(decided)
        count = await self._guard.admit(taken.records, as_of, self._inbox, stopping)
        if taken.records and not count:
            return None
        taken = self._cut(taken, count)
        others = places_of(other_numbers(taken.records, self._row.partition, self._partitions))
        turn = await self._order.turn(taken.records, as_of, self.times, stopping, others)
        if taken.records and not turn.records:
            return None
        return self._cut(taken, turn.records), turn

    def _cut(self, taken: Taken, count: int) -> Taken:
        if count == len(taken.records):
            return taken
        first, rest = taken.records[:count], taken.records[count:]
        self._inbox.put_back(Taken(rest, taken.next_offset))
        return Taken(first, rest[0].offset)
