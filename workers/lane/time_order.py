"""In which order the lanes of one partition number decide: by the broker's time, whoever reads faster.

Three workers read three topics at their own pace, and move credits of the same accounts. For the same books to come of
the same input, however fast each was, a record of the time T is decided once the other lanes of its number have decided
all they have before it. At one instant billing comes first, then sends, then ticks (rule 16).

Another lane has come so far when its row says so; while it waits itself, the row tells the time of the record it waits
with, from the commit of the batch before that record on where the batch was cut there. (Of 1,000 sends a second beside
20 billing events on 2 cores, p50 was 86 ms so, and 120 where each wait was announced by itself: medians of four rounds
in turn.) Or when it stands at the end of its partition, asked for after the record was received: what comes later is
later. Whoever has nothing unread is waited for by nobody; whoever has is waited for, whether its process runs,
restarts, was killed or was never started (rule 21). Whoever comes first in this order waits for nobody, so that no two
lanes wait for each other: of the first records of all lanes, the one with the earliest time, and at one instant of the
first topic, is held up by none that has told its own.

A turn asks once for all its lanes: one question for the ends, one for the rows. A lane that has to wait is passed over,
and the turn goes on with the others.

The wait for a lane is bounded (INMAIL_ORDER_SECONDS), also where the brokers do not tell what it has unread. Beyond its
limit a lane goes on, and at once while the other has not moved since a wait for it was in vain. What is decided so is
noted in `decided_ahead`, and what would be refused for want of credit is not decided for good (`balance_not_current`).
The order is the brokers': where their clocks differ by more than a record takes to be read, a late record is noted
there too.

A tick gives nobody a credit, and what it takes comes out the same without it (`apply_caps.sql`). So the expiry lane is
waited for only while it runs in time, and a moment at most: its lines then stand in the order of time.

A record of an account with another number than its partition's (its producer does not partition with murmur2) is
decided in the order of its account's number: its batch waits for the send and billing lanes of that number as well.
They do not wait for it in turn, since nobody knows where such a producer will have put its next record.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.clock import LATEST
from infra.kafka.end_offsets import EndOffsets
from infra.postgres import Pool
from schemas.catalogue import EXPIRY_TICKS
from workers.jobs.decoding import decision_time, latest_decision_time
from workers.jobs.record_times import TimePolicy
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRows
from workers.lane.neighbour import Neighbour, read_neighbours
from workers.lane.partition_bounds import PartitionBounds, all_places
from workers.topology import TOPIC_RANK

__all__ = ["Decidable", "Order", "Overtaken", "Received"]

_TICK_SECONDS = 0.25  # for the expiry lane
_SHORT_SECONDS = 0.1  # a wait of which operators need not read for whom it is
_AWAY_SECONDS = 1.0  # a lane that runs has mostly read on by then


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
    head: datetime | None = None  # of the first record that has to wait; None: none was seen to


class Order:
    """The place of one worker's lanes among their neighbours."""

    def __init__(
        self,
        pool: Pool,
        ends: EndOffsets,
        rows: LaneRows,
        limit_seconds: float,
        topic_ids: Mapping[str, UUID] = MappingProxyType({}),
    ) -> None:
        """Take the pool, the topics' ends, the lanes' rows, how long a lane waits at most (0: never), and topics' ids.

        The ids are those that topics were last seen to have: what a row says of another topic says nothing.
        """
        self._pool, self._topic_ids = pool, topic_ids
        self._bounds = PartitionBounds(ends, topic_ids)
        self._rows = rows
        self._limit = limit_seconds
        self._topics = [topic for topic in TOPIC_RANK if topic != rows.topic]

    async def admit(self, received: Sequence[Received]) -> dict[Lane, Decidable]:
        """Return of each lane how many records may be decided now, one at least. One that has to wait is left out.

        Its `wait` tells when to look again.
        """
        if not self._limit and self._rows.topic != EXPIRY_TICKS:
            return {lane: Decidable(len(records), is_misplaced=bool(others)) for lane, records, others in received}
        for lane, records, _ in received:
            lane.wait.begin(records)
        received = [each._replace(records=each.lane.wait.cut(each.records)) for each in received]
        places = {each.lane: self._places(each) for each in received}
        # At once, since each turn waits for both: a row older than the ends may only let less through.
        _, rows = await asyncio.gather(
            self._bounds.ask_ends(places), read_neighbours(self._pool, all_places(places), self._topic_ids)
        )
        found = {row.place: row for row in rows}
        asked = [(each, [found[place] for place in places[each.lane]]) for each in received]
        await self._bounds.ask_starts(
            row for each, rows in asked for row in self._held(each, rows) if self._seems_away(row, each.lane)
        )
        decidable: dict[Lane, Decidable] = {}
        for each, rows in asked:
            if (admitted := self._admit(each, rows)) is not None:
                decidable[each.lane] = admitted
                each.lane.wait.end()
                each.lane.health.waits_for(None)
        await self._announce([each for each, _ in asked if each.lane not in decidable])
        return decidable

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
        count, head = len(records), None
        if latest_decision_time(records, lane.as_of, lane.times) > allowed:
            times = _times(records, lane.as_of, lane.times)
            count = bisect_right(times, allowed)
            head = times[count]
        first = decision_time(records[0], lane.as_of, lane.times)
        # Lanes of other numbers have decided what comes after as a rule: they never waited for it.
        late = [row for row in rows if _is_own(lane, row) and first <= row.passed(self._rows.topic)]
        overtaken = dict.fromkeys(_overtaken(lane, row) for row in (*held, *late))
        unread = next((row.consumer_group for row in held if row.gives_credits), None)
        return Decidable(count, tuple(overtaken), unread, read_to, bool(received.others), head)

    def _held(self, received: Received, rows: Sequence[Neighbour]) -> list[Neighbour]:
        """Return the lanes that have not come as far as the first record."""
        lane, records, _ = received
        first = decision_time(records[0], lane.as_of, lane.times)
        return [row for row in rows if self._allows(lane, row) < first]

    def _allows(self, lane: Lane, row: Neighbour) -> datetime:
        return row.allows(self._rows.topic, self._bounds.end(lane, row), self._bounds.start(row))

    def _has_unread(self, lane: Lane, row: Neighbour) -> bool:
        return max(row.offset or 0, self._bounds.start(row)) < self._bounds.end(lane, row)

    def _is_passed_over(self, lane: Lane, row: Neighbour) -> bool:
        """Tell whether a lane that has records unread is waited for no longer."""
        wait = lane.wait
        if wait.in_vain.get(row.place) == row.progress or not (row.gives_credits or row.awaited):
            return True
        if wait.seconds <= (self._limit if row.gives_credits else min(self._limit, _TICK_SECONDS)):
            return False
        wait.in_vain[row.place] = row.progress
        return True

    async def _announce(self, waiting: Sequence[Received]) -> None:
        """Tell the other lanes, once, with which record each lane waits, and when to look again."""
        news: dict[Lane, tuple[datetime, str]] = {}
        for lane, records, _ in waiting:
            assert lane.wait.group is not None  # noqa: S101 - it waits
            lane.health.waits_for(lane.wait.group)
            lane.wait.postpone()
            head = decision_time(records[0], lane.as_of, lane.times)
            is_told = lane.told_head == head and lane.wait.seconds < _SHORT_SECONDS
            if not is_told and lane.wait.announced != (head, lane.wait.group):
                news[lane] = head, lane.wait.group
        if news and await self._rows.announce_waiting([(lane.row, *new) for lane, new in news.items()]):
            for lane, new in news.items():
                lane.wait.announced = new

    def _seems_away(self, row: Neighbour, lane: Lane) -> bool:
        """Tell whether a lane may never have been started, or been away for longer than retention.

        Where nobody tells the end, nobody would tell the start, and it would change nothing. Who never waits asks now.
        """
        if not self._bounds.knows_end(lane, row):
            return False
        is_long = lane.wait.seconds > _AWAY_SECONDS or row.place in lane.wait.in_vain or not self._limit
        return row.offset is None or is_long or self._bounds.was_away(row)


def _times(records: Sequence[ConsumerRecord], as_of: datetime, times: TimePolicy) -> list[datetime]:
    return list(accumulate(records, lambda time, record: decision_time(record, time, times), initial=as_of))[1:]


def _is_own(lane: Lane, row: Neighbour) -> bool:
    return bool(row.place.partition == lane.partition)


def _overtaken(lane: Lane, row: Neighbour) -> Overtaken:
    number = "" if _is_own(lane, row) else f"/{row.place.partition}"
    return Overtaken(row.consumer_group + number, row.offset or 0)
