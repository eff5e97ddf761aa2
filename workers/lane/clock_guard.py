"""The guard of a lane's clock: a time far ahead of the host's is not taken before an operator says so.

A lane's clock never runs back. One record of a far time, from a broker whose clock is wrong, would end every lot of the
partition's accounts for good. So the lane holds such a record, in its order, and says so; the records before it are
decided. An operator lets the time in, or sets the record aside (`inmail clock`); where it was the host's own clock that
was wrong, the lane goes on by itself once that is set. The host's clock is compared for this alarm and for nothing
else: what is decided is the same on every host.

Where a setting takes the producers' times, however far from the broker's, there is nothing to compare.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.clock import from_milliseconds, to_milliseconds, utc_now
from infra.postgres import Pool
from infra.settings import RecordTime, Settings
from workers.jobs.record_times import TimePolicy, read_set_backs, read_time_policy

__all__ = ["ClockGuard", "HeldRecord"]

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


class HeldRecord(NamedTuple):
    """A record that a lane holds: where, its time by the broker, and why, in words that name what to do."""

    offset: int
    time: datetime
    ahead_seconds: float  # of this host's clock
    reason: str


class ClockGuard:
    """Whose times one lane takes, and how far ahead of the host's clock."""

    def __init__(self, pool: Pool, place: TopicPartition, settings: Settings) -> None:
        self.times = TimePolicy(settings.topic_record_time)
        self.set_back_before = 0  # the offset at which an operator has set the clock back; 0: nobody has
        self.held: HeldRecord | None = None  # the lane's first record, while it is of a time far ahead
        self._pool, self._place = pool, place
        self._most = timedelta(minutes=settings.clock_ahead_minutes)
        self._accepted: list[_Accepted] = []
        self.look_at = 0.0  # when to look again for an operator's decision

    async def open(self) -> None:
        """Read what operators have decided."""
        self.held = None
        self.set_back_before = max((await read_set_backs(self._pool)).get(self._place, (0,)))
        await self._read()

    async def admit(self, records: Sequence[ConsumerRecord], as_of: datetime) -> int:
        """Return how many records may be decided: those before the first of a time far ahead.

        0: that is the first of them, which `held` describes then. Each second it is looked for an operator's decision.
        """
        count = self._count_admitted(records, as_of)
        if not count and monotonic() >= self.look_at:
            self.look_at = monotonic() + _LOOK_SECONDS
            await self._read()
            count = self._count_admitted(records, as_of)
        self.held = None if count else self._describe(records[0])
        return count

    async def _read(self) -> None:
        self.times = await read_time_policy(self._pool, self.times.record_time, self._place)
        self._accepted = [_Accepted(*row) for row in await self._pool.fetch(_ACCEPTED, *self._place)]

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

    def _describe(self, record: ConsumerRecord) -> HeldRecord:
        time = from_milliseconds(record.timestamp)
        return HeldRecord(
            record.offset,
            time,
            (time - utc_now()).total_seconds(),
            f"the clock: the broker's time of offset {record.offset} is {time:%Y-%m-%dT%H:%M:%SZ}, more than"
            f" {self._most.total_seconds() / 60:g} minutes (INMAIL_CLOCK_AHEAD_MINUTES) ahead of this host's; nothing"
            " after it is decided. Compare the clocks of broker and host, then `inmail clock accept` or `inmail clock"
            " set-aside`",
        )
