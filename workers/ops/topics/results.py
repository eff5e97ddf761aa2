"""Reads results as downstream services do: committed answers and movements, optionally with the dead letters."""

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappush, heappushpop
from typing import Any, Final
from uuid import UUID

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import LeaderNotAvailableError
from aiokafka.structs import ConsumerRecord

from infra.clock import nearest_instant
from infra.kafka.backwards import BackwardReader
from infra.kafka.clients import partition_of
from infra.kafka.cluster_queries import EARLIEST, LATEST, ClusterQueries, open_cluster_queries
from infra.kafka.records import partition_counts, read_records
from infra.settings import Settings
from schemas.catalogue import CREDIT_EVENTS, DEAD_LETTERS, SEND_RESULTS
from schemas.content_modes import read_attributes
from schemas.decisions import TickDecided

__all__ = ["NewestResults", "Result", "ResultFilter", "read_newest_results", "read_results", "sort_by_time"]

_MAX_HELD = 10_000
_CLOCKS_DIFFER: Final = timedelta(seconds=1)  # of the brokers that have a request and its result


@dataclass(frozen=True, slots=True)
class Result:
    """One record of a result topic: its position, bytes and event."""

    topic: str
    partition: int
    offset: int
    timestamp: datetime
    value: bytes
    event: dict[str, Any]

    @property
    def time(self) -> datetime:
        """The event's time, in UTC."""
        return _parse_time(self.event["time"])

    @property
    def account_id(self) -> str | None:
        """The event's account; None for an answer to a tick."""
        subject = self.event.get("subject")
        return subject if isinstance(subject, str) else None

    @property
    def data(self) -> dict[str, Any]:
        """The event's body."""
        body: dict[str, Any] = self.event["data"]
        return body

    @property
    def is_empty_tick(self) -> bool:
        """Whether the result answers a tick that booked nothing, as most ticks do."""
        is_tick = self.event["type"] == TickDecided.type_name()
        return is_tick and self.data.get("code") == "booked" and self.data.get("lots") == 0


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which results are wanted: all conditions must hold."""

    account: str | None = None  # only results of this account
    request: UUID | str | None = None  # only the answers to this request and its movements; or a producer's own id
    dead_letters: bool = False  # also dead letters (of the account, if given; dead letters name no request)
    empty_ticks: bool = True  # also answers to ticks that booked nothing (a given request's answer always)

    async def places(self, settings: Settings) -> list[TopicPartition]:
        """Return the partitions that may have such results.

        Raises:
            NotSetUpError: when the topics do not exist.

        """
        topics = [SEND_RESULTS, CREDIT_EVENTS, *([DEAD_LETTERS] if self.dead_letters else [])]
        places = []
        for topic, count in (await partition_counts(settings, topics)).items():
            # Results are placed by their account, whatever partition the request came from; dead letters by their
            # message.
            placed = self.account is not None and topic != DEAD_LETTERS
            numbers = [partition_of((self.account or "").encode(), count)] if placed else range(count)
            places += [TopicPartition(topic, number) for number in numbers]
        return places

    def result_in(self, record: ConsumerRecord) -> Result | None:
        """Return the wanted result in a record; None for any other, and for what is no event."""
        result = _account_result(record, self.account)
        if result is None:
            return None
        if self.request is None:
            wanted = self.empty_ticks or not result.is_empty_tick
        else:
            name = "request_id" if isinstance(self.request, UUID) else "original_id"
            wanted = result.data.get(name) == str(self.request)
        return result if wanted else None


ANY: Final = ResultFilter()


async def read_results(
    settings: Settings, selection: ResultFilter = ANY, *, follow: bool = False, from_end: bool = False
) -> AsyncGenerator[Result, None]:
    """Yield results up to the topics' ends at the start, each partition's in order.

    Balances are no results: their topic is not read. A record that is not an event is skipped, with a warning in the
    log. Close the generator with `contextlib.aclosing` when leaving early.

    Args:
        settings: where Kafka is.
        selection: which results.
        follow: continue with new results, without an end.
        from_end: skip existing results.

    Raises:
        NotSetUpError: when the topics do not exist.
        KafkaError: when the cluster cannot be reached.

    """
    places = await selection.places(settings)
    async with aclosing(read_records(settings, places, follow=follow, from_end=from_end)) as records:
        async for record in records:
            if (result := selection.result_in(record)) is not None:
                yield result


async def read_newest_results(
    settings: Settings, last: int, selection: ResultFilter = ANY
) -> AsyncGenerator[Result, None]:
    """Yield the newest results by their times, the oldest of them first.

    Each partition is read backwards, to where nothing can be as new: a result's time is that of its request, so that
    the broker has the result later. Where few results are wanted, that is at the beginning.

    Args:
        settings: where Kafka is.
        last: the maximum number.
        selection: which results.

    Raises:
        NotSetUpError: when the topics do not exist.
        KafkaError: when the cluster cannot be reached.

    """
    newest = NewestResults(last)
    async with open_cluster_queries(settings) as lookup:
        readers = await _open_at_ends(lookup, await selection.places(settings))
        while unread := [each for each in readers if not each.is_done and not newest.are_after(each.reached)]:
            for records in await asyncio.gather(*(each.read_window() for each in unread)):
                for record in records:
                    if (result := selection.result_in(record)) is not None:
                        newest.add(result)
    for result in newest.in_order():
        yield result


async def _open_at_ends(lookup: ClusterQueries, places: Sequence[TopicPartition]) -> list[BackwardReader]:
    oldest = await lookup.offsets(dict.fromkeys(places, EARLIEST))
    ends = await lookup.offsets(dict.fromkeys(places, LATEST), committed=True)
    if missing := [place for place in places if place not in oldest or place not in ends]:
        raise LeaderNotAvailableError(f"{missing[0].topic} {missing[0].partition} cannot be read now")
    return [BackwardReader(lookup, place, ends[place], oldest[place]) for place in places]


def _account_result(record: ConsumerRecord, account: str | None) -> Result | None:
    """Return the result in a record of an account (None: of any); None for another's, and for what is no event."""
    other = account is not None and record.key != account.encode()
    if other and record.topic != DEAD_LETTERS:
        return None
    if (result := _parse_result(record)) is None:
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        structlog.get_logger("inmail.results").warning("not_an_event", **place)
        return None
    return None if other and _message_subject(result) != account else result


def _message_subject(result: Result) -> object:
    """Return the subject that a dead letter's message names, whatever its key is; None if it names none."""
    try:
        value = b64decode(result.data["value_base64"] or "")
        headers = [(each["key"], b64decode(each["value_base64"] or "")) for each in result.data["headers"]]
    except (KeyError, TypeError, ValueError):  # no worker wrote it
        return None
    return read_attributes(headers, value).get("subject")


def _parse_result(record: ConsumerRecord) -> Result | None:
    """Return the result in a record; None if the record is not an event, and so not a worker's."""
    value = record.value or b""
    try:
        event = json.loads(value)
        _parse_time(event["time"])
        told = isinstance(event["type"], str) and isinstance(event["data"], dict)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    if not told:
        return None
    return Result(record.topic, record.partition, record.offset, nearest_instant(record.timestamp), value, event)


def _parse_time(text: str) -> datetime:
    """Return an event's time in UTC.

    Raises:
        ValueError: when the text is no time, or has no zone, as no worker's event.
        OverflowError: when the time lies outside the calendar in UTC.

    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("no zone")
    return time.astimezone(UTC)


async def sort_by_time(results: AsyncGenerator[Result, None], held: int = _MAX_HELD) -> AsyncGenerator[Result, None]:
    """Yield results in the order of their times: the first `held` sorted, any further ones as they arrive.

    Partitions are read concurrently, so results arrive in order only within a partition.
    """
    kept: list[Result] = []
    async for result in results:
        if len(kept) < held:
            kept.append(result)
            continue
        for each in sorted(kept, key=_sort_key):
            yield each
        yield result
        async for each in results:
            yield each
        return
    for each in sorted(kept, key=_sort_key):
        yield each


@dataclass(slots=True)
class NewestResults:
    """The newest results of those that were added."""

    last: int  # how many are kept
    _heap: list[tuple[tuple[Any, ...], Result]] = field(default_factory=list, init=False)

    def add(self, result: Result) -> None:
        """Keep a result, unless as many newer ones are kept; drop the oldest for it."""
        entry = ((*_sort_key(result), result.topic, result.partition), result)
        heappushpop(self._heap, entry) if len(self._heap) >= self.last else heappush(self._heap, entry)

    def are_after(self, at: datetime | None) -> bool:
        """Tell whether no result that a broker had at a time or before would be kept; None: at any time."""
        if at is None or len(self._heap) < self.last:
            return False
        return self._heap[0][1].time > at + _CLOCKS_DIFFER

    def in_order(self) -> list[Result]:
        """Return the results, the oldest first."""
        return [result for _, result in sorted(self._heap, key=lambda entry: entry[0])]


def _sort_key(result: Result) -> tuple[datetime, str, int, int]:
    sequence = result.data.get("sequence")
    return result.time, result.account_id or "", sequence if isinstance(sequence, int) else 0, result.offset
