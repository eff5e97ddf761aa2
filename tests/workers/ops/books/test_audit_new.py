"""The audit of what is new finds what the whole audit finds in new rows, and nothing in sound books."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.postgres import Connection, connect_database
from infra.settings import Settings
from tests.ledger.book import Book
from tests.ledger.scenario import FOLDER, TableError, read_file, read_text
from tests.ledger.scenario_events import Input
from tests.ledger.scenario_run import run
from tests.ledger.scenario_sql import SqlBooks
from tests.workers.books_sound import STORY, all_is_read, books_of_a_worker, write_story
from tests.workers.ops.books.test_audit_finds import CORRUPTIONS, LIFT_EVERYTHING, Corruption, on_accounts
from workers.ops.books.audit import Audit, audit_books
from workers.ops.books.audit_new import audit_new, audit_new_books, save_whole_mark


async def _mark(connection: Connection) -> None:
    found = await audit_books(connection)
    assert found.passed
    await save_whole_mark(connection, found, 0.0)


def _places(found: Audit) -> dict[str, list[tuple[str, str]]]:
    return {each.name: [(example.account, example.place) for example in each.examples] for each in found.failures()}


@pytest.fixture(scope="module")
async def story(shared: Connection) -> Connection:
    """A database with the story in its books, all of it after the mark."""
    async with shared.transaction():
        await _mark(shared)
    await write_story(shared)
    return shared


@pytest.fixture
async def books(story: Connection) -> AsyncIterator[Connection]:
    """The story's books; what a test does to them is undone."""
    transaction = story.transaction()
    await transaction.start()
    yield story
    await transaction.rollback()


async def test_a_sound_story_raises_no_suspicion_and_has_the_whole_audits_totals(books: Connection) -> None:
    """Or a nightly audit would examine every account, and what it finds below would prove little."""
    found = await audit_new_books(books)

    whole = await audit_books(books)
    assert found.new is not None
    assert (found.passed, found.new.examined, found.new.rows) == (True, 0, whole.totals.rows)
    assert (found.totals, [each.name for each in found.findings]) == (
        whole.totals,
        [each.name for each in whole.findings],
    )


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda each: f"{each.check} {each.place}")
async def test_a_corruption_of_new_rows_is_found_by_its_check_and_in_its_place(
    books: Connection, corruption: Corruption
) -> None:
    """All that the whole audit is known to find, it finds where the rows are new, and does not move the mark."""
    first = await books.fetchval("select request_id from journal where code = 'charged' order by account, sequence")
    expected = await on_accounts(books, corruption.account), corruption.place.replace("{first}", str(first))
    await books.execute(LIFT_EVERYTHING)
    await books.execute(await on_accounts(books, corruption.sql))

    found = await audit_new_books(books)

    assert not found.passed
    assert expected in _places(found).get(corruption.check, []), _places(found)
    assert await books.fetchval("select count(*) from audits") == 1


class _AuditedBooks(SqlBooks):
    """Books of which an audit of what is new is made after every batch."""

    def __init__(self, connection: Connection, batches: int = 1_000_000) -> None:
        super().__init__(connection)
        self.batches = batches  # that are audited
        self.suspected = 0
        self.alarms: list[dict[str, list[tuple[str, str]]]] = []

    async def decide(self, inputs: Sequence[Input]) -> list[list[dict[str, Any]]]:
        """Decide a batch, and audit what is new."""
        rows = await super().decide(inputs)
        await self._audit()
        return rows

    async def tick(self, tick: Input, read_to: datetime | None) -> list[dict[str, Any]]:
        """Decide a tick, and audit what is new."""
        rows = await super().tick(tick, read_to)
        await self._audit()
        return rows

    async def _audit(self) -> None:
        if self.batches <= 0:
            return
        self.batches -= 1
        await self.connection.execute("delete from lanes")
        await all_is_read(self.connection)
        found = await audit_new_books(self.connection)
        assert found.new is not None
        self.suspected += found.new.examined
        if not found.passed:
            self.alarms.append(_places(found))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
async def test_no_scenario_alarms_it_whatever_was_audited_before(database: Connection, file: Path) -> None:
    """Audited after every batch, tables of the ledger's tests give no finding, and the whole audit's totals.

    Nor a suspicion: `examined` stays 0. `SCENARIOS=all` plays all of each file.
    """
    count = 1 if os.environ.get("SCENARIOS") != "all" else None
    for scenario in list(read_file(file))[:count]:
        transaction = database.transaction()
        await transaction.start()
        await _mark(database)
        books = _AuditedBooks(database)
        with suppress(TableError):  # whether the table is right is another test's
            await run(scenario, books)
        newest = await database.fetchval("select totals from audits order by audit desc limit 1")
        whole = asdict((await audit_books(database)).totals)
        await transaction.rollback()
        assert ([], 0) == (books.alarms, books.suspected), scenario
        assert newest == whole
