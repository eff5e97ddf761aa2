"""One lane's wait for other lanes, with the first record that it has received."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from time import monotonic

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

__all__ = ["Wait"]

_LOOK_SECONDS = 0.005, 0.25  # between two looks at the other lanes' rows: at first, and at most


@dataclass(slots=True)
class Wait:
    """Since when a lane waits and for whom, and what it learnt by waiting in vain."""

    offset: int | None = None  # of the record that it waits with; None: it does not wait
    last: int = -1  # offset of the last record that was received with it
    began: float = 0.0
    look_at: float = 0.0  # when to look again, by the monotonic clock
    group: str | None = None  # consumer group whose lane it waits for
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)  # asked for after the record was received
    announced: tuple[datetime, str] | None = None  # what its row tells the others
    in_vain: dict[TopicPartition, tuple[int | None, datetime]] = field(default_factory=dict)  # where others stood still

    def begin(self, records: Sequence[ConsumerRecord]) -> bool:
        """Wait with the first of some records, unless the lane does so already; tell whether the wait is a new one."""
        if self.offset == records[0].offset:
            return False
        self.offset, self.last = records[0].offset, records[-1].offset
        self.began, self.ends, self.announced = monotonic(), {}, None
        return True

    def cut(self, records: Sequence[ConsumerRecord]) -> Sequence[ConsumerRecord]:
        """Return the records that were received before the ends were asked for: nothing is known of later ones."""
        if self.offset != records[0].offset:
            return records
        return records[: bisect_right(records, self.last, key=lambda record: record.offset)]

    @property
    def seconds(self) -> float:
        """How long the lane has waited with this record."""
        return 0.0 if self.offset is None else monotonic() - self.began

    def postpone(self) -> None:
        """Look again in a moment, later the longer the wait; when other lanes look: one question serves all of them."""
        least, most = _LOOK_SECONDS
        at = monotonic() + min(max(least, self.seconds / 20), most)
        self.look_at = ceil(at / least) * least

    def end(self) -> None:
        """Wait no longer."""
        self.offset, self.group, self.look_at, self.announced = None, None, 0.0, None
