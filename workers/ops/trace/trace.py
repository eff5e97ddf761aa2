"""Traces one request from end to end: its record, decision, journal rows, their events, and the records in the topics.

The ledger's database is read first, and is enough for a trace. Kafka adds the records that retention has left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from aiokafka.errors import KafkaError

from infra.kafka.clients import NotSetUpError
from infra.settings import Settings
from schemas.content_modes import parse_uuid
from workers.ops.books.original_ids import UnknownRequestError
from workers.ops.books.reasons import reason_of
from workers.ops.books.shards import ServerError, open_books_of
from workers.ops.dead_letters.history import letter_key
from workers.ops.dead_letters.letters import FoundLetters
from workers.ops.dead_letters.report import DeadLetterReport
from workers.ops.dead_letters.server_answers import (
    ToldLetter,
    make_histories,
    read_server_answers,
    read_server_redrives,
)
from workers.ops.trace import in_books as books
from workers.ops.trace.found_records import FoundRecord, find_event, find_undecided
from workers.ops.trace.in_books import DecidedRecord
from workers.ops.trace.in_servers import LIMIT, Question, find_in_books, read_books
from workers.ops.trace.in_topics import (
    FoundEvent,
    Trace,
    TraceTarget,
    trace_in_topics,
    trace_without_topics,
)
from workers.ops.trace.topic_search import ProgressWatch, Search, no_progress, open_search
from workers.rights import explain_refusal

__all__ = ["LIMIT", "Question", "TraceReport", "about", "trace"]

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


def about(id_: str | None, account: str | None, last: int = 10, limit: int = LIMIT) -> Question:
    """Return the question about an id as somebody gives it: a UUID, or what a producer gave its request instead."""
    request_id = parse_uuid(id_)
    return Question(request_id, account, last, limit, None if request_id is not None else id_)


@dataclass(frozen=True, slots=True)
class TraceReport:
    """The answer to a question: traces, dead letters and undecided records."""

    traces: list[Trace]
    letters: list[ToldLetter]
    waiting: list[FoundRecord]  # records that no worker has decided yet
    silent: str | None  # why the topics could not be searched
    silent_servers: Sequence[ServerError] = ()  # some of several, which may have more

    def summary(self) -> dict[str, Any]:
        """Return the report for JSON."""
        letters = DeadLetterReport(list(self.letters), None)
        return {
            "traces": [_summary(trace) for trace in self.traces],
            "dead_letters": letters.summary(),
            "waiting": [_place(seen) for seen in self.waiting],
            "kafka": self.silent or "asked",
            **({"silent_servers": [str(each) for each in self.silent_servers]} if self.silent_servers else {}),
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
        "tick": tick,
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
    found = await read_books(settings, question)
    question, cases = question._replace(id=found.id), found.cases
    waiting: list[FoundRecord] = []
    try:
        # No transaction is open during the search: Postgres would end an idle one.
        async with open_search(settings, question.limit, watch) as search:
            if not cases and question.id is not None and question.account is None:
                cases = await _find_decided_by_event(settings, search, question.id)
            wanted = TraceTarget(question.id, question.account, cases)
            traces, letters = await trace_in_topics(search, cases, wanted)
            if question.id is None or not (cases or letters.letters):
                waiting = await find_undecided(search, question.id, question.account, found.decided, found.is_known)
    except (KafkaError, NotSetUpError) as error:
        if not cases:
            raise
        why = await explain_refusal(error, lambda: settings, "trace") or error
        silent = str(why) or type(why).__name__
        return TraceReport([trace_without_topics(case) for case in cases], [], [], silent, found.silent)
    if not (traces or letters.letters or waiting):
        raise next(iter(found.silent), None) or found.unknown or _unknown_request(question)
    if question.id is None:
        letters.letters = letters.letters[: question.last]
        waiting = waiting[-question.last :]
    told, silent_servers = await _histories(settings, letters)
    return TraceReport(traces, told, waiting, None, found.silent or silent_servers)


async def _histories(settings: Settings, found: FoundLetters) -> tuple[list[ToldLetter], Sequence[ServerError]]:
    """Return dead letters with their histories, and the servers that may have more of these."""
    if not found.letters:
        return [], ()
    redrives = await read_server_redrives(settings, [letter_key(letter) for letter in found.letters])
    answers = await read_server_answers(settings, found.letters)
    return make_histories(settings, found, redrives, answers), answers.silent or redrives.silent


def _unknown_request(question: Question) -> UnknownRequestError:
    if question.id is None:
        return UnknownRequestError(f"account {question.account} has neither decisions nor dead letters")
    whose = "" if question.account is None else f" of account {question.account}"
    return UnknownRequestError(
        f"{question.id}{whose} is unknown: neither a decided or waiting request, nor an event or dead letter"
        f" among the newest {question.limit:,} records of each partition (--limit)"
    )


async def _find_decided_by_event(settings: Settings, search: Search, id_: UUID) -> list[DecidedRecord]:
    """Return the decided record of an event in a result topic, an empty list for another ledger's event."""
    event = await find_event(search, id_)
    if event is None:
        return []
    if "subject" in event:
        async with open_books_of(settings, event["subject"]) as connection:
            cases = await books.find_by_row(connection, event["subject"], event["data"]["sequence"])
    else:
        cases = await find_in_books(settings, UUID(event["data"]["request_id"]))
    return [case for case in cases if id_ in {each.id for each in case.events}]
