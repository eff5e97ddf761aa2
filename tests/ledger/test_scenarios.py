"""Every scenario table holds in Postgres: each row, balance, lot and notice is as the table says."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from infra.postgres import Connection
from tests.ledger.request_answers import wrong_answers
from tests.ledger.scenario import Scenario, table_cases
from tests.ledger.scenario_run import run
from tests.ledger.scenario_sql import SqlBooks
from tests.ledger.told_lots import check_told_lots
from tests.workers.books_sound import alarms_of, books_of_a_worker
from tests.workers.contract import broken_words_of_all, records_of
from workers.ops.books.statement import StatementLine, statement_of


@asynccontextmanager
async def rolled_back(connection: Connection) -> AsyncIterator[SqlBooks]:
    """Empty books whose entries are gone afterwards, with the topic of balances on."""
    async with books_of_a_worker(connection) as books:
        books.with_balances = True
        yield books


@pytest.mark.parametrize("scenario", table_cases(29, 31), ids=str)
async def test_the_ledger_in_postgres_does_what_the_table_says(shared: Connection, scenario: Scenario) -> None:
    """Each line's rows, in order, and the checks behind them; no credit is made or lost in between.

    And the events that the workers publish mean what the contract says, field by field: a reader who has nothing else
    comes to the balance of each event, and to what the books have left on each lot and when it ends. So do the balances
    that are published where their topic is on: each says what the results up to its sequence say. Each request is
    answered by the event that docs/events.md names. The books are made with a worker's rights; the audit finds nothing
    in them, and no sentence of a statement lacks a fact.
    """
    async with rolled_back(shared) as books:
        await run(scenario, books)
        await check_told_lots(books)
        lacking = [line async for line in _lines_of_all(shared) if "None" in line.reason or "unknown" in line.reason]
        alarms = await alarms_of(shared)
    events = [json.loads(each.value) for each in books.messages + books.balances]
    broken, _ = broken_words_of_all(events, records_of(books.requests))

    assert {each.key for each in books.balances} == {each.key for each in books.messages if each.key is not None}
    assert [] == broken
    assert [] == wrong_answers(events[: len(books.messages)])
    assert ([], []) == (lacking, alarms)


async def _lines_of_all(connection: Connection) -> AsyncIterator[StatementLine]:
    """Yield each line of each account's statement."""
    for row in await connection.fetch("select account_id from accounts"):
        for line in (await statement_of(connection, row[0])).lines:
            yield line
