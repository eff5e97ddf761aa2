"""The statement and the audit: what the books say, and that a corruption of them is found and named."""

from datetime import timedelta
from uuid import uuid4

import pytest

from infra.clock import utc_now
from infra.kafka.clients import NotSetUpError
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from tests.ledger.book import DAY, Book, at
from workers.ops.books.audit import Audit, audit, audit_books
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.statement import read_statement, statement_of


@pytest.fixture
async def book(database: Connection) -> Book:
    """Return some weeks of alice and carol: grants, sends, a conflict, a cancel, an expiry."""
    book = Book(database)
    await book.one(book.activated())
    await book.decide(book.send(), book.send(relationship="connection"), book.send())
    id_ = uuid4()
    await book.decide(book.send(id=id_), book.send(id=id_, recipient_id="somebody-else"))
    await book.one(book.promotion(10, "carol"))
    book.now += 10 * DAY
    await book.one(book.survey(3))
    await book.one(book.cancelled(effective_at=book.now + 5 * DAY))
    book.now += 6 * DAY
    await book.tick()
    await book.decide(book.send("carol"), book.send("dave"))
    for worker, topic in (("send", "inmail.send-requests"), ("billing", "inmail.billing-events"), ("expiry", "ticks")):
        await database.execute("insert into lanes values ($1, $2, 0, 1, $3)", f"inmail-{worker}", topic, book.offset)
    return book


# -- the statement ------------------------------------------------------------------------------------------------


async def test_a_statement_tells_the_balance_its_lots_and_every_line(book: Book) -> None:
    """The balance is that of the lots that live at the instant; what each loses next is said with its date."""
    statement = await statement_of(book.connection, "alice", book.now)

    assert (3, ((at("2030-04-11"), 3),)) == (statement.balance, statement.expiring)
    assert [("subscription", 0, "ended"), ("survey", 3, "available")] == [
        (lot.origin, lot.remaining, lot.state) for lot in statement.lots
    ]
    codes = "granted charged free charged charged low key_conflict granted cancelled expired"
    assert codes.split() == [line.code for line in statement.lines]
    assert list(range(1, 11)) == [line.sequence for line in statement.lines]


async def test_a_statement_can_be_asked_for_an_earlier_instant(book: Book) -> None:
    """What lots hold now is wound back by the lines since: the survey's lot was not open, the first one was full."""
    statement = await statement_of(book.connection, "alice", at("2030-01-02"))

    assert (2, ["subscription"], 7) == (
        statement.balance,
        [lot.origin for lot in statement.lots],
        len(statement.lines),
    )


async def test_a_statement_is_never_of_before_the_accounts_last_line(book: Book) -> None:
    """The books may be ahead of this machine's clock; a balance of before their last line would contradict it."""
    statement = await statement_of(book.connection, "alice")

    assert ("last_entry", book.now, 3) == (statement.chosen, statement.as_of, statement.balance)


async def test_a_statement_is_of_now_otherwise(database: Connection) -> None:
    """Lines of the past do not hold the balance back there: what has ended since does not count."""
    book = Book(database)
    book.now = utc_now() - timedelta(days=100)
    await book.one(book.promotion(10))

    statement = await statement_of(database, "alice")

    assert ("clock", 0, ["ended"]) == (statement.chosen, statement.balance, [lot.state for lot in statement.lots])


@pytest.mark.usefixtures("book")
async def test_an_unknown_account_has_no_statement(settings: Settings) -> None:
    """It is told apart from an account with nothing."""
    assert (await read_statement(settings, "dave")).balance == 0
    with pytest.raises(UnknownAccountError, match="no account eve"):
        await read_statement(settings, "eve")


# -- the audit ----------------------------------------------------------------------------------------------------


def _failed(found: Audit) -> set[str]:
    return {finding.name for finding in found.failures()}


async def test_books_that_balance_pass(settings: Settings, book: Book) -> None:
    """Nothing is found in what the ledger's own functions wrote, and every credit is accounted for."""
    found = await audit(settings)

    assert (True, set()) == (found.passed, _failed(found))
    totals = found.totals
    assert (18, 4, 2, 12) == (totals.granted, totals.spent, totals.expired, totals.remaining)
    assert (3, 3, book.offset + 1) == (totals.accounts, totals.lots, totals.rows)  # a notice is a row of no record


async def test_empty_books_pass(database: Connection) -> None:
    """A system that has not begun is not broken."""
    assert (await audit_books(database)).passed


async def test_a_finding_says_where_and_what(book: Book) -> None:
    """The account's own id, the lot, and both figures: where an operator begins to look."""
    await book.connection.execute("update lots set remaining = 1 where origin = 'survey'")

    found = await audit_books(book.connection)

    (finding,) = [each for each in found.findings if each.name == "lot_is_its_journal"]
    (example,) = finding.examples
    assert ("alice", "lot 2", "1 remain, the journal says 3") == (example.account, example.place, example.found)


async def test_a_database_that_was_never_migrated_says_what_to_run(settings: Settings, database: Connection) -> None:
    """An operator's first mistake gets an answer, not a stack of SQL."""
    await database.execute("drop table lots cascade")

    with pytest.raises(NotSetUpError, match="run `inmail migrate`"):
        await audit(settings)


@pytest.mark.usefixtures("book")
async def test_an_audit_changes_nothing(settings: Settings) -> None:
    """It can run beside the workers: it reads one snapshot, and holds no account's lock."""
    other = await connect_database(settings)
    try:
        async with other.transaction():
            await other.execute("select from accounts for update")

            assert (await audit(settings)).passed
    finally:
        await other.close()
