"""The balance now, read without the account's history: the same as the balance computed from all of it."""

import asyncio
import json
import os
from datetime import datetime, timedelta
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given

from infra.postgres import Connection, connect_database
from infra.settings import Settings
from tests.ledger.book import Book
from tests.ledger.histories import Draft, batches, drafts, play
from tests.ledger.scenario_books import OracleBooks
from tests.ledger.scenario_events import TICK
from tests.ledger.scenario_sql import SqlBooks, fingerprint_of
from tests.whole import ALL
from tests.workers.books_sound import books_of_a_worker
from workers.ops.books.balance import UnknownAccountError, balance_of
from workers.ops.books.current_balance import (
    _CURRENT,
    BalanceQuestion,
    BalanceVersion,
    CurrentBalance,
    read_current_balances,
)

HISTORIES = int(os.environ.get("HISTORIES") or (40 if ALL else 20))  # of 45 records on average
LONG_AGO = datetime.fromisoformat("2000-01-01T00:00:00Z")  # so that an account's last row gives the instant
MICROSECOND = timedelta(microseconds=1)
AFTER = (timedelta(0), timedelta(hours=1), timedelta(days=9), timedelta(days=31), timedelta(days=400))


async def _read(connection: Connection, account: str, now: datetime) -> CurrentBalance | None:
    asked = BalanceQuestion(account)
    found = (await read_current_balances(connection, [asked, BalanceQuestion("nobody")], now)).get(asked)
    assert not isinstance(found, BalanceVersion)
    return found


async def _play(draft: Draft, books: SqlBooks) -> None:
    for batch in batches(play(draft, OracleBooks(fingerprint_of))):
        if batch[0].catalogue:
            await books.use(batch[0].catalogue)
        elif batch[0].input and batch[0].input.type == TICK:
            await books.tick(batch[0].input, batch[0].read_to)
        else:
            await books.decide([entry.input for entry in batch if entry.input])


async def _compare(connection: Connection) -> int:
    """Compare what is read now with what is computed of the whole journal, at some instants; return how many."""
    compared = 0
    for account in ("alice", "bob"):
        last = await _read(connection, account, LONG_AGO)
        if last is None:
            with pytest.raises(UnknownAccountError):
                await balance_of(connection, account)
            continue
        for after in AFTER:
            now = last.as_of + after
            current = await _read(connection, account, now)
            assert current is not None
            whole = await balance_of(connection, account, now)
            if whole.overtaken:  # the last row is not the latest: the balance then lacks it
                continue
            # A cancel leaves a lot that would start later no time to live.
            living = [
                lot for lot in whole.lots if lot.state in ("available", "later") and lot.granted_at < lot.expires_at
            ]
            wanted = {(lot.lot, lot.remaining, lot.expires_at) for lot in living}
            assert whole.balance == current.spendable
            assert wanted == {(lot.lot, lot.remaining, lot.expires_at) for lot in current.lots}
            await _check_holds(connection, current)
            compared += 1
    return compared


async def _check_holds(connection: Connection, current: CurrentBalance) -> None:
    """See that up to `changes_at` time alone changes nothing, and that who has the answer is told so until then."""
    until = current.changes_at or current.as_of + timedelta(days=2000)
    span = (until - current.as_of) // MICROSECOND
    for microseconds in {span // 100, span // 2, span - 1}:
        then = current.as_of + microseconds * MICROSECOND
        later = await _read(connection, current.account_id, then)
        assert later is not None
        assert (current.spendable, current.lots, current.next_allotment_at, current.changes_at) == (
            later.spendable,
            later.lots,
            later.next_allotment_at,
            later.changes_at,
        )
        assert current.version == await _read_known(connection, current, then)
    if current.changes_at is not None:
        assert isinstance(await _read_known(connection, current, current.changes_at), CurrentBalance)


async def _read_known(
    connection: Connection, current: CurrentBalance, now: datetime
) -> CurrentBalance | BalanceVersion | None:
    """Ask as one who has the answer already, and wants it only where it is another."""
    asked = BalanceQuestion(current.account_id, current.version)
    return (await read_current_balances(connection, [asked], now)).get(asked)


@pytest.mark.timeout(max(600, HISTORIES))
def test_the_balance_now_is_that_of_the_whole_journal_and_holds_until_it_says(settings: Settings) -> None:
    """Random histories, at the last row and later: the same sum and lots, and no change before `changes_at`."""
    loop = asyncio.new_event_loop()
    connection: Any = loop.run_until_complete(connect_database(settings))
    compared = 0

    async def play_and_compare(draft: Draft) -> int:
        async with books_of_a_worker(connection) as books:
            await _play(draft, books)
            return await _compare(connection)

    @hypothesis.settings(
        deadline=None,
        database=None,
        max_examples=HISTORIES,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
    )
    @given(drafts())
    def compare_all(draft: Draft) -> None:
        nonlocal compared
        compared += loop.run_until_complete(play_and_compare(draft))

    try:
        compare_all()
    finally:
        loop.run_until_complete(connection.close())
        loop.close()

    assert compared > HISTORIES


async def test_the_work_for_a_balance_does_not_grow_with_the_history(database: Connection) -> None:
    """A hundred thousand rows of one account: the statement reads a few pages, by indexes."""
    book = Book(database)
    await book.one(book.promotion(5))
    await book.one(book.send())
    await database.execute(
        "insert into journal select (r).* from (select jsonb_populate_record(j, jsonb_build_object("
        "'sequence', n, 'request_id', gen_random_uuid(), 'source_offset', n)) as r"
        " from journal as j, generate_series(3, 100000) as n where j.sequence = 2) as more"
    )
    await database.execute("update accounts set sequence = 100000")
    await database.execute("analyze")
    asked = (["alice"], LONG_AGO, [None], [None], 0)
    plan = await database.fetchval("explain (analyze, buffers, format json) " + _CURRENT, *asked)
    top = json.loads(plan)[0]["Plan"]

    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 200
