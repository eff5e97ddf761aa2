"""Decisions and balances look up the rows that they need: their work does not grow with what else the books hold."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from infra.postgres import Connection
from infra.settings import Settings
from schemas.billing import CreditsAdjusted
from tests.ledger.book import Book, at
from tests.ledger.races import open_race, read_batch
from tests.ledger.races_mix import CATALOGUE
from workers.jobs.balances import balance_messages
from workers.ops.books.current_balance import BalanceQuestion, read_current_balances

OLD, NEW = "member-old", "member-new"
CLOSED = 60  # of five years
_BESIDE = 40  # other accounts, whose lots lie between those of one, as they do where each month brings all of them one
_SLACK = 4

# As a tick leaves a month's lot, and a promotion's. In the order of their months, as years of renewals bring them.
_CLOSE = """
insert into lots (
    account, lot, partition, request_id, origin, subscription_id, plan, period_start, period_end, priority, on_change,
    credit_back, cap_pending, granted, remaining, granted_at, expires_at, full_expires_at, open, warned
)
select a.account, 1000 + n, a.partition, gen_random_uuid(), $3, x.subscription_id, x.plan, x.starts, x.ends, 0, 'keep',
    false, false, 5, 0, m.starts, m.starts + interval '90 days', m.starts + interval '90 days', false, true
from generate_series(1, $2::integer) as n
cross join accounts as a
cross join lateral (select $1::timestamptz - n * interval '1 month' as starts) as m
left join lateral (
    select 's-1' as subscription_id, 'premium_career' as plan, m.starts, m.starts + interval '1 month' as ends
) as x on $3 = 'subscription'
where a.account_id <> $4
order by n desc, a.account
"""
_BLOCKS = """
select heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read
from pg_statio_user_tables
where relname = 'lots'
"""


async def _blocks_of_lots(connection: Connection, work: Callable[[], Awaitable[object]]) -> int:
    """Return how many blocks of lots, and of their indexes, some work asks for."""
    counts = []
    for each in (None, work):
        if each is not None:
            await each()
        await connection.execute("select pg_stat_force_next_flush()")
        counts.append(await connection.fetchval(_BLOCKS))
    return counts[1] - counts[0]


def _taken(book: Book, account: str, credits_: int) -> CreditsAdjusted:
    data = {"credits": -credits_, "actor": "ops-1", "reason": "a test"}
    return CreditsAdjusted.create(**book._envelope(account, None), data=data)


@pytest.mark.parametrize("origin", ["subscription", "promotion"])
async def test_the_work_for_an_account_does_not_grow_with_its_closed_lots(database: Connection, origin: str) -> None:
    """Blocks of lots that each kind of work asks for: as many as for an account that never closed one."""
    book = Book(database)
    others = [f"other-{n:02}" for n in range(_BESIDE)]
    await book.decide(*(book.activated(each, period_end=at("2030-02-01")) for each in (OLD, NEW, *others)))
    await database.execute(_CLOSE, book.now, CLOSED, origin, NEW)
    await database.execute("update accounts set newest_lot = 2000")  # numbers count in the order in which lots open
    await database.execute("alter table lots set (autovacuum_enabled = false)")  # what it reads would be counted, too
    await database.execute("vacuum (analyze) lots")

    async def read(account: str) -> object:
        return await read_current_balances(database, [BalanceQuestion(account)], book.now)

    async def publish(account: str) -> object:
        return await balance_messages(database, [account], lambda each, _: each)

    grants = {account: uuid4() for account in (OLD, NEW, *others)}
    work: dict[str, Callable[[str], Awaitable[Any]]] = {
        "send": lambda account: book.one(book.send(account)),
        "grant": lambda account: book.one(book.promotion(1, account, id=grants[account])),
        "adjustment": lambda account: book.one(_taken(book, account, 5)),  # of five: all that is left
        "refused send": lambda account: book.one(book.send(account)),
        "void": lambda account: book.one(book.voided(grants[account], account)),
        "renewal": lambda account: book.one(book.renewed(account, period_start=at("2030-02-01"))),
        "renewal told twice": lambda account: book.one(book.renewed(account, period_start=at("2030-02-01"))),
        "balance read": read,
        "balance published": publish,
    }
    found = {}
    for what, do in work.items():
        await do(others[0])  # plans are made, and the statistics of the tables are read
        found[what] = [await _blocks_of_lots(database, lambda do=do, name=name: do(name)) for name in (NEW, OLD)]

    assert all(new > 0 for new, _ in found.values())
    assert {} == {what: blocks for what, blocks in found.items() if blocks[1] > blocks[0] + _SLACK}


_UPDATES = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'lots'"


async def test_a_debit_rewrites_its_lot_in_its_page_and_no_index(database: Connection) -> None:
    """Heap-only updates, since no index of lots mentions what a debit changes."""
    book = Book(database)
    await book.decide(book.promotion(9))
    counts = []
    for sends in (0, 9):
        for _ in range(sends):
            await book.one(book.send())
        await database.execute("select pg_stat_force_next_flush()")
        counts.append(await database.fetchrow(_UPDATES))
    before, after = counts

    assert [9, 9] == [new - old for old, new in zip(before, after, strict=True)]


# Every movement, and a tick; with caps, limits and all else that a catalogue may switch on.
_STORY = (
    "2030-01-01 activate s-1 premium_business 2030-01-01..2030-02-01 as grant; promotion 3 of a; survey 1 of b",
    "2030-01-01 renew s-1 premium_business 2030-02-01..2030-03-01; purchase 1 of c; adjust 2 by ann because test",
    "2030-01-02 send zoe as first; send max as second; send eva connection",
    "2030-01-02 undeliverable first; responded second; undeliverable nobody",
    "2030-01-03 change s-1 premium_career 2030-01-03..2030-02-03; renew s-1 premium_career 2030-01-03..2030-02-03",
    "2030-01-03 cancel s-1 at 2030-01-20; take-back s-1; adjust -1 by ann because test; void grant because test",
    "2030-01-04 adjust -20 by ann because test; adjust -3 by ann because test",
    "2030-01-05 send zoe as third; send zoe as fourth; send zoe as fifth; send zoe as sixth; send zoe as last",
    "2030-01-09 tick",
    "2030-01-10 send kim as first; send zoe as third",
    "2030-02-04 promotion 3 of d; promotion 4 of a as grant; erase",
)
_READ_WHOLE = """
select relname, seq_scan
from pg_stat_user_tables
where relname in ('accounts', 'journal', 'lots', 'subscriptions')
"""


async def test_a_plan_that_is_made_while_tables_are_small_reads_none_of_them_whole(settings: Settings) -> None:
    """A session keeps its plans while the tables grow: of a new installation, that a million members are moved to."""
    found = []
    async with open_race(settings, CATALOGUE, lanes=2) as race:
        await race.in_turn(*_STORY[:3])
        await race.watcher.execute("analyze")
        lane = race.lanes[1]
        for batch in (None, *_STORY):
            if batch is not None:
                await lane.decide([replace(each, account=each.account and "bob") for each in read_batch(batch)])
            await lane.connection.execute("select pg_stat_force_next_flush()")
            found.append(dict(await race.watcher.fetch(_READ_WHOLE)))

    read = {
        batch: {table: n - before[table] for table, n in after.items() if n != before[table]}
        for batch, before, after in zip(_STORY, found, found[1:], strict=False)
    }
    assert {} == {batch: tables for batch, tables in read.items() if tables}
