"""No deadlock: batches wait for each other but never in a circle. Forms with another lock order run into one."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import asyncpg
import pytest

from infra.settings import Settings
from tests.ledger.races import Lane, Race, open_race, read_batch, wrong_in_books
from tests.ledger.races_forms import DEADLOCKING, NEWCOMERS_DEADLOCK, sql_of
from tests.ledger.races_mix import CATALOGUE, Mix
from tests.ledger.scenario_events import Input
from workers.ops.books.audit import audit_books

LANES = 7
BATCHES = int(os.environ.get("BATCHES", "1000"))
BATCHES_TO_LOSE = 3000  # the broken forms deadlock within 150
STEP_LOTS = 20
SEED = 4
ROUNDS = 12  # a form that inserts in any order wins one in NEWCOMERS
NEWCOMERS = 20
# Lanes without Kafka keep no progress, and decide in no common order.
UNKEPT = {"row_was_read", "refusal_knew_its_grants"}
# Whatever moves credits.
MOVES = {"charged", "granted", "reversed", "expired", "voided", "adjusted", "forfeited", "cap_forfeited"}


async def _run(race: Race, batches: Iterable[list[Input]], *, until_deadlock: bool = False) -> Counter[str]:
    """Decide batches on all lanes, each taking the next one that is left; return how they ended."""
    left = iter(batches)
    ended: Counter[str] = Counter()

    async def run(lane: Lane) -> None:
        for batch in left:
            try:
                await lane.decide(batch)
            except asyncpg.PostgresError as error:
                ended[type(error).__name__] += 1
            else:
                ended["decided"] += 1
            if until_deadlock and ended["DeadlockDetectedError"]:
                return

    await asyncio.gather(*map(run, race.lanes))
    return ended


async def _let_newcomers_in(race: Race) -> Counter[str]:
    """Let two lanes open the same new accounts in each round, in opposite orders; return their errors.

    One lane opens the account that comes first and, once the other one waits, the rest. A lane that opens accounts in
    order waits for the first one and holds none; in another order it holds some that the lane it waits for wants.
    """
    (send,) = read_batch("2030-01-01 send zoe")
    errors = Counter[str]()
    for turn in range(ROUNDS):
        batch = [replace(send, account=f"new-{turn}-{number:02}") for number in range(NEWCOMERS)]
        errors.update(await race.interleaved([batch[:1], batch[1:]], batch[::-1]))
    return errors


async def test_mixed_batches_never_deadlock(settings: Settings) -> None:
    """Batches of everything, accounts in any order, on seven lanes: all are decided, and the books balance.

    BATCHES says how many.
    """
    mix = Mix(SEED)
    async with open_race(settings, CATALOGUE, lanes=LANES, step_lots=STEP_LOTS) as race:
        ended = await _run(race, [mix.take() for _ in range(BATCHES)])
        wrong = await wrong_in_books(race.watcher)
        audit = await audit_books(race.watcher)
        seen = {row[0] for row in await race.watcher.fetch("select distinct code from journal where amount <> 0")}

    assert {"decided": BATCHES} == ended
    assert MOVES == seen
    assert [] == wrong
    assert [] == [finding for finding in audit.failures() if finding.name not in UNKEPT]
    assert audit.totals.balanced


@pytest.mark.parametrize("form", DEADLOCKING)
async def test_with_another_lock_order_mixed_batches_deadlock(settings: Settings, form: str) -> None:
    """The run above bites: with locks taken in another order it deadlocks early on."""
    mix = Mix(SEED)
    batches = (mix.take() for _ in range(BATCHES_TO_LOSE))
    async with open_race(settings, CATALOGUE, lanes=LANES, step_lots=STEP_LOTS) as race:
        await race.watcher.execute(sql_of(DEADLOCKING[form]))
        ended = await _run(race, batches, until_deadlock=True)

    assert ended["DeadlockDetectedError"]


async def test_new_accounts_named_in_any_order_do_not_deadlock(settings: Settings) -> None:
    """Batches that open the same new accounts, in opposite orders, wait for each other but never in a circle."""
    async with open_race(settings, CATALOGUE, lanes=2) as race:
        errors = await _let_newcomers_in(race)
        opened = await race.watcher.fetchval("select count(*) from accounts")

    assert {} == errors
    assert ROUNDS * NEWCOMERS == opened


async def test_new_accounts_inserted_in_any_order_deadlock(settings: Settings) -> None:
    """The race above bites: in as many rounds, a form that inserts new accounts in no order runs into a circle."""
    async with open_race(settings, CATALOGUE, lanes=2) as race:
        await race.watcher.execute(sql_of(NEWCOMERS_DEADLOCK))
        errors = await _let_newcomers_in(race)

    assert errors["DeadlockDetectedError"]
