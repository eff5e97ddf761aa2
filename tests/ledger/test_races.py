"""Many connections on the same few accounts. Each race is also run on a form known to be broken, which must lose it."""

import asyncio
import re
from pathlib import Path

import asyncpg

from infra.postgres import Connection, connect_database
from infra.settings import Settings
from tests.ledger.book import Book

OPEN_ACCOUNTS = Path(__file__).parents[2] / "workers" / "ledger" / "sql" / "open_accounts.sql"
CONNECTIONS = 6
ROUNDS = 12


async def _race(settings: Settings, database: Connection, *, credits_: int) -> list[str]:
    """Let several lanes send from the same accounts at once, again and again; return what is wrong afterwards."""
    setup = Book(database)
    connections = [await connect_database(settings) for _ in range(CONNECTIONS)]
    problems = []
    for turn in range(ROUNDS):
        names = [f"{turn}-{name}" for name in ("a", "b", "c")]
        await setup.decide(*[setup.promotion(credits_, name) for name in names])
        batches = []
        for number, connection in enumerate(connections):
            book = Book(connection)
            book.offset = 1_000 * (turn * CONNECTIONS + number + 1)
            order = names if number % 2 else names[::-1]
            batches.append(book.decide(*[book.send(name) for name in order]))
        results = await asyncio.gather(*batches, return_exceptions=True)
        # A broken form ends in the net: a CHECK, a unique key, a deadlock.
        problems += [type(result).__name__ for result in results if isinstance(result, asyncpg.PostgresError)]
        charged = await database.fetchval(
            "select count(*) from journal join accounts using (account)"
            " where code = 'charged' and account_id = any($1)",
            names,
        )
        if charged != credits_ * len(names):
            problems.append(f"{charged} sends were paid of {credits_ * len(names)} that could be")
    for connection in connections:
        await connection.close()
    gaps = await database.fetchval(
        "select count(*) from (select account from journal group by account having max(sequence) <> count(*)) as gap"
    )
    return problems + [f"{gaps} accounts with gaps"] * bool(gaps)


async def test_the_last_credit_is_spent_once(settings: Settings, database: Connection) -> None:
    """Two credits, six lanes: two sends are paid, four are told so; nobody deadlocks; no sequence has a gap."""
    problems = await _race(settings, database, credits_=2)

    assert [] == problems


async def test_without_the_lock_the_last_credit_race_is_lost(settings: Settings, database: Connection) -> None:
    """The race above bites: without the row locks it oversells, or the unique keys catch it."""
    broken, changed = re.subn(r"\s+for no key update", "", OPEN_ACCOUNTS.read_text())
    assert changed == 1
    await database.execute(broken)

    problems = await _race(settings, database, credits_=2)

    assert problems


async def test_new_accounts_named_in_any_order_do_not_deadlock(settings: Settings, database: Connection) -> None:
    """Batches that open the same new accounts, in opposite orders, wait for each other but never in a circle."""
    connections = [await connect_database(settings) for _ in range(CONNECTIONS)]
    for turn in range(ROUNDS):
        names = [f"new-{turn}-{number}" for number in range(20)]
        batches = []
        for number, connection in enumerate(connections):
            book = Book(connection)
            book.offset = 1_000 * (turn * CONNECTIONS + number + 1)
            order = names if number % 2 else names[::-1]
            batches.append(book.decide(*[book.send(name) for name in order]))
        await asyncio.gather(*batches)
    for connection in connections:
        await connection.close()

    assert ROUNDS * 20 == await database.fetchval("select count(*) from accounts")
    assert ROUNDS * 20 * CONNECTIONS == await database.fetchval("select count(*) from journal")
