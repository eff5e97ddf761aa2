"""One request from end to end: its record, what it was decided, the rows, their events, and what stands in the topics.

The books are asked first and are all that a trace needs. Kafka tells what is left there: retention may have taken the
record, its answer, or both.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from aiokafka.errors import KafkaError

from infra.kafka.records import NotSetUpError
from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.lanes import next_offsets
from workers.ops.books.reasons import reason_of
from workers.ops.books.snapshot import open_books
from workers.ops.dead_letters.history import DeadLetterReport, LetterHistory, read_histories, read_redrives
from workers.ops.dead_letters.letters import DeadLetter
from workers.ops.trace import in_books as books
from workers.ops.trace.in_books import DecidedRecord
from workers.ops.trace.in_topics import (
    FoundEvent,
    FoundRecord,
    Trace,
    TraceTarget,
    find_event,
    find_undecided,
    trace_in_topics,
    trace_without_topics,
)
from workers.ops.trace.topic_search import ProgressWatch, Search, no_progress, open_search

__all__ = ["LIMIT", "Question", "TraceReport", "UnknownRequestError", "trace"]

LIMIT: Final = 100_000  # records

# Of a row and of a tick for JSON.
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
    """Neither the books nor the topics, as far as they were searched, know of it."""


class Question(NamedTuple):
    """What is to be traced: a request or event, an account's last, or a request or event of that account."""

    id: UUID | None
    account: str | None
    last: int = 10  # of an account
    limit: int = LIMIT  # records read of a partition at most


@dataclass(frozen=True, slots=True)
class TraceReport:
    """All that is known of what was asked for."""

    traces: list[Trace]
    letters: list[tuple[DeadLetter, LetterHistory]]
    waiting: list[FoundRecord]  # records that no worker has decided yet
    silent: str | None  # why the topics could not be asked

    def summary(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        letters = DeadLetterReport(list(self.letters), Counter(), None)
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
    """Return all that is known of a request, an event, or the last requests of an account.

    Args:
        settings: where Kafka and Postgres are.
        question: what to trace.
        watch: shows how far the search of the topics is.

    Raises:
        UnknownRequestError: when nobody knows of it.
        UnknownAccountError: when the books have no such account, and the topics no dead letter of it.
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when it cannot be reached or refuses.
        KafkaError: when the books do not know of it, and the cluster cannot be reached.

    """
    unknown = None
    async with open_books(settings) as connection:
        try:
            cases = await _find_decided(connection, question)
        except UnknownAccountError as error:  # it may have dead letters, or a request that waits
            cases, unknown = [], error
        redrives = await read_redrives(connection)
        decided = await next_offsets(connection)
    copies = {(each.topic, each.partition, each.offset) for sent in redrives.values() for each in sent}
    waiting: list[FoundRecord] = []
    try:
        # The books are not held open meanwhile: a search takes its time, and Postgres ends who idles in a transaction.
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


def _unknown_request(question: Question) -> UnknownRequestError:
    if question.id is None:
        return UnknownRequestError(f"nothing was ever decided or set aside for account {question.account}")
    whose = "" if question.account is None else f" of account {question.account}"
    return UnknownRequestError(
        f"neither the books nor the topics know of {question.id}{whose}: it is no request that was decided or waits,"
        f" and no event or dead letter among the newest {question.limit:,} of each partition (--limit)"
    )


async def _find_decided(connection: Connection, question: Question) -> list[DecidedRecord]:
    if question.id is None:
        return await books.find_by_account(connection, question.account or "", question.last)
    cases = await books.find_by_request(connection, question.id, question.account)
    if not cases and question.account is not None:
        cases = await books.find_by_event(connection, question.id, question.account)
    return cases


async def _find_decided_by_event(settings: Settings, search: Search, id_: UUID) -> list[DecidedRecord]:
    """Return what an event in a result topic tells of, as far as it is these books' own."""
    event = await find_event(search, id_)
    if event is None:
        return []
    async with open_books(settings) as connection:
        if "subject" in event:
            cases = await books.find_by_row(connection, event["subject"], event["data"]["sequence"])
        else:
            cases = await books.find_by_request(connection, UUID(event["data"]["request_id"]), None)
    return [case for case in cases if id_ in {each.id for each in case.events}]
