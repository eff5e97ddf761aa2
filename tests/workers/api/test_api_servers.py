"""The read API over books that several servers hold."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import ClientSession
from pydantic import SecretStr

from infra.clock import utc_now
from infra.settings import Settings
from tests.workers.api.served import Answer, Client, Line, serving
from tests.workers.processes import free_port
from tests.workers.two_servers import PlacedBook, TwoServers, account_of, ask_alone, set_state
from tests.workers.wire import eventually
from workers.ops.books.shards import server_name


@pytest.fixture
async def books(servers: TwoServers) -> dict[str, PlacedBook]:
    """Both servers with an account of their own: one of five credits sent; seven."""
    written = {}
    for connection, account, credits_ in zip((servers.first, servers.second), servers.accounts, (5, 7), strict=True):
        book = written[account] = PlacedBook(connection)
        book.now = (utc_now() - timedelta(hours=1)).replace(microsecond=0)
        await book.one(book.promotion(credits_, account))
    held = servers.accounts[0]
    await written[held].one(written[held].send(held))
    return written


@pytest.fixture
async def client(servers: TwoServers, books: dict[str, PlacedBook]) -> AsyncIterator[Client]:  # noqa: ARG001
    """A client of an API over both."""
    async with serving(servers.both) as served:
        yield served


def _still(answer: Answer) -> Any:
    return {name: value for name, value in answer.body.items() if name != "as_of"}


async def test_every_account_is_answered_as_by_its_own_server_alone(
    client: Client, servers: TwoServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Balance, statement and outcome; an account that nobody knows is unknown."""
    ask_alone(monkeypatch)
    for account, alone in zip(servers.accounts, servers.alone, strict=True):
        statement = await client.get(f"/v1/accounts/{account}/statement")
        request = statement.body["lines"][-1]["request_id"]
        paths = [f"/v1/accounts/{account}/{each}" for each in ("balance", "statement", f"requests/{request}")]
        async with serving(alone) as only:
            for path in paths:
                expected, answer = await only.get(path), await client.get(path)

                assert (200, _still(expected)) == (answer.status, _still(answer)), path
    for number in range(4):
        unknown = await client.get(f"/v1/accounts/{account_of(number, 'nobody')}/balance")
        assert (404, "unknown-account") == unknown.problem


async def test_an_account_that_moved_is_answered_by_its_new_server_at_once(
    client: Client, servers: TwoServers, books: dict[str, PlacedBook]
) -> None:
    """The rows at the old one are still there, and out of date from the moment at which it gave the number away."""
    account = servers.accounts[1]
    path = f"/v1/accounts/{account}/balance"
    assert (await client.get(path)).body["spendable"] == 7
    await servers.move_back()
    assert (await client.get(path)).body["spendable"] == 7

    copy = PlacedBook(servers.first)
    copy.now = books[account].now
    await set_state(servers.first, 3, "held")
    await copy.one(copy.promotion(6, account))
    await set_state(servers.first, 3, "arriving", servers.second)
    await set_state(servers.second, 3, "left", servers.first)
    nobody = await client.get(path)
    await set_state(servers.first, 3, "held")
    await eventually(lambda: _spends(client, path, 6), "answered by the new server")

    assert (503, "database-away") == nobody.problem
    assert "partition number" in nobody.body["detail"]


async def _spends(client: Client, path: str, credits_: int) -> bool:
    answer = await client.get(path)
    return bool(answer.status == 200 and answer.body["spendable"] == credits_)


async def test_a_server_that_is_away_keeps_no_account_of_another(
    servers: TwoServers, books: dict[str, PlacedBook]
) -> None:
    """Its own are answered again when it is back; the process is ready all the while, and says which is away."""
    assert list(books) == list(servers.accounts)
    held, moved = (f"/v1/accounts/{account}/balance" for account in servers.accounts)
    url, other = (each.database_url.get_secret_value() for each in servers.alone)
    line = Line(other)
    await line.mend()
    host, port = other.rpartition("@")[2].partition("/")[0].rsplit(":", 1)
    shards = f"{url} {other.replace(f'{host}:{port}', f'127.0.0.1:{line.port}')}"
    settings = servers.both.model_copy(update={"database_shards": SecretStr(shards), "health_port": free_port()})
    async with serving(settings) as client:
        assert [200, 200] == [(await client.get(path)).status for path in (held, moved)]
        await line.cut()

        assert (503, "database-away") == (await client.get(moved)).problem
        assert (await client.get(held)).status == 200
        assert (200, [f"127.0.0.1:{line.port}/"]) == await _ready(settings)

        await line.mend()

        async def answers() -> bool:
            return (await client.get(moved)).status == 200

        await eventually(answers, "answers again")
    await line.cut()


@pytest.mark.whole
async def test_one_server_by_two_addresses_makes_no_process_ready(
    servers: TwoServers, books: dict[str, PlacedBook]
) -> None:
    """Whoever puts such processes in place of others is stopped, and told which two; requests are refused meanwhile."""
    settings = servers.repeated().model_copy(update={"health_port": free_port()})
    async with serving(settings) as client:
        answer = await client.get(f"/v1/accounts/{servers.accounts[0]}/balance")
        status, reasons = await _ready(settings)

    assert books
    assert (503, "database-away") == answer.problem
    assert "two addresses of this API's servers are one server" in answer.body["detail"]
    name = server_name(servers.alone[0])
    assert (503, f"INMAIL_DATABASE_SHARDS: {name.partition('/')[0]}/") == (status, reasons[0])


async def test_one_server_of_several_answers_nothing(servers: TwoServers, books: dict[str, PlacedBook]) -> None:
    """With INMAIL_DATABASE_SHARDS forgotten, others' accounts would be unknown, or as they were before a move."""
    settings = servers.alone[0].model_copy(update={"health_port": free_port()})
    held = f"/v1/accounts/{servers.accounts[0]}/balance"
    async with serving(settings) as client:
        answers = [await client.get(f"/v1/accounts/{account}/balance") for account in books]
        health = await client.get("/v1/health")
        status, reasons = await _ready(settings)
        await set_state(servers.first, 3, "held")
        await eventually(lambda: _spends(client, held, 4), "answered, as the server is alone")
        well = (await client.get("/v1/health")).status

    assert [(503, "database-away")] * 3 == [each.problem for each in (*answers, health)]
    assert all("reads one of several servers" in each.body["detail"] for each in (*answers, health))
    name = server_name(servers.alone[0]).partition("/")[0]
    assert (503, [f"INMAIL_DATABASE_SHARDS names no servers, and {name}/"]) == (status, reasons)
    assert well == 200


async def _ready(settings: Settings) -> tuple[int, list[str]]:
    """Return the status of /readyz, and the servers of which it says something, once it says so."""
    found: tuple[int, list[str]] = (0, [])

    async def told() -> bool:
        nonlocal found
        address = f"http://127.0.0.1:{settings.health_port}/readyz"
        async with ClientSession() as session, session.get(address) as answer:
            reasons = (await answer.json())["reasons"]
            found = answer.status, [f"{each.partition('/')[0]}/" for each in reasons]
            return bool(reasons)

    await eventually(told, "a reason")
    return found
