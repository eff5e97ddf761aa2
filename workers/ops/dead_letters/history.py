"""The history of dead letters: their redrives, and the stored answers to their requests.

The table `redriven` has the redrives; the journal has the answers, however a request reached its topic.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from infra.postgres import Connection
from schemas.catalogue import EXPIRY_TICKS, INPUT_TOPICS, Undecodable, decode, fingerprint
from schemas.envelope import Event
from workers.ops.dead_letters.letters import DeadLetter

__all__ = [
    "LetterHistory",
    "LetterKey",
    "Redrive",
    "StoredAnswer",
    "decode_message",
    "letter_key",
    "merge_redrives",
    "read_answers",
    "read_letter_answers",
    "read_redrives",
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
    is_unknown: bool = False  # whether a redrive may have become a dead letter: the search for it was cut short

    def summary(self) -> dict[str, Any]:
        """Return the history for JSON."""
        return {
            "redriven": [each._asdict() for each in self.redrives],
            "answer": None if self.answer is None else self.answer._asdict(),
            "again": self.new_letter,
            "unknown": self.is_unknown,
        }


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


_REDRIVES: Final = (
    "select letter_partition, letter_offset, letter, r.operation, o.actor, r.topic, r.partition, r.sent_offset,"
    " coalesce(r.sent_at, r.intended_at) from redriven as r join operations as o using (operation)"
)


async def read_redrives(
    connection: Connection, letters: Collection[LetterKey] | None = None
) -> dict[LetterKey, list[Redrive]]:
    """Return the redrives of dead letters by dead letter, the oldest first; of all if no letters are given."""
    ours = ""
    arguments: list[list[int]] = []
    if letters is not None:
        ours = " where (letter_partition, letter_offset) in (select * from unnest($1::integer[], $2::bigint[]))"
        arguments = [[letter[0] for letter in letters], [letter[1] for letter in letters]]
    rows = await connection.fetch(f"{_REDRIVES}{ours} order by r.operation", *arguments)
    redrives = defaultdict(list)
    for partition, offset, letter, *sending in map(tuple, rows):
        redrives[partition, offset, letter].append(Redrive(*sending))
    return dict(redrives)


def merge_redrives(found: Iterable[Mapping[LetterKey, Sequence[Redrive]]]) -> dict[LetterKey, list[Redrive]]:
    """Return the redrives that several servers have noted, the oldest of each dead letter first."""
    merged: dict[LetterKey, list[Redrive]] = defaultdict(list)
    for redrives in found:
        for letter, made in redrives.items():
            merged[letter] += made
    return {letter: sorted(made, key=lambda each: each.at) for letter, made in merged.items()}


# Rows are compared, as in `stored_answers.sql`: by request id and account, whatever the planner knows. An id that many
# accounts use costs none of the others' rows, and the primary key, of no use here, would read a busy account's history.
_ANSWERS: Final = """
select a.account_id, j.request_id, j.fingerprint, j.code, j.as_of, j.sequence
from unnest($1::text[], $2::uuid[], $3::bigint[]) as u (account_id, request_id, fingerprint)
join accounts as a on a.account_id = u.account_id
cross join lateral (
    (
        select x.* from journal as x
        where
            (x.request_id, x.account) >= (u.request_id, a.account)
            and (x.request_id, x.account) <= (u.request_id, a.account)
            and x.is_answer and x.code <> 'key_conflict' and x.code <> 'balance_not_current'
        order by x.request_id, x.account
        limit 1
    )
    union all
    (
        select x.* from journal as x
        where
            (x.request_id, x.account, x.fingerprint) >= (u.request_id, a.account, u.fingerprint)
            and (x.request_id, x.account, x.fingerprint) <= (u.request_id, a.account, u.fingerprint)
            and x.is_answer and x.code = 'key_conflict'
        order by x.request_id, x.account, x.fingerprint
        limit 1
    )
) as j
where j.fingerprint = u.fingerprint
"""


# The partition comes first in the key.
_TICK_ANSWERS: Final = (
    "select partition, request_id, fingerprint, code, as_of from ticks"
    " where request_id = any($1) and partition = any($2::bigint[]) and code <> 'booking'"
)


async def read_answers(connection: Connection, events: Sequence[tuple[str, int, Event]]) -> list[StoredAnswer | None]:
    """Return the stored answer to each (topic, partition, event), None for an event without an answer.

    An event with the same id and another body is another request, which would be answered with `key_conflict`.
    """
    ticks = [(event.id, partition) for topic, partition, event in events if topic == EXPIRY_TICKS]
    requests = [event for topic, _, event in events if topic != EXPIRY_TICKS]
    found: dict[tuple[str | int, UUID, int], StoredAnswer] = {}
    if ticks:
        rows = await connection.fetch(_TICK_ANSWERS, [each[0] for each in ticks], [each[1] for each in ticks])
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


async def read_letter_answers(
    connection: Connection, letters: Sequence[DeadLetter]
) -> dict[LetterKey, StoredAnswer | None]:
    """Return the stored answers to the requests in dead letters."""
    decodable = {}
    for letter in letters:
        if isinstance(event := decode_message(letter), Event):
            decodable[letter_key(letter)] = (letter.origin_topic, letter.origin_partition, event)
    return dict(zip(decodable, await read_answers(connection, list(decodable.values())), strict=True))
