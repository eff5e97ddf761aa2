"""Plan changes of subscriptions that a version before migration 0026 has written."""

import pytest

from infra.migrate import migrate
from infra.postgres import Connection
from tests.ledger.book import Book, at
from workers.ledger.store import FUNCTIONS

AS_IT_WAS = """
alter table subscriptions drop column refused_changes;
delete from migrations where name like '0026%';
"""
CAREER, BUSINESS = "premium_career", "premium_business"


async def _upgrade(database: Connection) -> None:
    await database.execute(AS_IT_WAS)
    await migrate(database, [FUNCTIONS])


@pytest.fixture
def book(database: Connection) -> Book:
    """An empty ledger on New Year's Day 2030."""
    return Book(database)


async def test_a_change_back_refused_before_the_upgrade_is_not_known_and_one_refused_since_is(book: Book) -> None:
    """The first is decided as by the version before: the plan of the change that is read late stays."""
    back = {"plan": CAREER, "period_start": at("2030-01-20")}
    between = {"plan": BUSINESS, "period_start": at("2030-01-10"), "period_end": at("2030-02-10")}
    await book.decide(book.activated("alice"), book.activated("bob"), book.changed("alice", **back))
    await _upgrade(book.connection)
    await book.decide(book.changed("bob", **back))

    await book.decide(book.changed("alice", **between), book.changed("bob", **between))

    plans = "select plan_at(account, 's-1', '2030-01-25') from accounts order by account_id"
    assert [BUSINESS, CAREER] == [row[0] for row in await book.connection.fetch(plans)]
