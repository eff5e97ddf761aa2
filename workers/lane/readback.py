"""Which answers can be read: looked up where the brokers' word on how far a lane has published is in doubt.

A broker of 4.2.1 that was started again after a crash may tell of less than was published (docs/kafka-versions.md). It
may also be right, and what the lane has noted as published is gone; or the owner was killed before it could note what
it published last. Only the result topics tell the one from the other: so the lane goes back to what it was told of,
and publishes what cannot be read.

A record of each lane's progress in a compacted topic, written in the turn's own transaction, would tell the same with
less to read. In a trial (a relay of one transaction, 12 partitions, 1,000 records a second, three rounds interleaved)
it cost nothing that could be measured: a median of 26.1 ms with it and 26.5 without. It is not done because it frees
nobody from this file: a broker that has lost offsets may have lost the newest of that topic as well, and whoever sets
a group's offset back on purpose would have to write there too. It would be one more topic to create, permit and read
at each opening, for what is in doubt only after a crash.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from math import inf
from typing import NamedTuple

from aiokafka import TopicPartition
from pydantic_core import from_json

from infra.clock import to_milliseconds, utc_now
from infra.kafka.clients import reader
from infra.kafka.records import all_partitions, read_to
from infra.kafka.transactions import Message
from infra.settings import Settings
from schemas.catalogue import OUTPUT_TOPICS
from schemas.envelope import ORIGIN_HEADER

__all__ = ["Doubt", "PublishedAnswers", "scan_published"]

_EARLIER_MILLISECONDS = 60_000  # brokers have a clock each
_BROKERS_TIME = 1  # LogAppendTime, in a record's words
_POLL_MILLISECONDS = 100

Offsets = dict[TopicPartition, int]
Headers = Iterable[tuple[str, bytes | None]]


class _PublishedEvent(NamedTuple):
    """What an event is known by, and the record that it answers."""

    id: str
    is_repeat: bool
    place: TopicPartition
    offset: int


class Doubt(NamedTuple):
    """Of which records of a lane the answers may be published."""

    offsets: range
    since: datetime | None  # no answer to them was received by a broker before; None: not known
    is_of_topic: bool = True  # False: they are of a topic that was there before, and cannot be read any more


class PublishedAnswers:
    """What a read_committed reader finds, of a lane that is in doubt up to an offset."""

    def __init__(self, found: set[_PublishedEvent], place: TopicPartition, end: int) -> None:
        self._found, self._place, self._end = found, place, end

    @property
    def found(self) -> int:
        """How many answers were found."""
        return len(self._found)

    def is_of(self, doubt: Doubt) -> bool:
        """Tell whether a doubt is the one that these were looked up for, though more may be published by now."""
        return doubt.offsets.stop == self._end

    def drop_published(self, messages: Sequence[Message], offsets: Offsets) -> tuple[list[Message], Offsets]:
        """Return of a turn what cannot be read of this lane's, and its offset where the group cannot be beyond it.

        What is other lanes' is returned whole, and so are balances: they answer no record, their topic is not read, and
        the newest may be published again.
        """
        kept = [each for each in messages if _parse_event(each.value, each.headers or ()) not in self._found]
        return kept, {place: offset for place, offset in offsets.items() if place != self._place or offset >= self._end}


async def scan_published(
    settings: Settings, doubts: Mapping[TopicPartition, Doubt], progress: Callable[[], None]
) -> dict[TopicPartition, PublishedAnswers]:
    """Return what can be read of the answers that are in doubt, by the input partition of the records that they answer.

    Reads the result topics once, up to where they end now, from the earliest time at which an answer in doubt may have
    been published: that is not before the time that the doubt tells, nor before the broker received the first record.
    Where neither is known, as retention has removed the record, or its time is its producer's or lies ahead, they are
    read from their oldest record on: then it may take minutes, and `progress` is called meanwhile.

    Raises:
        KafkaError: when the brokers cannot be asked, or a transaction stays open before the end.
        NotSetUpError: when a topic does not exist.

    """
    since = await _find_since(settings, doubts)
    places = await all_partitions(settings, OUTPUT_TOPICS)
    found: dict[TopicPartition, set[_PublishedEvent]] = {lane: set() for lane in doubts}
    async with reader(settings, None, "read_uncommitted") as all_, reader(settings) as consumer:
        ends = await all_.end_offsets(places)
        consumer.assign(places)
        starts = await consumer.beginning_offsets(places)
        if since is not None:
            # To a read_committed reader, brokers tell of no record behind an open transaction, as if none were there.
            first = await all_.offsets_for_times(dict.fromkeys(places, max(0, since - _EARLIER_MILLISECONDS)))
            starts = {place: each.offset if each else ends[place] for place, each in first.items()}
        for place, start in starts.items():
            consumer.seek(place, start)
        unread = {place: start for place, start in starts.items() if start < ends[place]}
        async with aclosing(read_to(consumer, unread, ends, _POLL_MILLISECONDS)) as records:
            async for record in records:
                progress()
                event = _parse_event(record.value, record.headers)
                if event is not None and event.place in doubts and event.offset in doubts[event.place].offsets:
                    found[event.place].add(event)
    return {lane: PublishedAnswers(found[lane], lane, doubt.offsets.stop) for lane, doubt in doubts.items()}


async def _find_since(settings: Settings, doubts: Mapping[TopicPartition, Doubt]) -> int | None:
    """Return the time before which no broker received an answer in doubt, in milliseconds; None where none is known.

    A lane that had nothing to do for hours tells a time of hours ago: then its first record in doubt came later. A time
    ahead of this host's clock tells none: once that broker's clock is right, later answers have earlier times.
    """
    now = to_milliseconds(utc_now())
    times = {lane: to_milliseconds(doubt.since) for lane, doubt in doubts.items() if doubt.since is not None}
    if any(time > now + _EARLIER_MILLISECONDS for time in times.values()):
        return None
    firsts = {
        lane: doubt.offsets.start
        for lane, doubt in doubts.items()
        if doubt.is_of_topic and times.get(lane, -inf) < now - _EARLIER_MILLISECONDS
    }
    received = await _received_first(settings, firsts) if firsts else {}
    for lane, time in received.items():
        if time <= now + _EARLIER_MILLISECONDS:
            times[lane] = max(time, times.get(lane, time))
    return min(times.values()) if times.keys() == doubts.keys() else None


async def _received_first(settings: Settings, firsts: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Return when the brokers received some records, in milliseconds; without those of which that is not known."""
    times: dict[TopicPartition, int | None] = {}
    async with reader(settings) as consumer:
        ends = await consumer.end_offsets(firsts)
        oldest = await consumer.beginning_offsets(firsts)
        there = {lane: first for lane, first in firsts.items() if oldest[lane] <= first < ends[lane]}
        if not there:
            return {}
        consumer.assign(list(there))
        for lane, first in there.items():
            consumer.seek(lane, first)
        async with aclosing(read_to(consumer, dict(there), ends, _POLL_MILLISECONDS)) as records:
            async for record in records:
                time = record.timestamp if record.timestamp_type == _BROKERS_TIME else None
                times.setdefault(TopicPartition(record.topic, record.partition), time)
                if len(times) == len(there):
                    break
    return {lane: time for lane, time in times.items() if time is not None}


def _parse_event(value: bytes | None, headers: Headers) -> _PublishedEvent | None:
    """Return an event of ours; None of what is none, as anybody may have written to the topic.

    Nor of a repeat of a version before, which does not say which record it answers.
    """
    try:
        event = from_json(value or b"")
        data = event["data"]
        at = data["source"] if "source" in data else data["origin"]  # a dead letter's; a grant has another
        is_repeat = bool(data.get("repeat"))
        partition, offset = at["partition"], at["offset"]
        if is_repeat:  # its source is the record that was answered first
            partition, offset = (dict(headers)[ORIGIN_HEADER] or b"").split(b"/")
        place = TopicPartition(str(at["topic"]), int(partition))
        return _PublishedEvent(str(event["id"]), is_repeat, place, int(offset))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
