"""In which order the lanes of one partition number decide: by the broker's time, whoever reads faster.

Three workers read three topics at their own pace, and move credits of the same accounts. For the same books to come of
the same input, however fast each was, a record of the time T is decided once the other lanes of its number have decided
all they have before it. At one instant billing comes first, then sends, then ticks (rule 16).

Another lane has come so far when its row says so; while it waits itself, the row tells the time of the record it waits
with. Or when it stands at the end of its partition, asked for after the record was received: what comes later is later.
Whoever has nothing unread is waited for by nobody; whoever has is waited for, whether its process runs, restarts, was
killed or was never started (rule 21). Whoever comes first in this order waits for nobody, so that no two lanes wait for
each other: of the first records of all lanes, the one with the earliest time, and at one instant of the first topic, is
held up by none that has told its own.

A turn asks once for all its lanes: one question for the ends, one for the rows. A lane that has to wait is passed over,
and the turn goes on with the others.

The wait for a lane is bounded (INMAIL_ORDER_SECONDS). Beyond its limit a lane goes on, and at once while the other has
not moved since a wait for it was in vain. What is decided so is noted in `decided_ahead`, and what would be refused for
want of credit is not decided for good (`balance_not_current`). The order is the brokers': where their clocks differ by
more than a record takes to be read, a late record is noted there too.

A tick gives nobody a credit, and what it takes comes out the same without it (`apply_caps.sql`). So the expiry lane is
waited for only while it runs in time, and a moment at most: its lines then stand in the order of time.

A record of an account with another number than its partition's (its producer does not partition with murmur2) is
decided in the order of its account's number: its batch waits for the send and billing lanes of that number as well.
They do not wait for it in turn, since nobody knows where such a producer will have put its next record.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.clock import LATEST
from infra.kafka.end_offsets import EndOffsets
from infra.postgres import Pool
from infra.retry import SERVER_ERRORS, is_retriable, suppress_retriable
from schemas.catalogue import EXPIRY_TICKS
from workers.jobs.decoding import decision_time, latest_decision_time
from workers.jobs.record_times import TimePolicy
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRows
from workers.lane.neighbour import Neighbour, read_neighbours
from workers.topology import TOPIC_RANK

__all__ = ["Decidable", "Order", "Overtaken", "Received"]

_TICK_SECONDS = 0.25  # for the expiry lane
_AWAY_SECONDS = 1.0  # a lane that runs has mostly read on by then
_STARTS_SECONDS = 60.0  # how long it is believed where a lane begins that has not read on
_ANSWER_SECONDS = 1.0  # for a question to Kafka that a turn waits for
_ALONE_SECONDS = 120.0  # for so long after a question that was not answered in time, each lane asks for its own ends


class Overtaken(NamedTuple):
    """A lane that records were decided without: its group, and where it stood."""

    neighbour: str
    offset: int


class Received(NamedTuple):
    """What a lane has received, in order and one record at least, and partitions that it waits for beside its own."""

    lane: Lane
    records: Sequence[ConsumerRecord]
    others: Sequence[TopicPartition] = ()


class Decidable(NamedTuple):
    """How many of a lane's records may be decided now, and which lanes they are then ahead of, or late for."""

    records: int
    overtaken: Sequence[Overtaken] = ()
    waited_for: str | None = None  # a group that has records unread that come before them and may give credits
    read_to: datetime = LATEST  # the instant up to which lanes that may give credits have read all they have
    is_misplaced: bool = False  # some records belong to accounts of other lanes


_Answer = TypeVar("_Answer")


class Order:
    """The place of one worker's lanes among their neighbours."""

    def __init__(self, pool: Pool, ends: EndOffsets, rows: LaneRows, limit_seconds: float) -> None:
        """Take the pool, the topics' ends, the lanes' rows, and how long a lane waits at most; 0: never."""
        self._pool = pool
        self._ends = ends
        self._rows = rows
        self._limit = limit_seconds
        self._topics = [topic for topic in TOPIC_RANK if topic != rows.topic]
        self._starts: dict[TopicPartition, tuple[int, float]] = {}  # where a lane begins, and until when that holds
        self._asking: dict[Lane, asyncio.Task[dict[TopicPartition, int]]] = {}  # each for the ends of its neighbours
        self._alone_until = 0.0

    async def admit(self, received: Sequence[Received]) -> tuple[dict[Lane, Decidable], dict[Lane, Exception]]:
        """Return of each lane how many records may be decided now, one at least. One that has to wait is left out.

        Its `wait` tells when to look again. Beside them, the lanes of which it cannot be known, and why.
        """
        if not self._limit and self._rows.topic != EXPIRY_TICKS:
            return {lane: Decidable(len(records), is_misplaced=bool(others)) for lane, records, others in received}, {}
        stale = [lane for lane, records, _ in received if lane.wait.begin(records) and lane in self._asking]
        for lane in {*stale, *(lane for lane in self._asking if lane.is_leaving)}:
            self._asking.pop(lane).add_done_callback(_retrieve)
        received = [each._replace(records=each.lane.wait.cut(each.records)) for each in received]
        places = {each.lane: self._places(each) for each in received}
        # At once, since each turn waits for both: a row older than the ends may only let less through.
        failed, rows = await asyncio.gather(self._ask_ends(places), read_neighbours(self._pool, _all(places)))
        found = {row.place: row for row in rows}
        asked = [(each, [found[place] for place in places[each.lane]]) for each in received if each.lane not in failed]
        await self._ask_starts(
            row for each, rows in asked for row in self._held(each, rows) if self._seems_away(row, each.lane)
        )
        decidable: dict[Lane, Decidable] = {}
        for each, rows in asked:
            if (admitted := self._admit(each, rows)) is not None:
                decidable[each.lane] = admitted
                each.lane.wait.end()
                each.lane.health.waits_for(None)
        await self._announce([each for each, _ in asked if each.lane not in decidable])
        return decidable, failed

    def _places(self, received: Received) -> list[TopicPartition]:
        own = [TopicPartition(topic, received.lane.partition) for topic in self._topics]
        return list(dict.fromkeys([*own, *received.others]))

    def _admit(self, received: Received, rows: Sequence[Neighbour]) -> Decidable | None:
        """Return what may be decided of what a lane has received; None where its first record has to wait."""
        lane, records, _ = received
        read_to = min((row.as_of for row in rows if row.gives_credits and self._has_unread(lane, row)), default=LATEST)
        if not self._limit:
            return Decidable(len(records), read_to=read_to, is_misplaced=bool(received.others))
        held = self._held(received, rows)
        blocking = [row for row in held if not self._is_passed_over(lane, row)]
        if blocking:
            lane.wait.group = blocking[0].consumer_group
            return None
        allowed = min((self._allows(lane, row) for row in rows if row not in held), default=LATEST)
        last = latest_decision_time(records, lane.as_of, lane.times)
        count = len(records) if last <= allowed else bisect_right(_times(records, lane.as_of, lane.times), allowed)
        first = decision_time(records[0], lane.as_of, lane.times)
        # Lanes of other numbers have decided what comes after as a rule: they never waited for it.
        late = [row for row in rows if _is_own(lane, row) and first <= row.passed(self._rows.topic)]
        overtaken = dict.fromkeys(_overtaken(lane, row) for row in (*held, *late))
        unread = next((row.consumer_group for row in held if row.gives_credits), None)
        return Decidable(count, tuple(overtaken), unread, read_to, bool(received.others))

    def _held(self, received: Received, rows: Sequence[Neighbour]) -> list[Neighbour]:
        """Return the lanes that have not come as far as the first record."""
        lane, records, _ = received
        first = decision_time(records[0], lane.as_of, lane.times)
        return [row for row in rows if self._allows(lane, row) < first]

    def _allows(self, lane: Lane, row: Neighbour) -> datetime:
        start, _ = self._starts.get(row.place, (0, 0.0))
        return row.allows(self._rows.topic, lane.wait.ends[row.place], start)

    def _has_unread(self, lane: Lane, row: Neighbour) -> bool:
        return (row.offset or 0) < lane.wait.ends[row.place]

    def _is_passed_over(self, lane: Lane, row: Neighbour) -> bool:
        """Tell whether a lane that has records unread is waited for no longer."""
        wait = lane.wait
        if wait.in_vain.get(row.place) == row or not (row.gives_credits or row.awaited):
            return True
        if wait.seconds <= (self._limit if row.gives_credits else min(self._limit, _TICK_SECONDS)):
            return False
        wait.in_vain[row.place] = row
        return True

    async def _announce(self, waiting: Sequence[Received]) -> None:
        """Tell the other lanes, once, with which record each lane waits, and when to look again."""
        news = []
        for lane, records, _ in waiting:
            assert lane.wait.group is not None  # noqa: S101 - it waits
            lane.health.waits_for(lane.wait.group)
            lane.wait.postpone()
            head = decision_time(records[0], lane.as_of, lane.times)
            if lane.wait.announced != (head, lane.wait.group):
                lane.wait.announced = head, lane.wait.group
                news.append((lane.row, head, lane.wait.group))
        if news:
            await self._rows.announce_waiting(news)

    # -- what Kafka is asked ------------------------------------------------------------------------------------------

    async def _ask_ends(self, places: Mapping[Lane, Sequence[TopicPartition]]) -> dict[Lane, Exception]:
        """Ask where the lanes' neighbours end, of those that do not know yet; return whose question failed."""
        unknown = {lane: each for lane, each in places.items() if any(place not in lane.wait.ends for place in each)}
        if not unknown:
            return {}
        if monotonic() >= self._alone_until and not self._asking:
            ends = await _answer_in_time(self._ends.end_offsets(_all(unknown)))
            if ends is not None:
                for lane in unknown:
                    lane.wait.ends = ends
                return {}
            # One partition of which the brokers tell nothing keeps the answer for all.
            self._alone_until = monotonic() + _ALONE_SECONDS
        return await self._ask_ends_alone(unknown)

    async def _ask_ends_alone(self, unknown: Mapping[Lane, Sequence[TopicPartition]]) -> dict[Lane, Exception]:
        """Let each lane ask for its own; one without an answer so far waits, and does not keep the others."""
        for lane, places in unknown.items():
            if lane not in self._asking:
                self._asking[lane] = asyncio.create_task(self._ends.end_offsets(places))
        await asyncio.wait([self._asking[lane] for lane in unknown], timeout=_ANSWER_SECONDS)
        failed: dict[Lane, Exception] = {}
        for lane in unknown:
            if not self._asking[lane].done():
                failed[lane] = TimeoutError("the brokers do not tell where a neighbour's partition ends")
                continue
            try:
                lane.wait.ends = self._asking.pop(lane).result()
            except SERVER_ERRORS as error:
                if not is_retriable(error):
                    raise
                failed[lane] = error
        return failed

    def _seems_away(self, row: Neighbour, lane: Lane) -> bool:
        """Tell whether a lane may never have been started, or been away for longer than retention."""
        return row.offset is None or lane.wait.seconds > _AWAY_SECONDS or row.place in lane.wait.in_vain

    async def _ask_starts(self, rows: Iterable[Neighbour]) -> None:
        """Ask where lanes begin that have not read on, unless that was asked a moment ago."""
        now = monotonic()
        unknown = {row.place: row for row in rows if self._starts.get(row.place, (0, 0.0))[1] < now}
        if unknown:
            asked = [(row.consumer_group, row.place, row.offset) for row in unknown.values()]
            starts = await _answer_in_time(self._ends.starts(asked)) or {}
            self._starts |= {place: (start, now + _STARTS_SECONDS) for place, start in starts.items()}


async def _answer_in_time(question: Coroutine[Any, Any, _Answer]) -> _Answer | None:
    """Return the answer to a question to Kafka; None where there is none in time.

    The question goes on: aiokafka leaves a connection open that it was making for one that is cancelled.

    Raises:
        KafkaError: when asking again would not help.

    """
    asking = asyncio.ensure_future(question)
    done, _ = await asyncio.wait([asking], timeout=_ANSWER_SECONDS)
    if not done:
        asking.add_done_callback(_retrieve)
        return None
    with suppress_retriable():
        return asking.result()
    return None


def _all(places: Mapping[Lane, Sequence[TopicPartition]]) -> list[TopicPartition]:
    return list(dict.fromkeys(place for each in places.values() for place in each))


def _retrieve(asking: "asyncio.Task[object]") -> None:
    if not asking.cancelled():
        asking.exception()


def _times(records: Sequence[ConsumerRecord], as_of: datetime, times: TimePolicy) -> list[datetime]:
    return list(accumulate(records, lambda time, record: decision_time(record, time, times), initial=as_of))[1:]


def _is_own(lane: Lane, row: Neighbour) -> bool:
    return bool(row.place.partition == lane.partition)


def _overtaken(lane: Lane, row: Neighbour) -> Overtaken:
    number = "" if _is_own(lane, row) else f"/{row.place.partition}"
    return Overtaken(row.consumer_group + number, row.offset or 0)
