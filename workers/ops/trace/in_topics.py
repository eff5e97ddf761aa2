"""Finds a traced request in Kafka: its record, records that repeat it, its answers and its dead letters."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final, NamedTuple
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from pydantic_core import from_json

from infra.clock import nearest_instant
from schemas.catalogue import (
    CREDIT_EVENTS,
    DEAD_LETTERS,
    EXPIRY_TICKS,
    INPUT_TOPICS,
    SEND_RESULTS,
    Undecodable,
    decode,
    fingerprint,
)
from workers.ops.books.balance import readable_account_id
from workers.ops.dead_letters.letters import DeadLetter, FoundLetters, MessagePosition, parse_dead_letter
from workers.ops.trace.in_books import DecidedRecord, RowEvent
from workers.ops.trace.topic_search import Search, Window

__all__ = [
    "FoundEvent",
    "FoundRecord",
    "Trace",
    "TraceTarget",
    "find_event",
    "find_undecided",
    "trace_in_topics",
    "trace_without_topics",
]

# The record and its result have times of two brokers, whose clocks may differ.
_CLOCKS_DIFFER: Final = timedelta(minutes=1)
_CREATE_TIME: Final = 0  # the timestamp type of a record with its producer's time


class FoundRecord(NamedTuple):
    """A record found in a topic."""

    topic: str
    partition: int
    offset: int
    at: datetime  # by the broker
    repeat: bool = False  # of a result: whether it answers another record than the decided one


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An event, and the records found with it."""

    event: RowEvent
    state: str  # found, gone (deleted by retention), absent, beyond (perhaps after the limit), unknown
    found: tuple[FoundRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """One decided input record, and what Kafka still has of it."""

    case: DecidedRecord
    record: FoundRecord | None
    state: str  # of the record: there, gone, other (the topic was created again since), unknown
    published: tuple[FoundEvent, ...]  # the case's events, in their order
    repeats: tuple[FoundRecord, ...]  # later records with the same request
    searched: bool = True  # whether repeats were searched up to the end; False if the limit came first


class _EventWindow(NamedTuple):
    """The window of one partition in which to search a case's events."""

    window: Window
    lost: bool  # whether retention may have deleted them


@dataclass(slots=True)
class _SearchHits:
    """The records found by a search of the topics."""

    answers: dict[UUID, list[FoundRecord]] = field(default_factory=lambda: defaultdict(list))  # by event id
    requests: dict[tuple[str | None, UUID, int], list[FoundRecord]] = field(default_factory=lambda: defaultdict(list))
    letters: FoundLetters = field(default_factory=FoundLetters)


async def trace_in_topics(
    search: Search, cases: Sequence[DecidedRecord], wanted: "TraceTarget"
) -> tuple[list[Trace], FoundLetters]:
    """Find decided records and dead letters in the topics; return the traces, and the dead letters, the newest first.

    Raises:
        KafkaError: when the cluster cannot be reached, or stopped answering.

    """
    records = await _read_records(search, cases)
    event_windows: dict[tuple[DecidedRecord, TopicPartition], _EventWindow] = {}
    again: dict[DecidedRecord, list[Window]] = {}
    for case, record in zip(cases, records, strict=True):
        # A producer's time says nothing about the time of the answer.
        by_producer = record is not None and record.timestamp_type == _CREATE_TIME
        since = None if by_producer else case.as_of - _CLOCKS_DIFFER
        again[case] = await _repeat_windows(search, case, since, len(cases))
        for event in case.events:
            place = _event_partition(search, event)
            if (case, place) not in event_windows:  # many events of a tick share a partition
                window = search.window_from(place, await search.offset_at(place, since), len(cases))
                lost = await search.may_have_lost(place, None if by_producer else case.as_of)
                event_windows[case, place] = _EventWindow(window, lost)
    letters = [search.newest_window(place) for place in search.partitions(DEAD_LETTERS)]
    windows = chain((each.window for each in event_windows.values()), *again.values(), letters)
    hits = await _search(search, windows, wanted)
    traces = [
        replace(
            _build_trace(search, case, record, event_windows, hits),
            searched=all(search.ends_before(window.place, window.stop) for window in again[case]),
        )
        for case, record in zip(cases, records, strict=True)
    ]
    return traces, hits.letters


async def _read_records(search: Search, cases: Sequence[DecidedRecord]) -> list[ConsumerRecord | None]:
    """Return the record now at each case's offset, None if there is none."""
    places = [search.record_window(_source_partition(case), case.offset) for case in cases]
    found = {(each.topic, each.partition, each.offset): each async for each in search.read(places)}
    return [found.get((case.topic, case.partition, case.offset)) for case in cases]


async def _repeat_windows(search: Search, case: DecidedRecord, since: datetime | None, share: int) -> list[Window]:
    """Return the windows to search for repeats: after the record, and the partition of the account's key if another."""
    here = _source_partition(case)
    windows = [search.window_from(here, case.offset + 1, share)]
    if case.account_id is not None and case.topic != EXPIRY_TICKS:
        usual = search.account_partition(case.topic, case.account_id)
        if usual != here:
            windows.append(search.window_from(usual, await search.offset_at(usual, since), share))
    return windows


def _source_partition(case: DecidedRecord) -> TopicPartition:
    return TopicPartition(case.topic, case.partition)


def _event_partition(search: Search, event: RowEvent) -> TopicPartition:
    if event.partition is not None:
        return TopicPartition(event.topic, event.partition)
    return search.account_partition(event.topic, event.account_id or "")


class TraceTarget:
    """The target of a search of the topics.

    Args:
        id_: a request's or an event's id; None: all dead letters of the account.
        account: the account; None: any.
        cases: the decided records from the ledger's database.
        copies: positions of redriven messages, whose dead letters are found too.

    """

    def __init__(
        self, id_: UUID | None, account: str | None, cases: Sequence[DecidedRecord], copies: Collection[MessagePosition]
    ) -> None:
        self._id, self._account = id_, account
        self.ids = {case.request_id for case in cases} | ({id_} if id_ is not None else set())
        self.events = {event.id for case in cases for event in case.events}
        self.sources = {(case.topic, case.partition, case.offset) for case in cases}
        self.copies = copies

    def is_selected(self, letter: DeadLetter) -> bool:
        """Return whether a dead letter belongs to the target by its own id or the id in its message."""
        if self._account not in (None, letter.account_id):
            return False
        return self._id is None or letter.id in self.ids or _parse_id(letter.value) in self.ids


async def _search(search: Search, windows: Iterable[Window], wanted: TraceTarget) -> _SearchHits:
    hits = _SearchHits()
    async for record in search.read(windows):
        if record.topic == DEAD_LETTERS:
            _record_letter(record, wanted, hits.letters)
        elif record.topic in INPUT_TOPICS:
            if (record.topic, record.partition, record.offset) not in wanted.sources and _event_id(
                record
            ) in wanted.ids:
                _record_request(record, hits)
        elif (id_ := _event_id(record)) is not None and id_ in wanted.events:
            repeat = bool(from_json(record.value)["data"].get("repeat"))
            hits.answers[id_].append(_found_record(record, repeat=repeat))
    hits.letters.letters.sort(key=lambda letter: letter.set_aside_at, reverse=True)
    return hits


def _record_letter(record: ConsumerRecord, wanted: TraceTarget, found: FoundLetters) -> None:
    letter = parse_dead_letter(record)
    origin = (letter.origin_topic, letter.origin_partition, letter.origin_offset)
    if origin in wanted.copies:
        found.copies[origin] = letter.place
    if wanted.is_selected(letter):
        found.letters.append(letter)


def _record_request(record: ConsumerRecord, hits: _SearchHits) -> None:
    """Record an input record with a wanted id, by the request in it."""
    try:
        event = decode(record.topic, record.key, record.value)
    except Undecodable:
        return  # found among the dead letters
    hits.requests[event.subject, event.id, fingerprint(event)].append(_found_record(record))


def _build_trace(
    search: Search,
    case: DecidedRecord,
    record: ConsumerRecord | None,
    event_windows: Mapping[tuple[DecidedRecord, TopicPartition], _EventWindow],
    hits: _SearchHits,
) -> Trace:
    state = "there"
    if record is None:
        state = "gone" if search.is_gone(_source_partition(case), case.offset) else "other"
    elif _event_id(record) != case.request_id:
        record, state = None, "other"
    published = tuple(
        _found_event(search, event, event_windows[case, _event_partition(search, event)], hits.answers[event.id])
        for event in case.events
    )
    is_tick = case.topic == EXPIRY_TICKS
    repeats = [
        seen
        for seen in hits.requests[None if is_tick else case.account_id, case.request_id, case.fingerprint]
        if not is_tick or seen.partition == case.partition  # a tick is sent to every partition and answered in each
    ]
    return Trace(case, None if record is None else _found_record(record), state, published, tuple(repeats))


def _found_event(search: Search, event: RowEvent, where: _EventWindow, found: Sequence[FoundRecord]) -> FoundEvent:
    if found:
        state = "found"
    elif not search.ends_before(where.window.place, where.window.stop):
        state = "beyond"
    elif where.lost:
        state = "gone"
    else:
        state = "absent"
    return FoundEvent(event, state, tuple(found))


def trace_without_topics(case: DecidedRecord) -> Trace:
    """Return the trace of a decided record without a search of the topics."""
    return Trace(case, None, "unknown", tuple(FoundEvent(event, "unknown") for event in case.events), ())


async def find_event(search: Search, id_: UUID) -> dict[str, Any] | None:
    """Return the event with an id among the newest records of the result topics, None if it is not found.

    Raises:
        KafkaError: when the cluster cannot be reached, or stopped answering.

    """
    name = str(id_).encode()
    windows = [
        search.newest_window(place) for topic in (SEND_RESULTS, CREDIT_EVENTS) for place in search.partitions(topic)
    ]
    async with aclosing(search.read(windows, "results")) as records:
        async for record in records:
            if name in (record.value or b"") and _event_id(record) == id_:
                event: dict[str, Any] = from_json(record.value)
                return event
    return None


async def find_undecided(
    search: Search, id_: UUID | None, account: str | None, decided: Mapping[TopicPartition, int]
) -> list[FoundRecord]:
    """Return the undecided records of a request or, without an id, of an account.

    An account's records are searched in the partitions of its key.

    Args:
        search: the open search.
        id_: a request id; None: all records of the account.
        account: the account id.
        decided: the next offset to decide of each input partition.

    Raises:
        KafkaError: when the cluster cannot be reached, or stopped answering.

    """
    key = None
    places = [place for topic in INPUT_TOPICS for place in search.partitions(topic)]
    if id_ is None and account is not None:
        readable = readable_account_id(account)
        key = readable.encode()
        places = [search.account_partition(topic, readable) for topic in INPUT_TOPICS]
    windows = [search.window_from(place, decided.get(place, 0)) for place in places]
    undecided = search.read(windows, "undecided records")
    return [
        _found_record(record) async for record in undecided if (record.key == key if key else _event_id(record) == id_)
    ]


def _found_record(record: ConsumerRecord, *, repeat: bool = False) -> FoundRecord:
    return FoundRecord(record.topic, record.partition, record.offset, nearest_instant(record.timestamp), repeat)


def _event_id(record: ConsumerRecord) -> UUID | None:
    return _parse_id(record.value)


def _parse_id(value: bytes | None) -> UUID | None:
    """Return the id of the event in a message, None if the message is not JSON or has no UUID as its id."""
    try:
        document = from_json(value or b"")
        return UUID(document["id"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
