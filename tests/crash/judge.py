"""What must hold at the end, seen from outside: by the audit, and by a stock read_committed reader of every topic."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.records import all_partitions, read_records
from infra.settings import Settings
from schemas.catalogue import (
    BILLING_EVENTS,
    CREDIT_EVENTS,
    DEAD_LETTERS,
    EXPIRY_TICKS,
    SEND_REQUESTS,
    SEND_RESULTS,
    Undecodable,
    decode,
    fingerprint,
)
from schemas.ids import answer_id, conflict_id, dead_letter_id, movement_id, tick_answer_id, tick_conflict_id
from tests.crash.books import Books
from tests.crash.load import Inputs
from tests.crash.offset_log import offsets_that_went_back
from workers.ops.books.audit import audit
from workers.ops.books.audit_servers import audit_each_server

__all__ = ["Verdict", "judge"]

_EXAMPLES = 5
_CONFLICT = "key_conflict"


@dataclass(slots=True)
class Verdict:
    """How often each promise was broken, and the first places."""

    requests: int = 0
    answers: int = 0
    beyond_retention: int = 0  # repeats and dead letters whose record was removed before they were published
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts.total()

    def note(self, promise: str, place: object, count: int = 1) -> None:
        """Note a broken promise."""
        if count > 0:
            self.counts[promise] += count
            if len(self.examples[promise]) < _EXAMPLES:
                self.examples[promise].append(str(place))


async def judge(settings: Settings, books: Books, inputs: Inputs, since: Mapping[TopicPartition, int]) -> Verdict:
    """Judge a run whose workers have ended and answered all; `since` is where the log of offsets ended before it."""
    verdict = Verdict(requests=len(inputs.records))
    audited = await audit_each_server(settings, audit)
    for name, of_one in audited.audits:
        for finding in of_one.failures():
            verdict.note("unbalanced", f"{finding.name} on {name}: {finding.examples[0]}", finding.count)
    for problem in audited.problems:  # a server that was not audited, a number that no server or more than one counted
        verdict.note("unbalanced", problem)
    for row in await books.fetch("select * from crash_claims where claimed < actual"):
        verdict.note("stale", dict(row))
    visible = await _visible(settings)
    verdict.answers = sum(len(events) for events in visible.values())
    expected = await _expected(books, inputs, verdict)
    _compare(visible, expected, verdict)
    _sequences(visible, verdict)
    async with aclosing(offsets_that_went_back(settings, since)) as places:
        async for place in places:
            verdict.note("backwards", place)
    return verdict


class Seen(NamedTuple):
    """An event where a reader finds it."""

    event: dict[str, Any]
    place: str
    timestamp: int

    @property
    def is_first(self) -> bool:
        """Whether it does not say that it repeats an answer."""
        return not self.event["data"].get("repeat")


async def _visible(settings: Settings) -> dict[str, list[Seen]]:
    """Return what a reader of the results and dead letters sees, by event id."""
    found: dict[str, list[Seen]] = defaultdict(list)
    places = await all_partitions(settings, (SEND_RESULTS, CREDIT_EVENTS, DEAD_LETTERS))
    async with aclosing(read_records(settings, places)) as records:
        async for record in records:
            event = json.loads(record.value)
            place = f"{record.topic}/{record.partition}/{record.offset}"
            found[event["id"]].append(Seen(event, place, record.timestamp))
    return found


class _Expected(Counter[str]):
    """How often each event is to be seen; an answer as often as its record was read, a movement once."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}
        self.excused: set[str] = set()  # one more may be there: retention took a repeat of the record

    def want(self, id_: str, place: str) -> None:
        """Expect an event once more."""
        self[id_] += 1
        self.places[id_] = place


async def _expected(books: Books, inputs: Inputs, verdict: Verdict) -> _Expected:
    answers = {
        (row["account_id"], row["request_id"], row["fingerprint"]): row
        for row in await books.fetch("select a.account_id, j.* from journal as j join accounts as a using (account)"
                                     " where j.is_answer and j.code <> 'balance_not_current'")
    }  # fmt: skip
    await _wants(books, inputs, verdict)
    ticks = {
        (row["partition"], row["request_id"], row["fingerprint"]): row
        for row in await books.fetch("select * from ticks")
    }
    expected = _Expected()
    for row in await books.fetch("select a.account_id, j.sequence from journal as j join accounts as a using (account)"
                                 " where not j.is_answer"):  # fmt: skip
        expected.want(movement_id(row["account_id"], row["sequence"]), f"{row['account_id']} {row['sequence']}")
    for (topic, partition, offset), record in inputs.records.items():
        place = f"{topic}/{partition}/{offset}"
        id_, source = _answer(record, answers, ticks)
        if id_ is None:
            verdict.note("lost", f"{place} has no outcome")
        elif source != offset and _is_removed(inputs, record):
            verdict.beyond_retention += 1
            expected.places.setdefault(id_, place)
            expected.excused.add(id_)
        else:
            expected.want(id_, place)
    return expected


async def _wants(books: Books, inputs: Inputs, verdict: Verdict) -> None:
    """No send was refused for want of credit that a grant gave which Kafka held before it; none for want of patience.

    Told by Kafka: by the brokers' time of the record that granted and of the one that was refused.
    """
    rows = await books.fetch(
        "select j.account, j.sequence, j.code, j.as_of, j.source_partition, j.source_offset, l.expires_at, l.granted_at"
        " from journal as j left join lots as l on j.account = l.account and j.lot = l.lot"
        " where j.is_answer and j.code in ('granted', 'insufficient_credits', 'balance_not_current')"
    )
    grants: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        if row["code"] == "granted":
            grants[row["account"]].append(row)
        elif row["code"] == "balance_not_current":
            verdict.note("overtaken", f"account {row['account']} sequence {row['sequence']}")
    for row in rows:
        if row["code"] != "insufficient_credits":
            continue
        sent = inputs.records.get((SEND_REQUESTS, row["source_partition"], row["source_offset"]))
        for grant in grants[row["account"]]:
            given = inputs.records.get((BILLING_EVENTS, grant["source_partition"], grant["source_offset"]))
            is_missed = (
                grant["sequence"] > row["sequence"]
                and sent is not None
                and given is not None
                and given.timestamp < sent.timestamp
                and grant["granted_at"] <= row["as_of"] < grant["expires_at"]
            )
            place = f"account {row['account']}, sequence {row['sequence']}, the grant's {grant['sequence']}"
            verdict.note("refused", place, int(is_missed))


def _answer(record: ConsumerRecord, answers: dict[Any, Any], ticks: dict[Any, Any]) -> tuple[str | None, int | None]:
    """Return the id of the event that answers a record, and the offset it was decided for; no id without an outcome."""
    topic, partition = record.topic, record.partition
    try:
        event = decode(topic, record.key, record.value)
    except Undecodable:
        return dead_letter_id(topic, partition, record.offset), None
    print_ = fingerprint(event)
    if topic == EXPIRY_TICKS:
        row = ticks.get((partition, event.id, print_))
        if row is None or row["code"] == "booking":
            return None, None
        conflict = row["code"] == _CONFLICT
        id_ = tick_conflict_id(partition, event.id, print_) if conflict else tick_answer_id(partition, event.id)
        return id_, row["source_offset"]
    account = event.subject or ""
    row = answers.get((account, event.id, print_))
    if row is None:
        return None, None
    id_ = conflict_id(account, event.id, print_) if row["code"] == _CONFLICT else answer_id(account, event.id)
    return id_, row["source_offset"] if row["source_partition"] == partition else None


def _is_removed(inputs: Inputs, record: ConsumerRecord) -> bool:
    return any(
        each.place == (record.topic, record.partition) and each.start <= record.offset < each.end
        for each in inputs.removed
    )


def _compare(visible: dict[str, list[Seen]], expected: _Expected, verdict: Verdict) -> None:
    """Each record has one visible answer, each movement one event, and the first answer to a request is given once."""
    for id_, count in expected.items():
        found = visible.get(id_, [])
        place = f"{expected.places[id_]}, seen at {[(each.place, each.timestamp) for each in found]}"
        verdict.note("lost", place, count - len(found))
        if id_ not in expected.excused:
            verdict.note("doubled", place, len(found) - count)
    for id_, found in visible.items():
        if id_ not in expected.places:
            verdict.note("unknown", found[0])
        verdict.note("repeated", expected.places.get(id_, id_), sum(each.is_first for each in found) - 1)


def _sequences(visible: dict[str, list[Seen]], verdict: Verdict) -> None:
    """No account's sequence has a gap over both result topics."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for event in (each.event for found in visible.values() for each in found):
        if (number := event["data"].get("sequence")) is not None:
            numbers[event["subject"]].add(number)
    for account, seen in numbers.items():
        verdict.note("gaps", account, max(seen) - len(seen))
