"""Tells results that are published again, by a rewind or `inmail replay reemit`, from those published the first time.

A result published again is the same to the byte. But a lane notes in the books up to which record its results are
published, and only afterwards: so a result that the brokers received after such a note, of a record before it, was
published before. A first publication after an outage, however late, is of a record beyond every note until then.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from aiokafka import TopicPartition

from workers.ops.books.lanes import LaneProgress

__all__ = ["PublishedMarks"]

_SKEW: Final = timedelta(seconds=60)  # by which the brokers' clocks may be ahead of the console's
_APART: Final = timedelta(seconds=10)  # of two notes of a lane that are kept
_KEPT: Final = timedelta(minutes=5)  # before the newest


@dataclass(slots=True)
class _LaneMarks:
    topic_id: UUID | None
    marks: list[tuple[datetime, int]] = field(default_factory=list)  # rising


class PublishedMarks:
    """The notes of all lanes that this console has seen, of the last minutes."""

    def __init__(self) -> None:
        self._lanes: dict[TopicPartition, _LaneMarks] = {}

    def add_sample(self, at: datetime, lanes: Iterable[LaneProgress]) -> None:
        """Add what lanes had noted at a time, or earlier. Notes of a topic that was created again replace all others.

        A note stays the highest: a rewind sets the lane's own back.
        """
        for lane in lanes:
            if lane.published is None:
                continue
            place = TopicPartition(lane.topic, lane.partition)
            known = self._lanes.get(place)
            if known is None or known.topic_id != lane.topic_id:
                known = self._lanes[place] = _LaneMarks(lane.topic_id)
            if known.marks and at - known.marks[-1][0] < _APART:
                continue
            highest = known.marks[-1][1] if known.marks else 0
            known.marks.append((at, max(highest, lane.published)))
            while len(known.marks) > 1 and known.marks[1][0] <= at - _KEPT:
                known.marks.pop(0)

    def were_published(self, origin: object, at: datetime) -> bool:
        """Return whether the results of a record had been published before.

        Args:
            origin: the record's topic, partition and offset, as a result has them; anything else is of nobody's lane.
            at: when the brokers received the result.

        """
        match origin:
            case {"topic": str(topic), "partition": int(partition), "offset": int(offset)}:
                lane = self._lanes.get(TopicPartition(topic, partition))
                marks = lane.marks if lane is not None else []
                return any(seen_at + _SKEW <= at and offset < mark for seen_at, mark in marks)
        return False
