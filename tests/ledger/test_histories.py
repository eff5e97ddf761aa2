"""Random histories, decided by the oracle and by Postgres: every row, every lot and every account has to be the same."""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given

from infra.postgres import connect_database
from infra.settings import Settings
from tests.ledger import oracle_billing, oracle_expiry, oracle_grants, oracle_sends
from tests.ledger.histories import CATALOGUES, Draft, drafts, play
from tests.ledger.history_judge import judge
from tests.ledger.oracle import Oracle
from tests.ledger.oracle_state import Lot, anchored
from tests.ledger.scenario import TableError, read_text
from tests.ledger.scenario_books import OracleBooks
from tests.ledger.scenario_run import run
from tests.ledger.scenario_sql import SqlBooks, fingerprint_of

HISTORIES = int(os.environ.get("HISTORIES", "250"))  # of 45 records on average; about 100 ms each
UNUSED = {"dead_letter"}
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.filter_too_much]
PHASES = [Phase.generate, Phase.shrink]
RANDOM = hypothesis.settings(
    deadline=None, database=None, suppress_health_check=QUIET, phases=PHASES, report_multiple_bugs=False
)

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def run_now() -> Iterator[Run]:
    """Runs coroutines one by one on one event loop, as hypothesis calls a plain function for each history."""
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.close()


@pytest.mark.timeout(max(600, HISTORIES))
def test_postgres_decides_random_histories_as_the_oracle_does(settings: Settings, run_now: Run) -> None:
    """All columns of all rows, all lots, levels and sequences, in batches of any size, by any of the catalogues.

    What fails is shrunk, and printed as a scenario that can be pasted into `scenarios/`. HISTORIES makes it
    longer; the histories are others in each run.
    """
    connection: Any = run_now(connect_database(settings))
    codes: Counter[str] = Counter()
    executed = 0

    async def compare(draft: Draft) -> None:
        books = OracleBooks(fingerprint_of)
        history = play(draft, books)
        transaction = connection.transaction()
        await transaction.start()
        plans = "force_generic_plan" if draft.generic_plans else "force_custom_plan"
        await connection.execute(f"set local plan_cache_mode = {plans}")
        try:
            await judge(history, SqlBooks(connection))
        finally:
            await transaction.rollback()
        codes.update(row["code"] for entry in history.entries for row in entry.rows)

    @hypothesis.settings(RANDOM, max_examples=HISTORIES)
    @given(drafts())
    def play_all(draft: Draft) -> None:
        nonlocal executed
        run_now(compare(draft))
        executed += 1

    play_all()
    run_now(connection.close())

    assert executed >= HISTORIES
