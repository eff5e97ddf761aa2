"""The audit finds nothing in sound books, whatever happened to them; `tests/ledger/test_scenarios.py`: of any table."""

import asyncio
import os
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given

from infra.postgres import Connection, connect_database
from infra.settings import Settings
from tests.ledger.book import DAY, Book
from tests.ledger.histories import Draft, batches, drafts, play
from tests.ledger.scenario_books import OracleBooks
from tests.ledger.scenario_events import TICK
from tests.ledger.scenario_sql import SqlBooks, fingerprint_of
from tests.whole import ALL
from tests.workers.books_sound import alarms_of, balance_at, books_of_a_worker
from workers.ops.books.audit import audit_books
from workers.ops.books.balance import balance_of
from workers.ops.books.balance_history import balance_history_of

HISTORIES = int(os.environ.get("HISTORIES") or (60 if ALL else 20))  # of 45 records on average


async def _check_every_instant(connection: Connection, seen: list[Any]) -> int:
    """Compare balances of the past with rows and with what lots were then; return how many could be."""
    compared = 0
    journal = {
        name: await connection.fetch(
            "select j.* from journal as j join accounts using (account) where account_id = $1 order by sequence", name
        )
        for name in {name for name, *_ in seen}
    }
    histories = {name: await balance_history_of(connection, name) for name in journal if journal[name]}
    for name, as_of, lots in seen:
        rows = journal[name]
        balance = await balance_of(connection, name, as_of)
        known = [row for row in rows if row["as_of"] <= as_of]
        in_order = known == rows[: len(known)]
        assert in_order == (balance.overtaken == 0)
        assert balance.balance == balance_at(histories[name], as_of)
        if in_order and known[-1]["as_of"] == as_of:
            assert known[-1]["balance_after"] == balance.balance
        if in_order and lots is not None:
            told = {(lot.lot, lot.remaining, lot.remaining and lot.expires_at) for lot in balance.lots}
            assert lots == told
            compared += 1
    return compared


async def _play(draft: Draft, books: SqlBooks) -> list[Any]:
    """Play a random history; return what each account's lots were at each instant, where that is all of it."""
    seen: dict[Any, Any] = {}
    booked = {"alice": 0, "bob": 0}
    for batch in batches(play(draft, OracleBooks(fingerprint_of))):
        if batch[0].catalogue:
            await books.use(batch[0].catalogue)
            continue
        if batch[0].input and batch[0].input.type == TICK:
            await books.tick(batch[0].input, batch[0].read_to)
        else:
            await books.decide([entry.input for entry in batch if entry.input])
        for name in booked:
            rows = await books.journal(name)
            if rows:
                lots = {
                    (lot["lot"], lot["remaining"], lot["remaining"] and lot["expires_at"])
                    for lot in await books.lots(name)
                }
                # What was seen at an instant is no longer all of it where more is booked now of up to then.
                new = [row["as_of"] for row in rows[booked[name] :]]
                stale = [key for key in seen if key[0] == name and new and key[1] >= min(new)]
                seen.update(dict.fromkeys([*stale, *((name, as_of) for as_of in new)]))
                seen[name, max(row["as_of"] for row in rows)] = lots
                booked[name] = len(rows)
    return [(name, as_of, lots) for (name, as_of), lots in seen.items()]


@pytest.mark.timeout(max(600, HISTORIES))
def test_random_histories_alarm_no_audit_and_the_balance_of_any_instant_is_what_it_was_then(settings: Settings) -> None:
    """Random histories: every lot with credits, its end, and the balance are as they were seen at that time.

    And the audit finds nothing: lanes that are apart, requests and records again, changed catalogues, ticks that stop
    half-way.
    """
    loop = asyncio.new_event_loop()
    connection: Any = loop.run_until_complete(connect_database(settings))
    compared = charged = 0

    async def play_and_compare(draft: Draft) -> None:
        nonlocal compared, charged
        async with books_of_a_worker(connection) as books:
            compared += await _check_every_instant(connection, await _play(draft, books))
            charged += await connection.fetchval("select count(*) from journal where code = 'charged'")
            # A send that a lane decides before an older grant is what that check is for: lanes are apart here.
            assert [] == [alarm for alarm in await alarms_of(connection) if alarm[0] != "refusal_knew_its_grants"]

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
        loop.run_until_complete(play_and_compare(draft))

    try:
        compare_all()
    finally:
        loop.run_until_complete(connection.close())
        loop.close()

    assert min(compared, charged) > HISTORIES


async def test_a_tick_in_steps_does_not_alarm_the_audit(database: Connection) -> None:
    """Each step's lines tell balances of their own; two steps may book lots of one account."""
    book = Book(database)
    for credits_ in (1, 2, 3):
        await book.one(book.promotion(credits_))
        book.now += DAY
    book.now += 100 * DAY
    lines = await book.tick(step_lots=1)

    assert ["expired", "exhausted", "expired", "expired", "booked"] == [line["code"] for line in lines]
    assert [] == await alarms_of(database)

    # As between its steps: the lane has read it once it is answered. A lane that nobody knows is still found.
    await database.execute("update lanes set next_offset = next_offset - 1 where consumer_group = 'inmail-expiry'")
    assert (await audit_books(database)).passed
    await database.execute("delete from lanes where consumer_group = 'inmail-expiry'")
    assert ["row_was_read"] == [each.name for each in (await audit_books(database)).failures()]
