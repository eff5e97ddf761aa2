"""The history of dead letters: their redrives, and the stored answers to their requests.

The table `redriven` has the redrives; the journal has the answers, however a request reached its topic.
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
    LetterTime,
    NoSuchDeadLetterError,
    list_dead_letters,
)

__all__ = [
    "DeadLetterReport",
    "LetterHistory",
    "LetterKey",
    "Redrive",
    "StoredAnswer",
    "decode_message",
    "letter_key",
    "read_answers",
    "read_histories",
    "read_redrives",
    "report_dead_letter",
    "report_dead_letters",
]

LetterKey = tuple[int, int, UUID | None]  # partition, offset and id of a dead letter


class Redrive(NamedTuple):
    """One redrive of a dead letter's message."""

    operation: int
    actor: str
    topic: str
    partition: int
    offset: int | None  # None: in doubt, since the operation broke off while sending the message
    at: datetime


class StoredAnswer(NamedTuple):
    """The stored answer to the request in a dead letter's message."""

    code: str
    at: datetime
    sequence: int | None  # None for a tick


@dataclass(frozen=True, slots=True)
class LetterHistory:
    """The history of one dead letter."""

    redrives: Sequence[Redrive] = ()
    answer: StoredAnswer | None = None
    new_letter: str | None = None  # place of the dead letter that resulted from the last redrive

    def summary(self) -> dict[str, Any]:
        """Return the history for JSON."""
        return {
            "redriven": [each._asdict() for each in self.redrives],
            "answer": None if self.answer is None else self.answer._asdict(),
            "again": self.new_letter,
        }


@dataclass(frozen=True, slots=True)
class DeadLetterReport:
    """Dead letters with their histories, the newest first, and the number of all that match."""

    letters: list[tuple[DeadLetter, LetterHistory | None]]
    counts: Counter[tuple[str, str]]  # by topic and reason
    silent: str | None  # why the database could not be read
    older: int = 0  # how many more match that are older than these

    def summary(self) -> list[dict[str, Any]]:
        """Return the dead letters for JSON; a history is null if the database could not be read."""
        rows = []
        for letter, history in self.letters:
            row: dict[str, Any] = {each.name: getattr(letter, each.name) for each in fields(letter)}
            rows.append(row | {"became": None if history is None else history.summary()})
        return rows


def letter_key(letter: DeadLetter) -> LetterKey:
    """Return the unique key of a dead letter, unique also after its topic was created again."""
    return letter.partition, letter.offset, letter.id


def decode_message(letter: DeadLetter) -> Event | Undecodable | None:
    """Return the event in a dead letter's message as this version decodes it, or the reason why it cannot.

    Returns None if the dead letter's origin is not an input topic, as for a record that no worker wrote.
    """
    if letter.origin_topic not in INPUT_TOPICS:
        return None
    try:
        return decode(letter.origin_topic, letter.key, letter.value, letter.headers)
    except Undecodable as problem:
        return problem.without_frames()


async def read_redrives(connection: Connection) -> dict[LetterKey, list[Redrive]]:
    """Return all redrives by dead letter, the oldest first."""
    rows = await connection.fetch(
        "select letter_partition, letter_offset, letter, r.operation, o.actor, r.topic, r.partition, r.sent_offset,"
        " coalesce(r.sent_at, r.intended_at) from redriven as r join operations as o using (operation)"
        " order by r.operation"
    )
    redrives = defaultdict(list)
    for partition, offset, letter, *sending in map(tuple, rows):
        redrives[partition, offset, letter].append(Redrive(*sending))
    return dict(redrives)


# Found by the index on the request id: `+ 0` hides the primary key, which would read a busy account's whole history.
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
    """Return the stored answer to each (topic, partition, event), None for an event without an answer.

    An event with the same id and another body is another request, which would be answered with `key_conflict`.
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
    settings: Settings,
    selection: LetterFilter = ALL,
    last: int | None = None,
    operation: int | None = None,
    *,
    older_than: LetterTime | None = None,
) -> DeadLetterReport:
    """Return the newest matching dead letters with their histories.

    Args:
        settings: where Kafka and Postgres are.
        selection: the filter.
        last: the maximum number; None: all.
        operation: only dead letters redriven by the operation with this number.
        older_than: list only those that come after this one in the order of the list; all are counted.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    async with _open_books_if_reachable(settings) as (connection, silent):
        redrives = await read_redrives(connection) if connection is not None else {}

        def is_selected(letter: DeadLetter) -> bool:
            sent = redrives.get(letter_key(letter), ())
            return selection.matches(letter) and (operation is None or operation in {each.operation for each in sent})

        copies = {(each.topic, each.partition, each.offset) for sent in redrives.values() for each in sent}
        found = await list_dead_letters(settings, selection, last, is_selected, copies, older_than=older_than)
        if connection is None:
            return DeadLetterReport([(letter, None) for letter in found.letters], found.counts, silent, found.older)
        histories = await read_histories(connection, found, redrives)
    return DeadLetterReport(list(zip(found.letters, histories, strict=True)), found.counts, None, found.older)


async def report_dead_letter(settings: Settings, partition: int, offset: int) -> DeadLetterReport:
    """Return the dead letter at an offset, with its history.

    Raises:
        NoSuchDeadLetterError: when there is no dead letter at the offset.
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    report = await report_dead_letters(settings, LetterFilter(partition=partition, offset=offset))
    if not report.letters:
        text = f"there is no dead letter at {partition}/{offset}: see `inmail dead-letters list`"
        raise NoSuchDeadLetterError(text)
    return report


@asynccontextmanager
async def _open_books_if_reachable(settings: Settings) -> AsyncIterator[tuple[Connection | None, str | None]]:
    """Open the database, or return why it cannot be read: dead letters can be listed without their histories."""
    try:
        connection = await connect_database(settings)
    except (OSError, asyncpg.PostgresError) as error:
        yield None, str(error) or type(error).__name__
        return
    try:
        # The database may lack this version's migrations.
        if await connection.fetchval("select to_regclass('redriven')") is None:
            yield None, "the database does not have this version's tables: run `inmail migrate`"
        else:
            yield connection, None
    finally:
        await connection.close()


async def read_histories(
    connection: Connection, found: FoundLetters, redrives: Mapping[LetterKey, Sequence[Redrive]]
) -> list[LetterHistory]:
    """Return the histories of dead letters.

    Args:
        connection: to the ledger's database.
        found: the dead letters.
        redrives: all redrives by dead letter, from `read_redrives`.

    """
    decodable = {}
    for letter in found.letters:
        if isinstance(event := decode_message(letter), Event):
            decodable[letter_key(letter)] = (letter.origin_topic, letter.origin_partition, event)
    answers = dict(zip(decodable, await read_answers(connection, list(decodable.values())), strict=True))
    histories = []
    for letter in found.letters:
        sent = tuple(redrives.get(letter_key(letter), ()))
        copies = [found.copies.get((each.topic, each.partition, each.offset)) for each in sent]
        histories.append(
            LetterHistory(sent, answers.get(letter_key(letter)), next(filter(None, reversed(copies)), None))
        )
    return histories
