"""Every scenario table holds in Postgres: each row, balance, lot and notice is as the table says."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from infra.postgres import Connection
from tests.ledger.scenario import Scenario, table_cases
from tests.ledger.scenario_run import run
from tests.ledger.scenario_sql import SqlBooks
from tests.ledger.told_lots import check_told_lots
from tests.workers.contract import broken_words_of_all, records_of


@asynccontextmanager
async def rolled_back(connection: Connection) -> AsyncIterator[SqlBooks]:
    """Empty books whose entries are gone afterwards."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield SqlBooks(connection, with_balances=True)
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("scenario", table_cases(29, 31), ids=str)
async def test_the_ledger_in_postgres_does_what_the_table_says(shared: Connection, scenario: Scenario) -> None:
    """Each line's rows, in order, and the checks behind them; no credit is made or lost in between.

    And the events that the workers publish mean what the contract says, field by field: a reader who has nothing else
    comes to the balance of each event, and to what the books have left on each lot and when it ends. So do the balances
    that are published where their topic is on: each says what the results up to its sequence say.
    """
    async with rolled_back(shared) as books:
        await run(scenario, books)
        await check_told_lots(books)
    events = [json.loads(each.value) for each in books.messages + books.balances]
    broken, _ = broken_words_of_all(events, records_of(books.requests))

    assert {each.key for each in books.balances} == {each.key for each in books.messages if each.key is not None}
    assert [] == broken
