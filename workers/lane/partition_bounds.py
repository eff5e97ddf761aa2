"""Where the partitions of lanes' neighbours begin and end, asked of Kafka for all lanes of a turn together.

An end counts for a record only if it was asked for after the record was received: what comes later is later. One that
nobody tells, as of a partition without a leader, is unknown: the neighbour may have anything unread, and is waited for
as such a one is. It keeps no other lane waiting, and no lane for longer than any other neighbour does.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import structlog
from aiokafka import TopicPartition

from infra.kafka.end_offsets import EndOffsets
from infra.retry import SERVER_ERRORS, describe_error, is_retriable, suppress_retriable
from workers.lane.lane import Lane
from workers.lane.neighbour import Neighbour

__all__ = ["PartitionBounds", "all_places"]

_STARTS_SECONDS = 60.0  # how long it is believed where a lane begins that has not read on
_ANSWER_SECONDS = 1.0  # for a question to Kafka that a turn waits for
_ALONE_SECONDS = 120.0  # for so long after a question that was not answered in time, each partition is asked for alone
_UNKNOWN_END = 2**63 - 1  # beyond whatever a lane has read


class _KnownStart(NamedTuple):
    """Where a lane begins to read that has not read on; of which topic, under which epoch, and until when it holds."""

    offset: int
    topic_id: UUID | None
    epoch: int  # an operator who lets a lane go on with another topic raises it
    until: float


class _EndQuestion(NamedTuple):
    """A question for the end of one partition, under way or answered, and when it was asked."""

    asked_at: float
    answer: "asyncio.Task[dict[TopicPartition, int]]"


_Answer = TypeVar("_Answer")


class PartitionBounds:
    """Asks Kafka where partitions begin and end, and keeps what lanes may go by."""

    def __init__(self, ends: EndOffsets, topic_ids: Mapping[str, UUID]) -> None:
        """Take what asks Kafka, and the ids that topics were last seen to have."""
        self._ends, self._topic_ids = ends, topic_ids
        self._starts: dict[TopicPartition, _KnownStart] = {}
        self._asking: dict[TopicPartition, _EndQuestion] = {}
        self._asking_starts: asyncio.Task[None] | None = None
        self._alone_until = 0.0
        self._log = structlog.get_logger("inmail.worker")

    def end(self, lane: Lane, row: Neighbour) -> int:
        """Return where a neighbour's partition ended after a lane had received its first record."""
        return lane.wait.ends.get(row.place, _UNKNOWN_END)

    def start(self, row: Neighbour) -> int:
        """Return where a neighbour begins to read, if that was asked a moment ago; 0: it was not."""
        start = self._start(row)
        return start.offset if start is not None and start.until >= monotonic() else 0

    def was_away(self, row: Neighbour) -> bool:
        """Tell whether a neighbour was found not to have read on, and has not since."""
        start = self._start(row)
        return start is not None and (row.offset or 0) <= start.offset

    def _start(self, row: Neighbour) -> _KnownStart | None:
        start = self._starts.get(row.place)
        is_same = start is not None and (start.topic_id, start.epoch) == self._version(row)
        return start if is_same else None

    def _version(self, row: Neighbour) -> tuple[UUID | None, int]:
        return self._topic_ids.get(row.place.topic), row.epoch

    async def ask_ends(self, places: Mapping[Lane, Sequence[TopicPartition]]) -> None:
        """Ask where the lanes' neighbours end, of those that do not know yet.

        Raises:
            KafkaError: when asking again would not help.

        """
        unknown = {lane: [place for place in each if place not in lane.wait.ends] for lane, each in places.items()}
        if not (missing := all_places(unknown)):
            return
        if monotonic() >= self._alone_until and all(each.answer.done() for each in self._asking.values()):
            self._asking.clear()
            asked_at = monotonic()
            ends = await _answer_in_time(self._ends.end_offsets(missing))
            if ends is not None:
                # A lane that was opened again meanwhile waits with what it received later.
                for lane in [lane for lane in unknown if lane.wait.began <= asked_at]:
                    lane.wait.ends = {**lane.wait.ends, **ends}
                return
            # One partition of which the brokers tell nothing keeps the answer for all.
            self._alone_until = monotonic() + _ALONE_SECONDS
        await self._ask_alone(missing)
        answered = self._take_answers(missing)
        if not self._asking and len(answered) == len(missing):
            self._alone_until = 0.0  # the brokers were slow, and no partition is without an answer
        for place, (asked_at, answer) in answered.items():
            for lane, own in unknown.items():
                if place in own and lane.wait.began <= asked_at:
                    lane.wait.ends = {**lane.wait.ends, place: answer.result()[place]}

    async def _ask_alone(self, places: Sequence[TopicPartition]) -> None:
        """Ask for the end of each partition alone. Only what is asked now is waited for, and not for long.

        A question without an answer is not asked a second time beside itself: aiokafka asks on for 40 s.
        """
        new = {}
        for place in places:
            if place not in self._asking:
                new[place] = _EndQuestion(monotonic(), asyncio.create_task(self._ends.end_offsets([place])))
                new[place].answer.add_done_callback(_retrieve)
        self._asking |= new
        if new:
            await asyncio.wait([each.answer for each in new.values()], timeout=_ANSWER_SECONDS)

    def _take_answers(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, _EndQuestion]:
        """Return what was answered of some partitions; what failed is asked again the next time.

        An answer may be gone: the question of a turn that has failed goes on beside the next turn's, and takes it.
        """
        asked = {place: self._asking[place] for place in places if place in self._asking}
        answered = {place: self._asking.pop(place) for place, each in asked.items() if each.answer.done()}
        for place, (_, answer) in list(answered.items()):
            try:
                answer.result()
            except SERVER_ERRORS as error:
                if not is_retriable(error):
                    raise
                del answered[place]
                self._log.warning(
                    "order_not_known", topic=place.topic, partition=place.partition, error=describe_error(error)
                )
        return answered

    def knows_end(self, lane: Lane, row: Neighbour) -> bool:
        """Tell whether the brokers have told where a neighbour's partition ended."""
        return row.place in lane.wait.ends

    async def ask_starts(self, rows: Iterable[Neighbour]) -> None:
        """Ask where lanes begin that have not read on, unless that was asked a moment ago or is being asked."""
        if self._asking_starts is not None and not self._asking_starts.done():
            return
        now = monotonic()
        known = ((row, self._start(row)) for row in rows)
        unknown = {row.place: row for row, start in known if start is None or start.until < now}
        if unknown:
            self._asking_starts = asyncio.create_task(self._learn_starts(unknown))
            await _answer_in_time(self._asking_starts)

    async def _learn_starts(self, rows: Mapping[TopicPartition, Neighbour]) -> None:
        """Ask where lanes begin, and note the answer: also one that comes too late for the turn that asked."""
        versions = {place: self._version(row) for place, row in rows.items()}
        starts = await self._ends.starts([(row.consumer_group, row.place, row.offset) for row in rows.values()])
        for place, start in starts.items():
            self._starts[place] = _KnownStart(start, *versions[place], monotonic() + _STARTS_SECONDS)


async def _answer_in_time(question: Awaitable[_Answer]) -> _Answer | None:
    """Return the answer to a question to Kafka; None where there is none in time.

    The question goes on: aiokafka leaves a connection open that it was making for one that is cancelled.

    Raises:
        KafkaError: when asking again would not help.

    """
    asking = asyncio.ensure_future(question)
    asking.add_done_callback(_retrieve)
    done, _ = await asyncio.wait([asking], timeout=_ANSWER_SECONDS)
    if not done:
        return None
    with suppress_retriable():
        return asking.result()
    return None


def all_places(places: Mapping[Lane, Sequence[TopicPartition]]) -> list[TopicPartition]:
    """Return the partitions of all lanes, each once."""
    return list(dict.fromkeys(place for each in places.values() for place in each))


def _retrieve(asking: "asyncio.Task[Any]") -> None:
    if not asking.cancelled():
        asking.exception()
