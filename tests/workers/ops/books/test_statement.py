"""The statement and the balance: right at every instant, and told in plain words."""

import csv
import io
from collections.abc import AsyncIterator

import pytest

from infra.postgres import Connection
from tests.ledger.book import at
from tests.ledger.scenario import read_text
from tests.ledger.scenario_run import run
from tests.ledger.scenario_sql import SqlBooks
from tests.workers.books_sound import balance_at, books_of_a_worker, write_story
from workers.ledger.model import Code
from workers.ops.books.balance import Balance, UnknownAccountError, balance_of
from workers.ops.books.balance_history import balance_history_of
from workers.ops.books.reasons import reason_of
from workers.ops.books.statement import StatementLine, statement_of, write_csv


@pytest.fixture
async def books(shared: Connection) -> AsyncIterator[SqlBooks]:
    """Empty books."""
    async with books_of_a_worker(shared) as empty:
        yield empty


async def _write(books: SqlBooks, table: str) -> None:
    """Play a table."""
    (scenario,) = read_text("scenario: told by a statement\n" + table, "test")
    await run(scenario, books)


def _lots(balance: Balance) -> list[str]:
    return [f"{lot.lot} {lot.state} {lot.remaining} {lot.expires_at:%m-%d}" for lot in balance.lots]


# -- the past ---------------------------------------------------------------------------------------------------------


async def test_a_cancel_clamps_from_its_own_instant_on(books: SqlBooks) -> None:
    """Before it, the lot had its full life; a cancel taken back gives it back from then on."""
    await _write(
        books,
        """
        activate s-1 premium_career 2030-01-01..2030-02-01  -> granted +5
        at 2030-01-05
        cancel s-1 at 2030-01-20                            -> cancelled
        at 2030-01-10
        take-back s-1                                       -> cancellation_taken_back
        at 2030-01-12
        cancel s-1 at 2030-01-25                            -> cancelled
        at 2030-01-26
        tick                                                -> expired -5; exhausted
        """,
    )

    days = {day: await balance_of(books.connection, "alice", at(f"2030-01-{day:02}")) for day in (4, 5, 10, 12, 25, 26)}

    assert {
        4: ["1 available 5 04-01"],
        5: ["1 available 5 01-20"],
        10: ["1 available 5 04-01"],
        12: ["1 available 5 01-25"],
        25: ["1 ended 5 01-25"],
        26: ["1 ended 0 01-25"],
    } == {day: _lots(balance) for day, balance in days.items()}


async def test_a_back_dated_cancel_leaves_a_lot_that_had_ended_by_itself(books: SqlBooks) -> None:
    """Whatever instant is asked for, before a tick books it and after."""
    await _write(
        books,
        """
        activate s-1 premium_career 2030-01-01..2030-02-01  -> granted +5
        at 2030-04-02
        cancel s-1 at 2030-02-01                            -> cancelled; exhausted
        at 2030-04-03
        send bob                                            -> insufficient_credits
        """,
    )

    days = [await balance_of(books.connection, "alice", at(f"2030-04-{day:02}")) for day in (1, 2, 3)]
    history = await balance_history_of(books.connection, "alice")

    assert [["1 ended 5 04-01"]] * 3 == [_lots(each) for each in days]
    assert [5, 0] == [balance_at(history, at(day)) for day in ("2030-03-31", "2030-04-01")]


async def test_voided_and_forfeited_lots_are_whole_before_that(books: SqlBooks) -> None:
    """And say what became of them afterwards."""
    await _write(
        books,
        """
        catalogue plans.premium_business.on_change = "forfeit"
        activate s-1 premium_business 2030-01-01..2030-03-01 annual  -> granted +15; granted +15
        promotion 3 of welcome as gift                               -> granted +3
        send bob                                                     -> charged -1
        at 2030-01-10
        void gift because "a mistake"                                -> voided -3
        at 2030-01-20
        change s-1 premium_career 2030-01-20..2030-02-20             -> forfeited -14; forfeited -15; granted +5
        """,
    )

    first = await balance_of(books.connection, "alice", at("2030-01-01"))
    second = await balance_of(books.connection, "alice", at("2030-01-10"))
    third = await balance_of(books.connection, "alice", at("2030-01-20"))

    assert ["1 available 14 04-01", "3 available 3 04-01", "2 later 15 05-02"] == _lots(first)
    assert ["1 available 14 04-01", "3 voided 0 04-01", "2 later 15 05-02"] == _lots(second)
    assert ["1 forfeited 0 04-01", "3 voided 0 04-01", "4 available 5 04-20", "2 forfeited 0 05-02"] == _lots(third)


async def test_lines_that_were_overtaken_are_counted(books: SqlBooks) -> None:
    """A lane that lags books earlier times later: a balance of that time goes by the times, and it is said."""
    await _write(
        books,
        """
        promotion 5 of welcome    -> granted +5
        at 2030-01-10
        promotion 1 of welcome    -> granted +1
        at 2030-01-05
        send bob                  -> charged -1 before 5 after 4
        """,
    )

    at_the_send = await balance_of(books.connection, "alice", at("2030-01-05"))
    at_the_end = await balance_of(books.connection, "alice", at("2030-01-10"))

    assert (4, 1) == (at_the_send.balance, at_the_send.overtaken)
    assert (5, 0) == (at_the_end.balance, at_the_end.overtaken)


# -- what is to come --------------------------------------------------------------------------------------------------


async def test_a_balance_to_come_is_what_is_left_if_nothing_happens(books: SqlBooks) -> None:
    """An annual term's later months begin by themselves, and lots end by themselves."""
    await _write(
        books,
        """
        activate s-1 premium_career 2030-01-01..2030-04-01 annual  -> granted +5; granted +5; granted +5
        send bob                                                   -> charged -1
        """,
    )

    balances = [
        (await balance_of(books.connection, "alice", at(day))).balance
        for day in ("2030-01-31", "2030-02-01", "2030-03-31", "2030-04-01", "2031-01-01")
    ]

    assert [4, 9, 14, 10, 0] == balances


async def test_a_cap_that_is_to_come_is_named(books: SqlBooks) -> None:
    """A balance to come cannot tell what a tick will take: it says that one will."""
    await _write(
        books,
        """
        catalogue apply_balance_caps = true
        catalogue plans.premium_career.balance_cap = 7
        activate s-1 premium_career 2030-01-01..2030-03-01 annual  -> granted +5; granted +5
        """,
    )

    balance = await balance_of(books.connection, "alice", at("2030-02-01"))

    assert (10, [None, 7]) == (balance.balance, [lot.cap_to_come for lot in balance.lots])


async def test_what_expires_is_told_by_date_soonest_first(books: SqlBooks) -> None:
    """Lots that end together are one figure."""
    await _write(
        books,
        """
        promotion 2 of a  -> granted +2
        promotion 1 of b  -> granted +1
        advance 1d
        promotion 4 of c  -> granted +4
        """,
    )

    balance = await balance_of(books.connection, "alice", at("2030-01-02"))

    assert ((at("2030-04-01"), 3), (at("2030-04-02"), 4)) == balance.expiring


# -- in words ---------------------------------------------------------------------------------------------------------


async def test_every_line_of_a_story_has_its_reason(shared: Connection) -> None:
    """A sentence that says who, what for and until when, without a row's jargon."""
    async with books_of_a_worker(shared):
        await shared.execute("reset role")
        await write_story(shared)
        told = {name: (await statement_of(shared, name)).lines for name in ("alice", "carol", "erin", "dave")}

    reasons = {(name, line.sequence): line.reason for name, lines in told.items() for line in lines}
    second = next(line.request_id for line in told["alice"] if line.sequence == 4)
    assert {
        ("alice", 1): "premium_career of subscription s-1, period from 2030-01-01",
        ("alice", 2): "send to bob",
        ("alice", 3): "send to bob, free: connection",
        ("alice", 5): "credit back for the send of line 2: it could not be delivered",
        ("alice", 8): "taken by ops-1: a trial",
        ("alice", 9): "added by ops-1: a present",
        ("alice", 13): "subscription s-1 was cancelled: it ends 2030-01-20",
        ("alice", 14): "notice: 3 credits of lot 1 expire 2030-01-20",
        ("alice", 15): "not used before 2030-01-20",
        ("alice", 16): "notice: 2 credits or fewer are left",
        ("alice", 18): "no credit back for the send of line 4, which could not be delivered: lot 1 has ended",
        ("alice", 21): "refused: send to bob: no credits",
        ("carol", 5): "lost to a change of plan: what was left of premium_business of subscription s-2",
        ("carol", 8): "premium_career of subscription s-2, period from 2030-02-01; can be spent from 2030-02-01",
        ("erin", 3): "withdrawn: the account was erased",
        ("dave", 2): "over the cap: subscription s-3 may hold 4",
    }.items() <= reasons.items(), reasons
    assert str(second) not in "".join(reasons.values())


def test_every_code_has_a_sentence_of_its_own() -> None:
    """And one that nobody knows yet is told as it is."""
    row = StatementLine(1, at("2030-01-01"), "", None, 0, 1, None, 0, 0, "bob", "none", None, None, 1, {})  # type: ignore[arg-type]

    def tell(code: str) -> str:
        values = {name: getattr(row, name) for name in StatementLine.__slots__} | {"code": code}
        return reason_of(StatementLine(**values))

    assert [] == [code.value for code in Code if tell(code.value) == code.value.replace("_", " ")]
    assert "sold out" == tell("sold_out")


# -- CSV, and odd names -----------------------------------------------------------------------------------------------


async def test_csv_has_a_line_for_each_row_and_survives_any_text(books: SqlBooks) -> None:
    """RFC 4180: a line of names, commas and quotes inside fields, CRLF."""
    await _write(books, "adjust 2 by ops-1 because \"a 'gift', really\"  -> granted +2\nsend bob -> charged -1\n")

    text = write_csv(await statement_of(books.connection, "alice", at("2030-01-01")))

    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert ["added by ops-1: a 'gift', really", "send to bob"] == [row["reason"] for row in rows]
    assert ("alice", "2", "-1", "2030-01-01T00:00:00Z") == tuple(
        rows[1][name] for name in ("account_id", "sequence", "amount", "as_of")
    )
    assert 3 == text.count("\r\n") == text.count("\n")


@pytest.mark.parametrize("name", ["[red]", "-x", "a,b", 'say "hi"', "élan", "\U0001f600", "%s;--", "a" * 128])
async def test_an_account_may_have_any_name(database: Connection, name: str) -> None:
    """It is text: neither SQL nor markup nor an option."""
    await database.execute("insert into accounts (account_id, partition) values ($1, 0)", name)

    statement = await statement_of(database, name)

    assert (name, 0, ()) == (statement.account_id, statement.balance, statement.lines)
    assert 1 == len(list(csv.reader(io.StringIO(write_csv(statement)))))


@pytest.mark.parametrize("name", ["nobody", "", "\udcff", "a\0b"])
async def test_a_name_that_is_nobodys_is_said_to_be(database: Connection, name: str) -> None:
    """Also where it is no text at all."""
    with pytest.raises(UnknownAccountError, match="the ledger has no account"):
        await balance_of(database, name)
