"""Questions about an account go to the server that holds it, whichever that is."""

from dataclasses import asdict, is_dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from infra.settings import Settings
from tests.ledger.book import at
from tests.whole import whole
from tests.workers.two_servers import PlacedBook, TwoServers, account_of, ask_alone, set_state
from workers.error_table import explain
from workers.ops.books import shards
from workers.ops.books.balance import UnknownAccountError, read_balance
from workers.ops.books.balance_history import read_balance_history
from workers.ops.books.shards import AccountQuestion, NotHeldError, ServerError, settings_of_account
from workers.ops.books.statement import read_statement
from workers.ops.books.whole_books import PartOfBooksError


@pytest.fixture
async def booked(servers: TwoServers) -> TwoServers:
    """Both servers with an account of their own: five credits and one sent; seven credits."""
    held, moved = servers.accounts
    book = PlacedBook(servers.first)
    await book.one(book.promotion(5, held))
    await book.one(book.send(held))
    book = PlacedBook(servers.second)
    await book.one(book.promotion(7, moved))
    return servers


QUESTIONS: list[AccountQuestion[Any]] = [read_balance, whole(read_statement), whole(read_balance_history)]


@pytest.mark.parametrize("question", QUESTIONS, ids=["balance", "statement", "history"])
async def test_an_account_is_read_from_the_server_that_holds_it(
    booked: TwoServers, question: AccountQuestion[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told of it with both servers is what its own server alone tells."""
    ask_alone(monkeypatch)
    for account, alone in zip(booked.accounts, booked.alone, strict=True):
        found = await question(booked.both, account, at("2030-01-02"))

        assert is_dataclass(found)
        assert not isinstance(found, type)
        assert asdict(found) == asdict(await question(alone, account, at("2030-01-02")))
    for account, other in zip(booked.accounts, reversed(booked.alone), strict=True):
        with pytest.raises(UnknownAccountError):
            await question(other, account)


@pytest.mark.parametrize("question", QUESTIONS, ids=["balance", "statement", "history"])
async def test_one_server_of_several_is_not_asked_for_accounts(
    booked: TwoServers, question: AccountQuestion[Any]
) -> None:
    """With INMAIL_DATABASE_SHARDS forgotten, accounts of others would be unknown, or as they were before a move."""
    for account in booked.accounts:
        with pytest.raises(PartOfBooksError, match="holds only some of the partition numbers: name all servers"):
            await question(booked.alone[0], account)


async def test_an_account_that_no_server_knows_is_unknown(booked: TwoServers) -> None:
    """Its number has a server, which says so."""
    for number in range(4):
        with pytest.raises(UnknownAccountError):
            await read_balance(booked.both, account_of(number, "nobody"))


async def test_a_number_on_its_way_is_read_where_it_was_until_it_left(booked: TwoServers) -> None:
    """The copy at its new server may be half of it."""
    _, moved = booked.accounts
    await booked.move_back()
    assert (await read_balance(booked.both, moved, at("2030-01-02"))).balance == 7

    await set_state(booked.second, 3, "left", booked.first)
    with pytest.raises(NotHeldError, match=r"partition number 3 of account \S+ is held by no server"):
        await read_balance(booked.both, moved)
    answer = explain(NotHeldError("nobody"), lambda: booked.both)
    assert answer is not None
    assert (answer.code, answer.status) == ("shards", 503)


async def test_a_number_that_two_servers_hold_is_not_read(booked: TwoServers) -> None:
    """One of them would tell something out of date, and nobody knows which."""
    await set_state(booked.first, 3, "held")

    with pytest.raises(NotHeldError, match=r"held by \S+ and \S+: see `inmail shards list`"):
        await read_balance(booked.both, booked.accounts[1])


async def test_a_number_that_moves_meanwhile_is_read_at_its_new_server(
    booked: TwoServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server is chosen, then opened: between the two it may give the number away."""
    answers = iter(booked.alone)

    async def out_of_date(*_: object) -> Settings:
        return next(answers)

    monkeypatch.setattr(shards, "settings_of_account", out_of_date)

    assert (await read_balance(booked.both, booked.accounts[1], at("2030-01-02"))).balance == 7


async def test_a_server_that_is_away_keeps_no_account_of_another(booked: TwoServers) -> None:
    """The error of its own accounts names that server, and not the one of INMAIL_DATABASE_URL."""
    held, moved = booked.accounts
    away = booked.without_second()
    assert (await read_balance(away, held, at("2030-01-02"))).balance == 4

    with pytest.raises(ServerError) as raised:
        await read_balance(away, moved)
    answer = explain(raised.value, lambda: away)
    assert answer is not None
    assert (answer.exit, answer.status, answer.code) == (3, 503, "postgres")
    assert "Postgres cannot be reached at localhost:1 (" in answer.text


async def test_with_one_server_nothing_is_asked() -> None:
    """The settings are given back as they are: there is no server to be asked."""
    away = Settings(database_url=SecretStr("postgresql://localhost:1/inmail"))

    assert await settings_of_account(away, "anybody") is away
