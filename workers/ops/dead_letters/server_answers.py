"""The redrives of dead letters and the stored answers to their requests, from all servers that hold the books."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import EXPIRY_TICKS
from schemas.envelope import Event
from workers.ops.books.shards import ServerAnswers, ServerError, ask_each_server
from workers.ops.dead_letters.history import (
    LetterKey,
    Redrive,
    StoredAnswer,
    decode_message,
    letter_key,
    merge_redrives,
    read_letter_answers,
    read_redrives,
)
from workers.ops.dead_letters.letters import DeadLetter

__all__ = ["LetterAnswers", "LetterRedrives", "read_server_answers", "read_server_redrives"]

_Answers = dict[LetterKey, StoredAnswer | None]
_Redrives = dict[LetterKey, list[Redrive]]


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
