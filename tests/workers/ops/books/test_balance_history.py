"""An account's balance over time. The statement's random histories compare it with the balance of every instant."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest

from infra.postgres import Connection
from tests.ledger.book import at
from tests.ledger.scenario import read_text
from tests.ledger.scenario_run import run
from tests.ledger.scenario_sql import SqlBooks
from tests.workers.books_sound import books_of_a_worker
from workers.console.balance_json import balance_history_json
from workers.ops.books import balance_history
from workers.ops.books.balance_history import BalanceHistory, BalancePoint, balance_history_of, thin

STORY = """scenario: told over time
activate s-1 premium_career 2030-01-01..2030-03-01 annual  -> granted +5; granted +5
send bob                                                   -> charged -1
send carol connection                                      -> free
at 2030-02-10
send dave                                                  -> charged -1
at 2030-04-20
tick                                                       -> expired -3
"""


@pytest.fixture
async def books(shared: Connection) -> AsyncIterator[SqlBooks]:
    """Empty books."""
    async with books_of_a_worker(shared) as empty:
        yield empty


async def test_a_balance_changes_when_lots_start_and_end(books: SqlBooks) -> None:
    """Not when a tick books it; the end of the last lot is told before it comes."""
    (scenario,) = read_text(STORY, "test")
    await run(scenario, books)

    history = await balance_history_of(books.connection, "alice", at("2030-04-20"))
    assert {
        "2030-01-01": 4,
        "2030-02-01": 9,
        "2030-02-10": 8,
        "2030-04-01": 5,
        "2030-05-02": 0,
    } == {f"{point.at:%Y-%m-%d}": point.balance for point in history.points}
    told = [(f"{change.at:%m-%d}", change.kind.value, change.credits) for change in history.changes]
    assert [("02-10", "sent", 1), ("04-01", "expired", 3)] == told[-2:]
    earlier = await balance_history_of(books.connection, "alice", at("2030-01-15"))
    assert [4, 9, 5, 0] == [point.balance for point in earlier.points]


async def test_a_balance_over_more_rows_than_are_read_says_where_it_ends(
    books: SqlBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells nothing from there on, rather than a balance without the rows that were left out; and off the loop."""
    (scenario,) = read_text(STORY, "test")
    await run(scenario, books)
    whole = await balance_history_of(books.connection, "alice", at("2030-04-20"))
    moved: list[object] = []

    async def to_thread(function: Callable[..., object], *arguments: object) -> object:
        moved.append(function)
        return function(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    monkeypatch.setattr(balance_history, "_MAX_ROWS", 4)
    cut = await balance_history_of(books.connection, "alice", at("2030-04-20"))

    assert whole.cut_at is None
    assert cut.cut_at is not None
    assert cut.as_of == cut.cut_at < whole.as_of
    assert cut.points == tuple(each for each in whole.points if each.at < cut.cut_at)
    assert cut.changes == tuple(each for each in whole.changes if each.at < cut.cut_at)
    assert 1 == len(moved)
    assert cut.cut_at == balance_history_json(cut, 30)["cut_at"]


@pytest.mark.parametrize("edge", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_a_balance_at_the_calendars_ends_is_shown(edge: datetime) -> None:
    """The range ends where the calendar does."""
    for days in (30, None):
        shown = balance_history_json(BalanceHistory("a", edge, (BalancePoint(edge, 5),), ()), days)
        assert shown["from"] <= edge <= shown["to"]
        assert shown["from"] < shown["to"]


def test_a_thinned_balance_keeps_its_extremes() -> None:
    """A peak between two points that stay is a point that stays."""
    points = [
        BalancePoint(at(f"2030-01-{1 + each // 24:02}T{each % 24:02}:00"), 1000 if each == 357 else 5)
        for each in range(700)
    ]
    kept = thin(points, 60)

    assert len(kept) <= 60
    assert 1000 in {point.balance for point in kept}
    assert points[-1] == kept[-1]
    assert points == thin(points, 700)
