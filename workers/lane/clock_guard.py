"""The guard of a lane's clock: a time far ahead of the host's is not taken before an operator says so.

A lane's clock never runs back. One record of a far time, from a broker whose clock is wrong, would end every lot of the
partition's accounts for good. So the lane holds such a record, in its order, and says so; the records before it are
decided. An operator lets the time in, or sets the record aside (`inmail clock`); where it was the host's own clock that
was wrong, the lane goes on by itself once that is set. The host's clock is compared for this alarm and for nothing
else: what is decided is the same on every host.

Where a setting takes the producers' times, however far from the broker's, there is nothing to compare.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.clock import from_milliseconds, to_milliseconds, utc_now
from infra.postgres import Pool
from infra.settings import RecordTime, Settings
from workers.jobs.record_times import TimePolicy, read_time_policy
from workers.lane.inbox import Inbox
from workers.lane.lane_row import LaneRow
from workers.telemetry.lane_health import LaneHealth

__all__ = ["ClockGuard"]

_LOOK_SECONDS = 1.0  # between two looks for an operator's decision
_ACCEPTED = (
    "select first_offset, next_offset, time from clock_decisions"
    " where topic = $1 and partition = $2 and kind = 'accept' order by decision"
)


class _Accepted(NamedTuple):
    """Records whose times an operator lets in: those of a range, up to an instant."""

    first_offset: int
    next_offset: int
    up_to: datetime


class ClockGuard:
    """Whose times one lane takes, and how far ahead of the host's clock."""

    def __init__(self, pool: Pool, row: LaneRow, health: LaneHealth, settings: Settings) -> None:
        self.times = TimePolicy(settings.topic_record_time)
        self._pool, self._row, self._health = pool, row, health
        self._most = timedelta(minutes=settings.clock_ahead_minutes)
        self._accepted: list[_Accepted] = []
        self._log = structlog.get_logger("inmail.lane").bind(topic=row.topic, partition=row.partition)

    async def open(self) -> None:
        """Read what operators have decided."""
        place = TopicPartition(self._row.topic, self._row.partition)
        self.times = await read_time_policy(self._pool, self.times.record_time, place)
        self._accepted = [_Accepted(*row) for row in await self._pool.fetch(_ACCEPTED, *place)]

    async def admit(
        self, records: Sequence[ConsumerRecord], as_of: datetime, inbox: Inbox, stopping: Callable[[], bool]
    ) -> int:
        """Return how many records may be decided: those before the first of a time far ahead. 0 where a stop came.

        Waits for an operator where that is the first of them.

        Raises:
            FencedError: when there is a newer owner.
            KafkaError: when the consumer failed, or what was decided before could not be published.

        """
        count = self._count_admitted(records, as_of)
        if count or not records:
            return count
        time = from_milliseconds(records[0].timestamp)
        reason = self._words(records[0], time)
        self._log.error("time_far_ahead", offset=records[0].offset, time=time.isoformat(), hint=reason)
        while not count:
            if inbox.error is not None:
                raise inbox.error
            self._health.holds(reason, (time - utc_now()).total_seconds())
            await self._row.hold(reason, records[0].offset, time)
            await inbox.stopped(_LOOK_SECONDS)
            if stopping():
                return 0
            await self.open()
            count = self._count_admitted(records, as_of)
        self._log.warning("time_far_ahead_over", offset=records[0].offset)
        self._health.goes_on()
        return count

    def _count_admitted(self, records: Sequence[ConsumerRecord], as_of: datetime) -> int:
        if self.times.record_time is RecordTime.CREATE:
            return len(records)
        latest = to_milliseconds(max(as_of, utc_now() + self._most))
        if max(self.times.timestamps(records), default=0) <= latest:
            return len(records)
        return next((n for n, record in enumerate(records) if self._is_far(record, latest)), len(records))

    def _is_far(self, record: ConsumerRecord, latest: int) -> bool:
        if record.timestamp <= latest or self.times.refusal(record) is not None:
            return False
        time = from_milliseconds(record.timestamp)
        return not any(
            each.first_offset <= record.offset < each.next_offset and time <= each.up_to for each in self._accepted
        )

    def _words(self, record: ConsumerRecord, time: datetime) -> str:
        return (
            f"the clock: the broker's time of offset {record.offset} is {time:%Y-%m-%dT%H:%M:%SZ}, more than"
            f" {self._most.total_seconds() / 60:g} minutes (INMAIL_CLOCK_AHEAD_MINUTES) ahead of this host's; nothing"
            " after it is decided. Compare the clocks of broker and host, then `inmail clock accept` or `inmail clock"
            " set-aside`"
        )
