"""The metrics of books that several servers hold: one exposition of all."""

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from infra.kafka import clients
from infra.postgres import Connection
from infra.settings import Settings
from infra.shards import RepeatedServerError
from schemas.catalogue import SEND_REQUESTS
from tests.workers.api.served import Line
from tests.workers.scraping import Scrape, observing, scrape
from tests.workers.two_servers import PlacedBook, TwoServers, account_of, lanes_stand, set_state
from tests.workers.wire import eventually
from workers.cli import app
from workers.ops.books import lane_metrics, metrics_exporter
from workers.ops.books.credit_metrics import CreditReader, CreditTotals
from workers.ops.books.metrics_exporter import read_servers_once, run_observer
from workers.ops.books.server_readings import ServerReadings, merge_readings
from workers.ops.books.shards import ask_each_server, server_name
from workers.ops.books.whole_books import PartOfBooksError

MISPLACED = "insert into misplaced_records values ('inmail.send-requests', $1, 'crm', $2, now(), now(), 1)"
STAND = (
    "insert into lanes (consumer_group, topic, partition, epoch, next_offset) values ($1, $2, $3, 1, $4)"
    " on conflict (consumer_group, topic, partition) do update set next_offset = $4"
)
READY = "inmail_books_server_ready"
IDLE = (
    "select count(*) from pg_stat_activity where state = 'idle in transaction' and datname = current_database()"
    " and pid <> pg_backend_pid()"
)


@pytest.fixture
async def booked(servers: TwoServers, cluster: Settings) -> TwoServers:
    """Both servers with an account of their own, beside a cluster: two of five credits sent; one of seven."""
    assert cluster.database_url == servers.both.database_url
    for connection, account, credits_, sends in (
        (servers.first, servers.accounts[0], 5, 2),
        (servers.second, servers.accounts[1], 7, 1),
    ):
        book = PlacedBook(connection)
        await book.one(book.promotion(credits_, account))
        await book.decide(*(book.send(account) for _ in range(sends)))
        await lanes_stand(connection, book)
    return servers


def _credits(seen: Scrape) -> dict[str, float]:
    return {each: seen.value("inmail_credits_total", movement=each) for each in ("granted", "spent")} | {
        "remaining": seen["inmail_credits_remaining"],
        "difference": seen["inmail_conservation_difference_credits"],
    }


async def _scrape(settings: Settings) -> Scrape:
    return Scrape((await read_servers_once(settings))[0].decode())


async def _totals(settings: Settings, readers: dict[str, CreditReader]) -> list[CreditTotals]:
    async def read(connection: Any, holdings: Any) -> CreditTotals:
        server = await connection.fetchval("select current_database()")
        return await readers.setdefault(server, CreditReader()).read(connection, holdings)

    return (await ask_each_server(settings, read)).answers


async def _nothing(*_: object) -> None: ...


async def test_values_of_all_servers_are_in_one_exposition(booked: TwoServers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credits are added up; lanes are those of both; with one server none of it has another name."""
    await booked.first.execute(MISPLACED, 0, 2)
    await booked.second.execute(MISPLACED, 3, 5)
    await booked.first.execute(MISPLACED, 3, 100)  # a copy, as is the lane
    await booked.first.execute(STAND, "inmail-send", "inmail.send-requests", 3, 123456)

    seen = await _scrape(booked.both)
    monkeypatch.setattr(metrics_exporter, "check_whole", _nothing)
    alone = [await _scrape(each) for each in booked.alone]

    assert {"granted": 12, "spent": 3, "remaining": 9, "difference": 0} == _credits(seen)
    assert [{"granted": 5, "spent": 2, "remaining": 3, "difference": 0}] == [_credits(alone[0])]
    assert 7 == seen.value("inmail_misplaced_records_total", source="crm")
    for partition, each in zip(("0", "3"), alone, strict=True):
        lane = {"topic": SEND_REQUESTS, "partition": partition}
        assert each.value("inmail_unpublished_records", lane) == seen.value("inmail_unpublished_records", lane)
    assert [1, 1] == [seen.value(READY, server=server_name(each)) for each in booked.alone]
    assert READY not in alone[0].names()


async def test_a_server_that_is_away_is_told_and_the_others_are_read(booked: TwoServers) -> None:
    """Sums of the whole books are left out rather than wrong; what a lane has is told."""
    away = booked.without_second()

    page, silent = await read_servers_once(away)
    seen = Scrape(page.decode())
    env = {"INMAIL_KAFKA_BOOTSTRAP_SERVERS": away.kafka_bootstrap_servers} | {
        f"INMAIL_DATABASE_{name}": value.get_secret_value()
        for name, value in (("URL", away.database_url), ("SHARDS", away.database_shards))
    }
    done = await asyncio.to_thread(CliRunner().invoke, app, ["metrics"], env=env)

    assert [1, 0] == [seen.value(READY, server=name) for name in (server_name(booked.alone[0]), "localhost:1/inmail")]
    assert seen.value("inmail_unpublished_records", topic=SEND_REQUESTS, partition="0") >= 0
    assert "inmail_credits_remaining" not in seen.names()
    assert ["localhost:1/inmail"] == [server_name(each.settings) for each in silent]
    assert (done.exit_code, READY in done.stdout) == (3, True)
    assert "Postgres cannot be reached at localhost:1 (" in done.stderr


@pytest.mark.whole
async def test_a_part_of_the_books_is_not_told_as_the_whole(booked: TwoServers) -> None:
    """With INMAIL_DATABASE_SHARDS forgotten, once or served; of a server that is alone nothing else is asked."""
    for settings in booked.alone:
        for ask in (read_servers_once(settings), run_observer(settings, asyncio.Event())):
            with pytest.raises(PartOfBooksError, match=f"{server_name(settings)} holds only some of the partition"):
                await asyncio.wait_for(ask, 20)
    await set_state(booked.first, 3, "held")

    assert {"granted": 5, "spent": 2, "remaining": 3, "difference": 0} == _credits(await _scrape(booked.alone[0]))


@pytest.mark.whole
async def test_credits_of_one_server_by_two_addresses_are_not_added_up(booked: TwoServers) -> None:
    """Once: refused. Served: the process ends, with the same words."""
    wrong = booked.repeated()

    for ask in (read_servers_once(wrong), run_observer(wrong, asyncio.Event())):
        with pytest.raises(RepeatedServerError, match=f"{server_name(booked.alone[0])} and .* lead to one server"):
            await asyncio.wait_for(ask, 20)


async def test_the_last_values_of_a_server_that_goes_away_stay(booked: TwoServers) -> None:
    """A counter that fell and rose again would tell of credits that nobody moved."""
    url, other = (each.database_url.get_secret_value() for each in booked.alone)
    line = Line(other)
    await line.mend()
    place = other.rpartition("@")[2].partition("/")[0]
    through = other.replace(place, f"127.0.0.1:{line.port}")
    settings = booked.both.model_copy(update={"database_shards": SecretStr(f"{url} {through}")})
    name = through.rpartition("@")[2].removeprefix("postgresql://")
    async with observing(settings) as port:

        async def is_told(ready: int) -> bool:
            try:
                seen = await scrape(port)
                return (seen.value(READY, server=name), seen.value("inmail_credits_total", movement="granted")) == (
                    ready,
                    12,
                )
            except (OSError, KeyError):
                return False

        await eventually(lambda: is_told(1), "both are read")
        await line.cut()
        await eventually(lambda: is_told(0), "one is away, and its credits are told")


async def test_credits_are_counted_once_while_a_number_moves(booked: TwoServers) -> None:
    """Whatever is copied, deleted or kept: each account counts where its number is held."""
    readers: dict[str, CreditReader] = {}
    before = await _totals(booked.both, readers)
    # Accounts that spent nothing: what was remembered of them shows in no difference.
    for connection, state in ((booked.first, "held"), (booked.second, "arriving")):
        await set_state(connection, 1, "held")
        await _give(connection, 1, 9)
        await set_state(connection, 1, state, None if state == "held" else booked.first)
    copied = await _totals(booked.both, readers)
    await set_state(booked.first, 1, "left", booked.second)
    await set_state(booked.second, 1, "held")
    moved = await _totals(booked.both, readers)
    await _delete(booked.first, 1)
    deleted = await _totals(booked.both, readers)

    def granted(found: list[CreditTotals]) -> list[int]:
        assert [0, 0] == [each.difference for each in found]
        return [each.moved["granted"] for each in found]

    assert [5, 7] == granted(before)
    assert [14, 7] == granted(copied)
    assert [5, 16] == granted(moved) == granted(deleted)


async def test_credits_of_a_number_that_moved_between_two_readings_are_counted_once(booked: TwoServers) -> None:
    """What was remembered of its rows at the old server goes with it, though nothing there is out of balance."""
    readers: dict[str, CreditReader] = {}
    await _give(booked.first, 1, 9)
    before = await _totals(booked.both, readers)
    await set_state(booked.second, 1, "held")
    await _give(booked.second, 1, 9)
    await set_state(booked.first, 1, "left", booked.second)
    await _delete(booked.first, 1)
    after = await _totals(booked.both, readers)

    assert [14, 7] == [each.moved["granted"] for each in before]
    assert [5, 16] == [each.moved["granted"] for each in after]
    assert [0, 0] == [each.difference for each in after]


async def _give(connection: Connection, number: int, credits_: int) -> None:
    book = PlacedBook(connection)
    book.offset = 50
    await book.one(book.promotion(credits_, account_of(number)))
    await connection.execute(STAND, "inmail-billing", "inmail.billing-events", number, 51)


async def _delete(connection: Connection, number: int) -> None:
    of_account = "account in (select account from accounts where partition = $1)"
    for table in ("journal", "lots", "accounts"):
        where = of_account if table != "accounts" else "partition = $1"
        await connection.execute(f"delete from {table} where {where}", number)  # noqa: S608 - our own


def test_differences_of_two_servers_never_cancel_out() -> None:
    """Too many on one and as many too few on another are two faults."""

    def difference(*each: int) -> int:
        settings = Settings()
        found = [ServerReadings(settings, CreditTotals({}, 0, value)) for value in each]
        credits_ = merge_readings(found).credits
        assert credits_ is not None
        return credits_.difference

    assert [0, 10, 3, -3] == [difference(0, 0), difference(5, -5), difference(3, 0), difference(-1, -2)]


async def test_no_transaction_is_open_while_kafka_is_asked(
    booked: TwoServers, cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow broker would be told as Postgres that cannot be reached: it ends idle transactions after 10 s."""
    idle: list[int] = []

    async def committed_offsets(*arguments: Any) -> Any:
        idle.append(await booked.first.fetchval(IDLE))
        return await clients.committed_offsets(*arguments)

    monkeypatch.setattr(lane_metrics, "committed_offsets", committed_offsets)
    await set_state(booked.first, 3, "held")
    seen = await _scrape(cluster)

    assert {0} == set(idle)
    assert "inmail_unpublished_records" in seen.names()
