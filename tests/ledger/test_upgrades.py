"""Plan changes of subscriptions that a version before migration 0026 has written."""

import pytest

from infra.migrate import migrate
from infra.postgres import Connection
from tests.ledger.book import Book, at
from workers.ledger.store import FUNCTIONS

AS_IT_WAS = """
alter table subscriptions drop column refused_changes, drop column change_credits;
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


async def test_changes_noted_before_the_upgrade_stay_in_their_order_beside_later_ones(book: Book) -> None:
    """What their plans give is not known: a month beside one is decided as by the version before."""
    book.now = at("2030-01-10 02:00")
    await book.decide(
        book.renewed(plan=BUSINESS, period_start=at("2030-01-10")),
        book.changed(plan="basic", period_start=at("2030-01-01"), period_end=at("2030-02-01")),
    )
    await _upgrade(book.connection)

    answer = await book.one(book.changed(plan=BUSINESS, period_start=at("2030-01-10 01:00")))

    assert ("granted", 15) == (answer["code"], answer["credits"])
    changes = await book.connection.fetch("select starts, credits from changes_of(1, 's-1') order by n")
    assert [(at("2030-01-01"), None), (at("2030-01-10 01:00"), 15)] == [tuple(row) for row in changes]


async def test_a_lot_that_was_forfeited_before_the_upgrade_does_not_refuse_an_earlier_change(book: Book) -> None:
    """Nor did the version before 0025 note that it was withdrawn: the journal tells how it was closed."""
    book.catalogue.plans["strict"] = book.catalogue.plans[CAREER].model_copy(update={"on_change": "forfeit"})
    book.now = at("2030-02-03")
    await book.decide(
        book.renewed("alice", plan="strict", period_start=at("2030-02-01")),
        book.changed("alice", plan="recruiter", period_start=at("2030-02-03")),
        old := book.renewed("bob", plan="strict", period_start=at("2030-02-01")),
        book.voided(old.id, "bob"),
    )
    await book.connection.execute("update lots set withdrawn = null")
    await _upgrade(book.connection)

    answers = await book.decide(
        *[book.changed(account, plan=BUSINESS, period_start=at("2030-02-01")) for account in ("alice", "bob")]
    )

    assert ["granted", "period_already_granted"] == [answer["code"] for answer in answers]
