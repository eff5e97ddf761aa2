"""The audit of books that several servers hold: one report, which names the server of each finding."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict

import click.testing
import pytest
from typer.testing import CliRunner

from infra.settings import Settings
from infra.shards import settings_of_shards
from tests.whole import whole
from tests.workers.two_servers import PlacedBook, TwoServers, account_of, lanes_stand, set_state
from workers.cli import app
from workers.commands.running import Exit
from workers.ops.books.audit import Audit, BookTotals, Report, audit
from workers.ops.books.audit_mark import LOCK
from workers.ops.books.audit_servers import audit_each_server
from workers.ops.books.shards import server_name

Run = Callable[..., click.testing.Result]


@pytest.fixture
async def booked(servers: TwoServers) -> TwoServers:
    """Both servers with an account of their own: two of five credits sent; one of seven."""
    for connection, account, credits_, sends in (
        (servers.first, servers.accounts[0], 5, 2),
        (servers.second, servers.accounts[1], 7, 1),
    ):
        book = PlacedBook(connection)
        await book.one(book.promotion(credits_, account))
        await book.decide(*(book.send(account) for _ in range(sends)))
        await lanes_stand(connection, book)
    return servers


def _inmail(settings: Settings, *arguments: str) -> click.testing.Result:
    env = {
        "INMAIL_DATABASE_URL": settings.database_url.get_secret_value(),
        "INMAIL_DATABASE_SHARDS": settings.database_shards.get_secret_value(),
    }
    return CliRunner().invoke(app, arguments, env=env)


async def inmail(settings: Settings, *arguments: str) -> click.testing.Result:
    """Run a command on these servers."""
    return await asyncio.to_thread(_inmail, settings, *arguments)


def _sum(totals: list[BookTotals]) -> BookTotals:
    return BookTotals(**{name: sum(asdict(each)[name] for each in totals) for name in asdict(totals[0])})


async def test_the_totals_of_all_servers_are_added_up(booked: TwoServers) -> None:
    """Each server's own beside them."""
    alone = [(await audit(each)).totals for each in booked.alone]

    done = await inmail(booked.both, "audit")
    told = json.loads((await inmail(booked.both, "audit", "--json")).stdout)

    lines = done.stdout.splitlines()
    assert (done.exit_code, done.stderr, lines[-1]) == (0, "", "The ledger balances.")
    assert "2 accounts, 2 lots, 5 journal rows" == lines[0]
    assert lines[1].startswith("12 granted = 3 spent")
    assert [
        f"{server_name(each)}: 1 account, 1 lot, {rows} journal rows"
        for each, rows in zip(booked.alone, (3, 2), strict=True)
    ] == lines[2:4]
    assert (told["passed"], told["totals"]) == (True, asdict(_sum(alone)))
    assert [each["totals"] for each in told["servers"]] == [asdict(each) for each in alone]


@pytest.mark.parametrize("option", [(), whole(("--mark",)), ("--new",)], ids=["whole", "mark", "new"])
async def test_a_fault_on_one_server_is_found_and_names_it(booked: TwoServers, option: tuple[str, ...]) -> None:
    """The finding is that of an audit of the server alone; the other's mark moves, its own does not."""
    await booked.second.execute("update lots set remaining = remaining - 1")
    alone = {each.name: each for each in (await audit(booked.alone[1])).failures()}

    done = await inmail(booked.both, "audit", *option)
    told = json.loads((await inmail(booked.both, "audit", *option, "--json")).stdout)

    (example, *_) = alone["lot_is_its_journal"].examples
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (1, "The ledger does not balance.")
    assert f"     {server_name(booked.alone[1])}: {example.account} {example.place}: {example.found}" in done.stdout
    assert server_name(booked.alone[0]) not in done.stdout.partition("ok ")[2]
    assert {each["name"]: each["count"] for each in told["checks"] if each["count"]} == {
        name: each.count for name, each in alone.items()
    }
    assert [each["passed"] for each in told["servers"]] == [True, False]
    marks = [await each.fetchval("select count(*) from audits") for each in (booked.first, booked.second)]
    assert marks == ([2, 0] if option else [0, 0])


async def test_an_audit_of_what_is_new_reads_what_is_new_on_each_server(booked: TwoServers) -> None:
    """Each server has its own mark."""
    assert (await inmail(booked.both, "audit", "--mark")).exit_code == 0
    book = PlacedBook(booked.second)
    book.offset = 100
    await book.one(book.promotion(1, booked.accounts[1]))
    await lanes_stand(booked.second, book)

    done = await inmail(booked.both, "audit", "--new")

    lines = done.stdout.splitlines()
    assert (done.exit_code, lines[-1]) == (0, "What is new balances.")
    assert ["read: 0 rows of 0 accounts", "read: 1 row of 1 account"] == [
        line.partition("; ")[2].partition(", new")[0] for line in lines[2:4]
    ]


async def test_a_server_that_is_away_is_named_and_the_others_are_audited(booked: TwoServers) -> None:
    """The exit code tells that not all was audited; a fault that was found weighs more."""
    away = booked.without_second()

    done = await inmail(away, "audit")
    told = json.loads((await inmail(away, "audit", "--json")).stdout)
    await booked.first.execute("update lots set remaining = remaining - 1")
    broken = await inmail(away, "audit")

    assert (done.exit_code, told["passed"], broken.exit_code) == (3, False, 1)
    assert "inmail: Postgres cannot be reached at localhost:1 (" in done.stderr
    lines = done.stdout.splitlines()
    assert "What was audited balances; 1 of 2 servers not audited." == lines[-1]
    assert {"1 account, 1 lot, 3 journal rows", "localhost:1/inmail: not audited"} <= set(lines)
    assert [each["passed"] for each in told["servers"]] == [True, None]


async def test_a_server_that_another_audit_keeps_is_to_be_tried_again(booked: TwoServers) -> None:
    """By the exit code, unless a server is away as well: that is more to know."""
    await booked.first.fetchval("select pg_advisory_lock($1, hashtext(current_schema()))", LOCK)

    kept = await inmail(booked.both, "audit", "--new")
    away = await inmail(booked.without_second(), "audit", "--new")

    assert [Exit.TRY_LATER, Exit.UNREACHABLE] == [kept.exit_code, away.exit_code]
    assert "another audit that moves the mark is under way" in kept.stderr


async def test_copies_of_a_number_that_another_server_holds_are_not_counted(booked: TwoServers) -> None:
    """A move leaves them for a while, perhaps in part: what they say is out of date. No mark is set over them."""
    for connection, state in ((booked.first, "left"), (booked.second, "arriving")):
        await set_state(connection, 0, "held")
        book = PlacedBook(connection)
        book.offset = 50
        await book.one(book.promotion(9, account_of(0, "copy")))
        await lanes_stand(connection, book)
        await set_state(connection, 0, state, booked.second)
        await connection.execute(
            "update lots set remaining = 1 where account in (select account from accounts where account_id = $1)",
            account_of(0, "copy"),
        )

    found = await audit_each_server(booked.both, lambda settings, _: audit(settings))
    marked = await inmail(booked.both, "audit", "--mark")

    assert (found.totals.accounts, found.balances) == (1, True)
    assert marked.exit_code == 3  # the number was counted nowhere
    assert [0, 0] == [await each.fetchval("select count(*) from audits") for each in (booked.first, booked.second)]


@pytest.mark.parametrize(
    ("states", "told", "who"),
    [
        whole(("left", "arriving"), ([0], []), "no server"),  # a move was killed between the two
        (("held", "held"), ([], [0]), "more than one server"),
    ],
)
async def test_a_number_that_is_not_counted_once_is_told(
    booked: TwoServers, states: tuple[str, str], told: tuple[list[int], list[int]], who: str
) -> None:
    """Whatever was audited balances, and it was not all, or some of it twice."""
    for connection, state in zip((booked.first, booked.second), states, strict=True):
        await set_state(connection, 0, state, None if state == "held" else booked.second)

    done = await inmail(booked.both, "audit")
    found = json.loads((await inmail(booked.both, "audit", "--json")).stdout)

    assert (3, "What was audited balances; partition numbers 0 were not counted once.") == (
        done.exit_code,
        done.stdout.splitlines()[-1],
    )
    assert f"partition numbers 0 were counted by {who}: a move is on its way" in done.stderr
    assert (False, *told) == (found["passed"], found["not_counted"], found["counted_twice"])


async def test_a_number_that_moves_from_one_audited_server_to_the_next_is_told(booked: TwoServers) -> None:
    """It came to the first when that had been read, and had left the second when that was."""

    async def run(settings: Settings, _: Report | None) -> Audit:
        found = await audit(settings)
        await set_state(booked.first, 3, "held")
        await set_state(booked.second, 3, "left", booked.first)
        return found

    found = await audit_each_server(booked.both, run)
    again = await audit_each_server(booked.both, run)

    assert (found.balances, found.uncounted, found.counted_twice, len(found.problems)) == (True, [3], [], 1)
    assert (again.balances, again.problems) == (True, [])
    assert found.summary()["passed"] is False


async def test_a_row_of_a_record_that_another_server_read_is_no_fault(booked: TwoServers) -> None:
    """A record on another partition than its account's was decided where its lane is now elsewhere."""
    await set_state(booked.first, 1, "left", booked.second)
    await booked.first.execute("update journal set source_partition = 1")
    await booked.second.execute("update journal set source_partition = 1")

    assert [True, True] == [(await audit(each)).passed for each in booked.alone]
    await set_state(booked.first, 1, "held")
    assert ["row_was_read"] == [each.name for each in (await audit(booked.alone[0])).failures()]


@pytest.mark.parametrize("option", [(), whole(("--mark",)), whole(("--new",))], ids=["whole", "mark", "new"])
async def test_an_audit_of_one_server_of_several_is_refused(booked: TwoServers, option: tuple[str, ...]) -> None:
    """With INMAIL_DATABASE_SHARDS forgotten it would say of a part that the ledger balances."""
    done = await inmail(booked.alone[0], "audit", *option)
    await set_state(booked.first, 3, "held")
    alone = await inmail(booked.alone[0], "audit", *option)

    assert (2, "") == (done.exit_code, done.stdout)
    assert f"{server_name(booked.alone[0])} holds only some of the partition numbers: name all servers" in done.stderr
    assert (0, "The ledger balances.") == (alone.exit_code, alone.stdout.splitlines()[-1])


async def test_one_server_by_two_addresses_is_not_audited_twice(booked: TwoServers) -> None:
    """It is refused before anything is read, with both addresses; the second server is nowhere in the list."""
    wrong = booked.repeated()
    names = [server_name(each) for each in settings_of_shards(wrong)]

    done = await inmail(wrong, "audit", "--mark")

    assert (2, "") == (done.exit_code, done.stdout)
    assert done.stderr.startswith(f"inmail: INMAIL_DATABASE_SHARDS: {names[0]} and {names[1]} lead to one server")
    assert "postgres:" not in done.stderr
    assert 0 == await booked.first.fetchval("select count(*) from audits")
