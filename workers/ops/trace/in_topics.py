"""Finds a traced request in Kafka: its record, records that repeat it, its answers and its dead letters."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Final, NamedTuple
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from pydantic_core import from_json

from schemas.catalogue import (
    DEAD_LETTERS,
    EXPIRY_TICKS,
    INPUT_TOPICS,
    Undecodable,
    decode,
    fingerprint,
)
from schemas.content_modes import read_request_id
from workers.ops.dead_letters.letters import DeadLetter, FoundLetters, parse_dead_letter
from workers.ops.dead_letters.redrive import OPERATION_HEADER
from workers.ops.trace.found_records import FoundRecord, event_id_of, found_record
from workers.ops.trace.in_books import DecidedRecord, RowEvent
from workers.ops.trace.topic_search import Search, Window

__all__ = [
    "FoundEvent",
    "Trace",
    "TraceTarget",
    "trace_in_topics",
    "trace_without_topics",
]

# The record and its result have times of two brokers, whose clocks may differ.
_CLOCKS_DIFFER: Final = timedelta(minutes=1)
_CREATE_TIME: Final = 0  # the timestamp type of a record with its producer's time


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

    """

    def __init__(self, id_: UUID | None, account: str | None, cases: Sequence[DecidedRecord]) -> None:
        self._id, self._account = id_, account
        self.ids = {case.request_id for case in cases} | ({id_} if id_ is not None else set())
        self.events = {event.id for case in cases for event in case.events}
        self.sources = {(case.topic, case.partition, case.offset) for case in cases}

    def is_selected(self, letter: DeadLetter) -> bool:
        """Return whether a dead letter belongs to the target by its own id or the id in its message."""
        if self._account not in (None, letter.account_id, letter.subject):  # a wrong key is a reason to be one
            return False
        return self._id is None or letter.id in self.ids or read_request_id(letter.headers, letter.value) in self.ids


async def _search(search: Search, windows: Iterable[Window], wanted: TraceTarget) -> _SearchHits:
    hits = _SearchHits()
    async for record in search.read(windows):
        if record.topic == DEAD_LETTERS:
            _record_letter(record, wanted, hits.letters)
        elif record.topic in INPUT_TOPICS:
            if (record.topic, record.partition, record.offset) not in wanted.sources and event_id_of(
                record
            ) in wanted.ids:
                _record_request(record, hits)
        elif (id_ := event_id_of(record)) is not None and id_ in wanted.events:
            repeat = bool(from_json(record.value)["data"].get("repeat"))
            hits.answers[id_].append(found_record(record, repeat=repeat))
    hits.letters.letters.sort(key=lambda letter: letter.set_aside_at, reverse=True)
    return hits


def _record_letter(record: ConsumerRecord, wanted: TraceTarget, found: FoundLetters) -> None:
    letter = parse_dead_letter(record)
    # Whose message was redriven is not known yet, but that one was: of a message that was cut, not even that.
    if letter.cut or any(name == OPERATION_HEADER for name, _ in letter.headers):
        found.copies[letter.origin_topic, letter.origin_partition, letter.origin_offset] = letter.place
    if wanted.is_selected(letter):
        found.letters.append(letter)


def _record_request(record: ConsumerRecord, hits: _SearchHits) -> None:
    """Record an input record with a wanted id, by the request in it."""
    try:
        event = decode(record.topic, record.key, record.value, record.headers)
    except Undecodable:
        return  # found among the dead letters
    hits.requests[event.subject, event.id, fingerprint(event)].append(found_record(record))


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
    elif event_id_of(record) != case.request_id:
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
    return Trace(case, None if record is None else found_record(record), state, published, tuple(repeats))


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
