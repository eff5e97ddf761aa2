"""Dead letters with their histories: a page of them, one in full, and how many there are."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Final

from infra.kafka.backwards import ReadBudget
from infra.postgres import POSTGRES_ERRORS, Connection, connect_database
from infra.settings import Settings
from workers.ops.books.shards import ServerError, ask_each_server, has_one_server
from workers.ops.dead_letters.copies import find_copies
from workers.ops.dead_letters.history import LetterKey, letter_key
from workers.ops.dead_letters.letters import (
    ALL,
    DeadLetter,
    FoundLetters,
    LetterFilter,
    MessagePosition,
    NoSuchDeadLetterError,
    count_matching,
)
from workers.ops.dead_letters.pages import LetterCursor, list_dead_letters
from workers.ops.dead_letters.server_answers import (
    ToldLetter,
    make_histories,
    read_server_answers,
    read_server_redrives,
)

__all__ = ["DeadLetterReport", "count_dead_letters", "report_dead_letter", "report_dead_letters"]

# The database may lack this version's migrations.
_IS_MIGRATED: Final = "select to_regclass('redriven') is not null and to_regclass('shard') is not null"
_IS_NOTED: Final = "select exists (select from operations where operation = $1)"
_REDRIVEN_BY: Final = "select letter_partition, letter_offset, letter from redriven where operation = $1"


@dataclass(frozen=True, slots=True)
class DeadLetterReport:
    """A page of dead letters with their histories, the newest first."""

    letters: list[ToldLetter]
    silent: str | None  # why the database could not be read
    next: LetterCursor | None = None  # where the next page goes on; None: there are no older ones
    searched_to: datetime | None = None  # nothing newer matches but what was listed; None: all was searched
    silent_servers: tuple[ServerError, ...] = ()  # some of several, whose letters have no history here

    def summary(self) -> list[dict[str, Any]]:
        """Return the dead letters for JSON; a history is null if its database could not be read."""
        rows = []
        for letter, history in self.letters:
            row: dict[str, Any] = {each.name: getattr(letter, each.name) for each in fields(letter)}
            rows.append(row | {"became": None if history is None else history.summary()})
        return rows


async def report_dead_letters(  # noqa: PLR0913 - independent options
    settings: Settings,
    selection: LetterFilter = ALL,
    last: int | None = None,
    operation: int | None = None,
    *,
    after: LetterCursor | None = None,
    budget: ReadBudget | None = None,
) -> DeadLetterReport:
    """Return the newest matching dead letters with their histories, or the next older ones.

    Args:
        settings: where Kafka and Postgres are.
        selection: the filter.
        last: the maximum number; None: all.
        operation: only dead letters redriven by the operation with this number.
        after: where the page before ends; None: the first page.
        budget: how much of the topic may be read, for the letters and again for what redriven ones became; None: all.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.
        OSError, asyncpg.PostgresError, ServerError: with an operation, when what it sent back cannot be read.

    """
    places = is_selected = None
    if operation is not None:
        keys = await _redriven_by(settings, operation)
        places = {key[:2] for key in keys}
        is_selected = _both(selection, keys)
    async with _open_books_if_reachable(settings) as (connection, unreadable):
        page = await list_dead_letters(
            settings,
            selection,
            last,
            is_selected=is_selected,
            places=places,
            after=after,
            budget=None if budget is None else replace(budget),
        )
        silent, silent_servers = unreadable, tuple[ServerError, ...]()
        known: list[ToldLetter] = [(letter, None) for letter in page.letters]
        if silent is None:
            every = selection.offset is not None
            try:
                known, silent_servers = await _histories(settings, connection, page.letters, budget, every=every)
            except ServerError as error:  # none of several answers
                silent = str(error)
    return DeadLetterReport(known, silent, page.next, page.searched_to, silent_servers)


async def count_dead_letters(
    settings: Settings, selection: LetterFilter = ALL, operation: int | None = None
) -> Counter[tuple[str, str]]:
    """Return the number of all matching dead letters by topic and reason.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.
        OSError, asyncpg.PostgresError, ServerError: with an operation, when what it sent back cannot be read.

    """
    if operation is None:
        return await count_matching(settings, selection.matches, selection.partition)
    keys = await _redriven_by(settings, operation)
    return await count_matching(settings, _both(selection, keys), selection.partition)


def _both(selection: LetterFilter, keys: Collection[LetterKey]) -> Callable[[DeadLetter], bool]:
    return lambda letter: letter_key(letter) in keys and selection.matches(letter)


async def _histories(
    settings: Settings,
    connection: Connection | None,
    letters: list[DeadLetter],
    budget: ReadBudget | None,
    *,
    every: bool,
) -> tuple[list[ToldLetter], tuple[ServerError, ...]]:
    """Return letters with their histories; what redriven ones became is searched for if `every`, or if unanswered.

    None for those whose server does not answer, with the errors of such servers.
    """
    redrives = await read_server_redrives(settings, [letter_key(letter) for letter in letters], connection)
    answers = await read_server_answers(settings, letters, connection)
    sent: dict[MessagePosition, datetime] = {
        (each.topic, each.partition, each.offset): each.at
        for letter, made in redrives.found.items()
        for each in made
        if each.offset is not None and (every or answers.found.get(letter) is None)
    }
    copies = await find_copies(settings, sent, budget)
    found = FoundLetters(letters, copies.places, copies.unsearched)
    return make_histories(settings, found, redrives, answers), answers.silent or redrives.silent


async def report_dead_letter(
    settings: Settings, partition: int, offset: int, budget: ReadBudget | None = None
) -> DeadLetterReport:
    """Return the dead letter at an offset, with its history.

    Args:
        settings: where Kafka and Postgres are.
        partition: the dead letter's.
        offset: the dead letter's.
        budget: how much of the topic may be read for what a redriven one became; None: all.

    Raises:
        NoSuchDeadLetterError: when there is no dead letter at the offset.
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    report = await report_dead_letters(settings, LetterFilter(partition=partition, offset=offset), 1, budget=budget)
    if not report.letters:
        text = f"there is no dead letter at {partition}/{offset}: see `inmail dead-letters list`"
        raise NoSuchDeadLetterError(text)
    return report


@asynccontextmanager
async def _open_books_if_reachable(settings: Settings) -> AsyncIterator[tuple[Connection | None, str | None]]:
    """Open the only database, or return why it cannot be read: dead letters can be listed without their histories.

    Of several none is opened: each that answers is asked, whichever is away.
    """
    if not has_one_server(settings):
        yield None, None
        return
    try:
        connection = await connect_database(settings)
    except POSTGRES_ERRORS as error:
        yield None, str(error) or type(error).__name__
        return
    try:
        if not await connection.fetchval(_IS_MIGRATED):
            yield None, "the database does not have this version's tables: run `inmail migrate`"
        else:
            yield connection, None
    finally:
        await connection.close()


async def _redriven_by(settings: Settings, operation: int) -> set[LetterKey]:
    """Return the dead letters that an operation sent back, from the server on which it is noted.

    Raises:
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when the only server cannot be reached or refuses.
        ServerError: when the operation may be noted on one of several servers that does not answer.

    """

    async def read(server: Connection, _: object) -> set[LetterKey] | None:
        if not await server.fetchval(_IS_NOTED, operation):
            return None
        return {tuple(row) for row in await server.fetch(_REDRIVEN_BY, operation)}

    told = await ask_each_server(settings, read)
    found = [keys for keys in told.answers if keys is not None]
    if not found and told.silent:
        raise told.silent[0]
    return set[LetterKey]().union(*found)
