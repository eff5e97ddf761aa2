"""Traces one request from end to end: its record, decision, journal rows, their events, and the records in the topics.

The ledger's database is read first, and is enough for a trace. Kafka adds the records that retention has left.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from aiokafka.errors import KafkaError

from infra.kafka.records import NotSetUpError
from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.lanes import next_offsets
from workers.ops.books.original_ids import find_request_ids
from workers.ops.books.reasons import reason_of
from workers.ops.books.snapshot import open_books
from workers.ops.dead_letters.history import LetterHistory, read_histories, read_redrives
from workers.ops.dead_letters.letters import DeadLetter
from workers.ops.dead_letters.report import DeadLetterReport
from workers.ops.trace import in_books as books
from workers.ops.trace.found_records import FoundRecord, find_event, find_undecided
from workers.ops.trace.in_books import DecidedRecord
from workers.ops.trace.in_topics import (
    FoundEvent,
    Trace,
    TraceTarget,
    trace_in_topics,
    trace_without_topics,
)
from workers.ops.trace.topic_search import ProgressWatch, Search, no_progress, open_search

__all__ = ["LIMIT", "Question", "TraceReport", "UnknownRequestError", "about", "trace"]

LIMIT: Final = 100_000  # records
_NAMED: Final = 5  # request ids in a message

# The members of a row and of a tick for JSON.
_MEMBERS: Final = (
    "sequence",
    "is_answer",
    "code",
    "amount",
    "lot",
    "lot_expires_at",
    "balance_before",
    "balance_after",
)
_OF_TICK: Final = ("code", "horizon", "lots", "credits", "complete")


class UnknownRequestError(Exception):
    """The request was found neither in the ledger's database nor in the searched part of the topics."""


class Question(NamedTuple):
    """What to trace: a request or event by id, an account's last requests, or an id of that account."""

    id: UUID | None
    account: str | None
    last: int = 10  # number of an account's requests
    limit: int = LIMIT  # maximum number of records read of a partition
    original: str | None = None  # instead of `id`: what the request's producer gave it that is no UUID


def about(id_: str | None, account: str | None, last: int = 10, limit: int = LIMIT) -> Question:
    """Return the question about an id as somebody gives it: a UUID, or what a producer gave its request instead."""
    try:
        return Question(None if id_ is None else UUID(id_), account, last, limit)
    except ValueError:
        return Question(None, account, last, limit, id_)


@dataclass(frozen=True, slots=True)
class TraceReport:
    """The answer to a question: traces, dead letters and undecided records."""

    traces: list[Trace]
    letters: list[tuple[DeadLetter, LetterHistory]]
    waiting: list[FoundRecord]  # records that no worker has decided yet
    silent: str | None  # why the topics could not be searched

    def summary(self) -> dict[str, Any]:
        """Return the report for JSON."""
        letters = DeadLetterReport(list(self.letters), None)
        return {
            "traces": [_summary(trace) for trace in self.traces],
            "dead_letters": letters.summary(),
            "waiting": [_place(seen) for seen in self.waiting],
            "kafka": self.silent or "asked",
        }


def _summary(trace: Trace) -> dict[str, Any]:
    case = trace.case
    record = {"topic": case.topic, "partition": case.partition, "offset": case.offset, "state": trace.state}
    lines = [
        {
            "account": account_id,
            **{name: getattr(row, name) for name in _MEMBERS},
            "reason": reason_of(row),
            "event": _event(published),
        }
        for (account_id, row), published in zip(case.rows, trace.published, strict=False)
    ]
    tick = None
    if case.tick is not None:
        tick = {name: getattr(case.tick, name) for name in _OF_TICK}
        tick["events"] = [_event(each) for each in trace.published[len(case.rows) :]]
    return {
        "account": case.account_id,
        "request_id": case.request_id,
        "as_of": case.as_of,
        "record": record | {"time": None if trace.record is None else trace.record.at},
        "repeats": [_place(seen) for seen in trace.repeats],
        "all_repeats": trace.searched and trace.state != "unknown",
        "tick": None
        if tick is None
        else tick | {"event": [_event(each) for each in trace.published[len(case.rows) :]]},
        "lines": lines,
        "more_lines": case.more,
        "lots": [lot._asdict() for lot in case.lots],
    }


def _event(published: FoundEvent) -> dict[str, Any]:
    event = published.event
    told = {"id": event.id, "type": event.type, "topic": event.topic, "state": published.state}
    return told | {"results": [_place(seen) | {"repeat": seen.repeat} for seen in published.found]}


def _place(seen: FoundRecord) -> dict[str, Any]:
    return {"topic": seen.topic, "partition": seen.partition, "offset": seen.offset, "time": seen.at}


async def trace(settings: Settings, question: Question, watch: ProgressWatch = no_progress) -> TraceReport:
    """Return the trace of a request, of an event, or of the last requests of an account.

    Args:
        settings: where Kafka and Postgres are.
        question: what to trace.
        watch: shows the progress of the search of the topics.

    Raises:
        UnknownRequestError: when the request is found nowhere.
        UnknownAccountError: when the ledger has no such account, and the topics have no record of the account.
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.
        KafkaError: when the database does not have the request, and the cluster cannot be reached.

    """
    unknown = None
    async with open_books(settings) as connection:
        if question.original is not None:
            question = question._replace(id=await _find_original(connection, question.original, question.account))
        try:
            cases = await _find_decided(connection, question)
        except UnknownAccountError as error:  # the account may have dead letters or undecided records
            cases, unknown = [], error
        redrives = await read_redrives(connection)
        decided = await next_offsets(connection)
    copies = {(each.topic, each.partition, each.offset) for sent in redrives.values() for each in sent}
    waiting: list[FoundRecord] = []
    try:
        # No transaction is open during the search: Postgres would end an idle one.
        async with open_search(settings, question.limit, watch) as search:
            if not cases and question.id is not None and question.account is None:
                cases = await _find_decided_by_event(settings, search, question.id)
            wanted = TraceTarget(question.id, question.account, cases, copies)
            traces, letters = await trace_in_topics(search, cases, wanted)
            if question.id is None or not (cases or letters.letters):
                waiting = await find_undecided(search, question.id, question.account, decided)
    except (KafkaError, NotSetUpError) as error:
        if not cases:
            raise
        return TraceReport([trace_without_topics(case) for case in cases], [], [], str(error) or type(error).__name__)
    if not (traces or letters.letters or waiting):
        raise unknown or _unknown_request(question)
    if question.id is None:
        letters.letters = letters.letters[: question.last]
        waiting = waiting[-question.last :]
    async with open_books(settings) as connection:
        histories = await read_histories(connection, letters, redrives)
    return TraceReport(traces, list(zip(letters.letters, histories, strict=True)), waiting, None)


async def _find_original(connection: Connection, original: str, account: str | None) -> UUID:
    """Return the request id of the request that a producer gave an id that is no UUID."""
    found = await find_request_ids(connection, original, account)
    if len(found) == 1:
        return found[0]
    named = json.dumps(original)
    if found:
        raise UnknownRequestError(
            f"{len(found)} requests, of several sources, have the id {named}: trace one by its request id:"
            f" {', '.join(map(str, found[:_NAMED]))}"
        )
    raise UnknownRequestError(
        f"{named} is no UUID and no id of a decided request: trace one that is not decided by its request id"
        " (docs/producers.md), or --account"
    )


def _unknown_request(question: Question) -> UnknownRequestError:
    if question.id is None:
        return UnknownRequestError(f"account {question.account} has neither decisions nor dead letters")
    whose = "" if question.account is None else f" of account {question.account}"
    return UnknownRequestError(
        f"{question.id}{whose} is unknown: neither a decided or waiting request, nor an event or dead letter"
        f" among the newest {question.limit:,} records of each partition (--limit)"
    )


async def _find_decided(connection: Connection, question: Question) -> list[DecidedRecord]:
    if question.id is None:
        return await books.find_by_account(connection, question.account or "", question.last)
    cases = await books.find_by_request(connection, question.id, question.account)
    if not cases and question.account is not None:
        cases = await books.find_by_event(connection, question.id, question.account)
    return cases


async def _find_decided_by_event(settings: Settings, search: Search, id_: UUID) -> list[DecidedRecord]:
    """Return the decided record of an event in a result topic, an empty list for another ledger's event."""
    event = await find_event(search, id_)
    if event is None:
        return []
    async with open_books(settings) as connection:
        if "subject" in event:
            cases = await books.find_by_row(connection, event["subject"], event["data"]["sequence"])
        else:
            cases = await books.find_by_request(connection, UUID(event["data"]["request_id"]), None)
    return [case for case in cases if id_ in {each.id for each in case.events}]
