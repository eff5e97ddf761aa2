"""No deadlock: batches wait for each other but never in a circle. Forms with another lock order run into one."""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from infra.postgres import Connection
from infra.settings import Settings
from tests.ledger.races import Lane, Race, open_race, read_batch, wrong_in_books
from tests.ledger.races_forms import DEADLOCKING, NEWCOMERS_DEADLOCK, sql_of
from tests.ledger.races_mix import CATALOGUE, Mix
from tests.ledger.scenario_events import Input
from tests.whole import ALL
from workers.jobs import bisection
from workers.jobs.billing import BillingJob
from workers.jobs.job import Batch, Decision
from workers.ops.books.audit import audit_books

LANES = 7
BATCHES = int(os.environ.get("BATCHES") or (1000 if ALL else 400))
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


class _Halting(BillingJob):
    """Waits for something once it has decided the first part of a batch that the database has refused as a whole."""

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        super().__init__(CATALOGUE)
        self._waits = [wait]

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        decision = await super().decide(connection, batch)
        if self._waits:
            await self._waits.pop()()
        return decision


async def _nothing(*_: object) -> None:
    pass


@pytest.mark.parametrize("locked_part_by_part", [False, True])
async def test_a_batch_with_a_refused_record_locks_its_accounts_in_order_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, *, locked_part_by_part: bool
) -> None:
    """Its first part is of the last account, its refused record of the first one; another lane wants both.

    Locked part by part, each lane would have what the other one waits for.
    """
    if locked_part_by_part:
        monkeypatch.setattr(bisection, "lock_accounts", _nothing)
    opening, again, poison = read_batch("2030-01-01 promotion 1 of a; promotion 1 of b; promotion 13 of c")
    anna, zoe = ([replace(each, account=account) for each in (opening, again, poison)] for account in ("anna", "zoe"))
    waiting: list[asyncio.Task[None]] = []
    errors: list[BaseException] = []
    async with open_race(settings, CATALOGUE, lanes=2) as race:
        refused, other = race.lanes
        await race.watcher.execute("alter table lots add constraint no_poison check (granted <> 13)")
        for account in (anna, zoe):
            await other.decide(account[:1])

        async def let_the_other_wait() -> None:
            waiting.append(asyncio.create_task(other.decide([anna[1], zoe[1]])))
            await race.until_it_waits(other, waiting[0])

        try:
            await refused.decide_bisected([replace(zoe[1], request_id=uuid4()), anna[2]], _Halting(let_the_other_wait))
        except asyncpg.PostgresError as error:
            errors.append(error)
        errors += [each for each in await asyncio.gather(*waiting, return_exceptions=True) if each is not None]

    assert [asyncpg.DeadlockDetectedError] * locked_part_by_part == [type(error) for error in errors]
