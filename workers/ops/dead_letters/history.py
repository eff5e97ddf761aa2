"""What became of dead letters: when they were sent back, by whom and where to, and what their requests were answered.

The books tell all of it: `redriven` what operators sent, the journal what was decided, however the message came there.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from infra.postgres import Connection, connect_database
from infra.settings import Settings
from schemas.catalogue import EXPIRY_TICKS, INPUT_TOPICS, Undecodable, decode, fingerprint
from schemas.envelope import Event
from workers.ops.dead_letters.letters import (
    ALL,
    DeadLetter,
    FoundLetters,
    LetterFilter,
    NoSuchDeadLetterError,
    list_dead_letters,
)

__all__ = [
    "DeadLetterReport",
    "LetterHistory",
    "LetterKey",
    "Redrive",
    "StoredAnswer",
    "event_of",
    "histories_of",
    "key_of",
    "read_answers",
    "read_redrives",
    "report_dead_letter",
    "report_dead_letters",
]

LetterKey = tuple[int, int, UUID | None]  # partition, offset and id of a letter


class Redrive(NamedTuple):
    """One time that a message was sent back."""

    operation: int
    actor: str
    topic: str
    partition: int
    offset: int | None  # None: it was about to be sent when the operation broke off; nobody knows whether it was
    at: datetime


class StoredAnswer(NamedTuple):
    """What the books answered to the request that a letter's message makes."""

    code: str
    at: datetime
    sequence: int | None  # of its account; a tick has none


@dataclass(frozen=True, slots=True)
class LetterHistory:
    """All that became of one letter."""

    sendings: Sequence[Redrive] = ()
    answer: StoredAnswer | None = None
    again: str | None = None  # the letter that its message became when it was sent back last


@dataclass(frozen=True, slots=True)
class DeadLetterReport:
    """Dead letters and what became of them, the newest first, and how many there are in all."""

    letters: list[tuple[DeadLetter, LetterHistory | None]]
    counts: Counter[tuple[str, str]]  # by topic and reason
    silent: str | None  # why the books could not be asked

    def summary(self) -> list[dict[str, Any]]:
        """Return the letters for JSON; what became of one is null where the books could not be asked."""
        rows = []
        for letter, fate in self.letters:
            row: dict[str, Any] = {each.name: getattr(letter, each.name) for each in fields(letter)}
            rows.append(row | {"became": None if fate is None else _json(fate)})
        return rows


def _json(fate: LetterHistory) -> dict[str, Any]:
    return {
        "redriven": [each._asdict() for each in fate.sendings],
        "answer": None if fate.answer is None else fate.answer._asdict(),
        "again": fate.again,
    }


def key_of(letter: DeadLetter) -> LetterKey:
    """Return what tells a letter from all others, also of a topic that is made anew."""
    return letter.partition, letter.offset, letter.id


def event_of(letter: DeadLetter) -> Event | Undecodable | None:
    """Return the event that a letter's message is to this version, or why it is none.

    None of a letter whose origin is no topic of ours to read, such as one that is not of the workers' making.
    """
    if letter.origin_topic not in INPUT_TOPICS:
        return None
    try:
        return decode(letter.origin_topic, letter.key, letter.value)
    except Undecodable as problem:
        return problem


async def read_redrives(connection: Connection) -> dict[LetterKey, list[Redrive]]:
    """Return all that was ever sent back, by letter, the oldest first."""
    rows = await connection.fetch(
        "select letter_partition, letter_offset, letter, r.operation, o.actor, r.topic, r.partition, r.sent_offset,"
        " coalesce(r.sent_at, r.intended_at) from redriven as r join operations as o using (operation)"
        " order by r.operation"
    )
    sendings = defaultdict(list)
    for partition, offset, letter, *sending in map(tuple, rows):
        sendings[partition, offset, letter].append(Redrive(*sending))
    return dict(sendings)


# By request id, which finds one row: `+ 0` hides the primary key, which would read a busy account's whole history.
_ANSWERS: Final = """
select a.account_id, j.request_id, j.fingerprint, j.code, j.as_of, j.sequence
from unnest($1::text[], $2::uuid[], $3::bigint[]) as u (account_id, request_id, fingerprint)
join accounts as a on a.account_id = u.account_id
cross join lateral (
    select x.* from journal as x
    where
        x.request_id = u.request_id and x.account + 0 = a.account and x.is_answer
        and x.code <> 'key_conflict' and x.code <> 'balance_not_current'
    union all
    select x.* from journal as x
    where x.request_id = u.request_id and x.account + 0 = a.account and x.is_answer and x.code = 'key_conflict'
) as j
where j.fingerprint = u.fingerprint
"""


async def read_answers(connection: Connection, events: Sequence[tuple[str, int, Event]]) -> list[StoredAnswer | None]:
    """Return for each (topic, partition, event) what the books answered to this very request, None for not yet.

    The same id with another body is another request: it would be answered as a conflict.
    """
    ticks = [event.id for topic, _, event in events if topic == EXPIRY_TICKS]
    requests = [event for topic, _, event in events if topic != EXPIRY_TICKS]
    found: dict[tuple[str | int, UUID, int], StoredAnswer] = {}
    if ticks:
        rows = await connection.fetch(
            "select partition, request_id, fingerprint, code, as_of from ticks"
            " where request_id = any($1) and code <> 'booking'",
            ticks,
        )
        found |= {(row[0], row[1], row[2]): StoredAnswer(row[3], row[4], None) for row in rows}
    if requests:
        rows = await connection.fetch(
            _ANSWERS,
            [event.subject for event in requests],
            [event.id for event in requests],
            [fingerprint(event) for event in requests],
        )
        found |= {(row[0], row[1], row[2]): StoredAnswer(row[3], row[4], row[5]) for row in rows}
    return [
        found.get((partition if topic == EXPIRY_TICKS else event.subject or "", event.id, fingerprint(event)))
        for topic, partition, event in events
    ]


async def report_dead_letters(
    settings: Settings, selection: LetterFilter = ALL, last: int | None = None, operation: int | None = None
) -> DeadLetterReport:
    """Return the newest dead letters that are meant, with what became of each.

    Args:
        settings: where Kafka and Postgres are.
        selection: which are meant.
        last: so many at most.
        operation: only those that this one sent back.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    async with _books(settings) as (connection, silent):
        sendings = await read_redrives(connection) if connection is not None else {}

        def is_meant(letter: DeadLetter) -> bool:
            sent = sendings.get(key_of(letter), ())
            return selection.wants(letter) and (operation is None or operation in {each.operation for each in sent})

        copies = {(each.topic, each.partition, each.offset) for sent in sendings.values() for each in sent}
        found = await list_dead_letters(settings, selection, last, is_meant, copies)
        if connection is None:
            return DeadLetterReport([(letter, None) for letter in found.letters], found.counts, silent)
        fates = await histories_of(connection, found, sendings)
    return DeadLetterReport(list(zip(found.letters, fates, strict=True)), found.counts, None)


async def report_dead_letter(settings: Settings, partition: int, offset: int) -> DeadLetterReport:
    """Return the dead letter at a place, with what became of it.

    Raises:
        NoSuchDeadLetterError: when there is none.
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    told = await report_dead_letters(settings, LetterFilter(partition=partition, offset=offset))
    if not told.letters:
        text = f"there is no dead letter at {partition}/{offset}: see `inmail dead-letters list`"
        raise NoSuchDeadLetterError(text)
    return told


@asynccontextmanager
async def _books(settings: Settings) -> AsyncIterator[tuple[Connection | None, str | None]]:
    """Open the books, or say why they cannot be asked: dead letters are to be seen also without them."""
    try:
        connection = await connect_database(settings)
    except (OSError, asyncpg.PostgresError) as error:
        yield None, str(error) or type(error).__name__
        return
    try:
        # A database that was never migrated, or not yet to this version.
        if await connection.fetchval("select to_regclass('redriven')") is None:
            yield None, "it is not that of this version: run `inmail migrate`"
        else:
            yield connection, None
    finally:
        await connection.close()


async def histories_of(
    connection: Connection, found: FoundLetters, sendings: Mapping[LetterKey, Sequence[Redrive]]
) -> list[LetterHistory]:
    """Return what became of each of the letters that were found, given all that was ever sent back."""
    decodable = {}
    for letter in found.letters:
        if isinstance(event := event_of(letter), Event):
            decodable[key_of(letter)] = (letter.origin_topic, letter.origin_partition, event)
    answers = dict(zip(decodable, await read_answers(connection, list(decodable.values())), strict=True))
    fates = []
    for letter in found.letters:
        sent = tuple(sendings.get(key_of(letter), ()))
        copies = [found.copies.get((each.topic, each.partition, each.offset)) for each in sent]
        fates.append(LetterHistory(sent, answers.get(key_of(letter)), next(filter(None, reversed(copies)), None)))
    return fates
