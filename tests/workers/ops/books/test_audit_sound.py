"""The audit finds nothing in sound books, whatever happened to them."""

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given

from infra.postgres import Connection, connect_database
from infra.settings import Settings
from tests.ledger.book import DAY, Book
from tests.ledger.histories import Draft, batches, drafts, play
from tests.ledger.scenario import read_file, table_files
from tests.ledger.scenario_books import OracleBooks
from tests.ledger.scenario_events import TICK
from tests.ledger.scenario_run import play_unchecked
from tests.ledger.scenario_sql import SqlBooks, fingerprint_of
from tests.whole import ALL
from tests.workers.books_sound import all_is_read, books_of_a_worker
from workers.ops.books.audit import audit_books

HISTORIES = int(os.environ.get("HISTORIES") or (60 if ALL else 20))  # of 45 records on average


async def _alarms(connection: Connection) -> list[tuple[str, Any]]:
    """Return what an audit finds wrong, with where."""
    await all_is_read(connection)
    found = await audit_books(connection)
    assert found.totals.balanced
    return [(finding.name, finding.examples) for finding in found.failures()]


@pytest.mark.parametrize("file", table_files(31), ids=lambda path: path.stem)
async def test_no_scenario_alarms_the_audit(shared: Connection, file: Path) -> None:
    """Every table of the ledger's tests, played with a worker's rights, leaves books without a finding."""
    alarms = []
    for scenario in read_file(file):
        async with books_of_a_worker(shared) as books:
            await play_unchecked(scenario, books)
            alarms += [(str(scenario), alarm) for alarm in await _alarms(shared)]

    assert [] == alarms


async def _play(draft: Draft, books: SqlBooks) -> Counter[str]:
    """Play a random history; return how often each code was booked."""
    history = play(draft, OracleBooks(fingerprint_of))
    for batch in batches(history):
        if batch[0].catalogue:
            await books.use(batch[0].catalogue)
        elif batch[0].input and batch[0].input.type == TICK:
            await books.tick(batch[0].input, batch[0].read_to)
        else:
            await books.decide([entry.input for entry in batch if entry.input])
    return Counter(row["code"] for entry in history.entries for row in entry.rows)


@pytest.mark.timeout(max(600, HISTORIES))
def test_no_random_history_alarms_the_audit(settings: Settings) -> None:
    """Lanes that are apart, requests and records again, changed catalogues, ticks that stop half-way."""
    loop = asyncio.new_event_loop()
    connection: Any = loop.run_until_complete(connect_database(settings))
    codes: Counter[str] = Counter()

    async def play_and_audit(draft: Draft) -> None:
        async with books_of_a_worker(connection) as books:
            codes.update(await _play(draft, books))
            # A send that a lane decides before an older grant is what that check is for: lanes are apart here.
            alarms = [alarm for alarm in await _alarms(connection) if alarm[0] != "refusal_knew_its_grants"]
            assert [] == alarms

    @hypothesis.settings(
        deadline=None,
        database=None,
        max_examples=HISTORIES,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
    )
    @given(drafts())
    def audit_all(draft: Draft) -> None:
        loop.run_until_complete(play_and_audit(draft))

    try:
        audit_all()
    finally:
        loop.run_until_complete(connection.close())
        loop.close()

    assert codes["charged"] > HISTORIES


async def test_a_tick_in_steps_does_not_alarm_the_audit(database: Connection) -> None:
    """Each step's lines tell balances of their own; two steps may book lots of one account."""
    book = Book(database)
    for credits_ in (1, 2, 3):
        await book.one(book.promotion(credits_))
        book.now += DAY
    book.now += 100 * DAY
    lines = await book.tick(step_lots=1)

    assert ["expired", "exhausted", "expired", "expired", "booked"] == [line["code"] for line in lines]
    assert [] == await _alarms(database)
