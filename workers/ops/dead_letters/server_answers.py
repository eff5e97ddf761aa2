"""The histories of dead letters, of the redrives and the stored answers of all servers that hold the books."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import EXPIRY_TICKS
from schemas.envelope import Event
from workers.ops.books.shards import ServerAnswers, ServerError, ask_each_server
from workers.ops.dead_letters.history import (
    LetterHistory,
    LetterKey,
    Redrive,
    StoredAnswer,
    decode_message,
    letter_key,
    merge_redrives,
    read_letter_answers,
    read_redrives,
)
from workers.ops.dead_letters.letters import DeadLetter, FoundLetters

__all__ = [
    "LetterAnswers",
    "LetterRedrives",
    "ToldLetter",
    "make_histories",
    "read_server_answers",
    "read_server_redrives",
]

_Answers = dict[LetterKey, StoredAnswer | None]
_Redrives = dict[LetterKey, list[Redrive]]
ToldLetter = tuple[DeadLetter, LetterHistory | None]  # None: what is known of it is on a server that does not answer


@dataclass(frozen=True, slots=True)
class LetterAnswers:
    """The answers by dead letter, and what is not known because a server did not answer."""

    found: _Answers
    unknown: frozenset[LetterKey] = frozenset()
    silent: tuple[ServerError, ...] = ()


@dataclass(frozen=True, slots=True)
class LetterRedrives:
    """The redrives by dead letter, the oldest first, and the servers whose own are not known."""

    found: _Redrives
    silent: tuple[ServerError, ...] = ()


async def read_server_redrives(
    settings: Settings, letters: Collection[LetterKey] | None = None, connection: Connection | None = None
) -> LetterRedrives:
    """Return the redrives of dead letters; each is noted on the server of its operation, whichever that was.

    Args:
        settings: which servers there are.
        letters: the dead letters; None: all.
        connection: to the only server, where it is open already.

    Raises:
        OSError, asyncpg.PostgresError, ServerError: when no server can be asked.

    """

    async def read(server: Connection, _: object) -> _Redrives:
        return await read_redrives(server, letters)

    told = await ask_each_server(settings, read, connection)
    return LetterRedrives(merge_redrives(told.answers), tuple(told.silent))


async def read_server_answers(
    settings: Settings, letters: Sequence[DeadLetter], connection: Connection | None = None
) -> LetterAnswers:
    """Return the stored answers to the requests in dead letters.

    Args:
        settings: which servers there are.
        letters: the dead letters.
        connection: to the only server, where it is open already.

    Raises:
        OSError, asyncpg.PostgresError, ServerError: when no server can be asked.

    """

    async def read(server: Connection, _: object) -> _Answers:
        return await read_letter_answers(server, letters)

    told = await ask_each_server(settings, read, connection)
    found: _Answers = {}
    for answers in told.answers:  # a copy that a move left has the same answers, as they are final
        found |= {key: found.get(key) or answer for key, answer in answers.items()}
    unknown = (letter_key(each) for each in letters if not found.get(letter_key(each)) and not _is_asked(told, each))
    return LetterAnswers(found, frozenset(unknown if told.silent else ()), tuple(told.silent))


def _is_asked(told: ServerAnswers[_Answers], letter: DeadLetter) -> bool:
    """Return whether the server that would have a message's answer was asked; nobody has one to what is no event."""
    event = decode_message(letter)
    if not isinstance(event, Event):
        return True
    if letter.origin_topic == EXPIRY_TICKS:
        return told.has_number(letter.origin_partition)
    return told.has_account(event.subject or "")


def make_histories(
    settings: Settings, found: FoundLetters, redrives: LetterRedrives, answers: LetterAnswers
) -> list[ToldLetter]:
    """Return dead letters with their histories, of what was read about them."""
    unknown = answers.unknown
    if any(each.settings.database_url == settings.database_url for each in redrives.silent):
        # There redrives are noted: whether one without an answer was sent back is not known.
        keys = map(letter_key, found.letters)
        unknown |= {key for key in keys if answers.found.get(key) is None and key not in redrives.found}
    told: list[ToldLetter] = []
    for letter in found.letters:
        key = letter_key(letter)
        sent = tuple(redrives.found.get(key, ()))
        positions = [(each.topic, each.partition, each.offset) for each in sent]
        new_letter = next(filter(None, map(found.copies.get, reversed(positions))), None)
        answer = answers.found.get(key)
        is_unknown = answer is None and new_letter is None and not found.unsearched.isdisjoint(positions)
        told.append((letter, None if key in unknown else LetterHistory(sent, answer, new_letter, is_unknown)))
    return told
