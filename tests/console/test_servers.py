"""The console where several Postgres servers hold the books: what is told of all, and of one that is away."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from pydantic import SecretStr

from infra.settings import Settings
from infra.shards import RepeatedServerError
from tests.conftest import Connect
from tests.workers.two_servers import (
    SILENT,
    PlacedBook,
    TwoServers,
    account_of,
    lanes_stand,
    prepare_servers,
    set_state,
)
from workers.console.api import Api
from workers.console.books_check import BooksCheck
from workers.console.headline import headline
from workers.console.health import FAILED, OK, SystemPart
from workers.console.ledger_sample import LedgerSample
from workers.console.operation_runner import OperationRunner
from workers.console.problems import KNOWN
from workers.console.query_limiter import QueryLimiter
from workers.console.system_monitor import SystemMonitor
from workers.ops.books.shards import server_name
from workers.ops.operations import Intent, recorded_operation
from workers.ops.topics.plan import apply_topics, plan_topics


@pytest.fixture
async def servers(settings: Settings, other_books: Callable[[], Awaitable[Settings]], connect: Connect) -> TwoServers:
    """Two servers, each with an account of its own that was granted credits."""
    second = await other_books()
    both = await prepare_servers(settings, second, await connect(settings), await connect(second))
    for connection, number in ((both.first, 0), (both.second, 3)):
        book = PlacedBook(connection)
        await book.one(book.promotion(5, account_of(number)))
        await lanes_stand(connection, book)
    return both


def _parts(sample: LedgerSample) -> dict[str, SystemPart]:
    return {part.name: part for part in sample.parts(str)}


async def test_lanes_and_outcomes_are_those_of_all_servers(servers: TwoServers) -> None:
    """Each lane once, from the server that holds its number; what stayed behind elsewhere does not count."""
    await servers.first.execute(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset)"
        " values ('inmail-billing', 'inmail.billing-events', 3, 1, 99)"
    )
    sample = LedgerSample(servers.both)

    await sample.read()

    billing = sorted((lane.partition, lane.next_offset) for lane in sample.lanes if lane.group == "inmail-billing")
    assert [(0, 1), (3, 1)] == billing
    assert [("granted", 2)] == [(each.code, each.count) for each in sample.outcomes]
    assert [OK, OK] == [part.status for part in sample.parts(str)]


async def test_a_server_that_is_away_is_named_with_its_numbers_and_the_rest_is_told(servers: TwoServers) -> None:
    """What it said last stays; the other is reachable, and is read on."""
    sample = LedgerSample(servers.both)
    await sample.read()
    sample._servers[1].settings = servers.alone[1].model_copy(
        update={"database_url": SecretStr("postgresql://localhost:1/inmail"), "console_timeout_seconds": 2.0}
    )

    with pytest.raises(KNOWN):
        await sample.read()

    away, there = f"Postgres at {server_name(servers.alone[1])}", f"Postgres at {server_name(servers.alone[0])}"
    parts = _parts(sample)
    assert (FAILED, "no answer", OK) == (parts[away].status, parts[away].cause, parts[there].status)
    assert parts[away].text.endswith(". Only accounts of partitions 3 wait for it")
    assert f"{away} does not answer" == headline(list(parts.values()))["title"]
    assert {0, 3} == {lane.partition for lane in sample.lanes}


@pytest.mark.whole
async def test_a_server_that_refuses_is_named_and_nobody_is_said_to_wait_for_it(servers: TwoServers) -> None:
    """It answers: workers have other rights than the console, and may work on."""
    sample = LedgerSample(servers.both)
    await sample.read()
    await servers.second.execute("alter table lanes rename to lanes_elsewhere")

    with pytest.raises(KNOWN):
        await sample.read()

    name = f"Postgres at {server_name(servers.alone[1])}"
    part = _parts(sample)[name]
    assert (FAILED, "refused", f"{name} refuses what the console asks") == (part.status, part.cause, part.title)
    assert "wait for it" not in part.text


@pytest.mark.whole
async def test_one_server_by_two_addresses_counts_once_and_is_the_headline(servers: TwoServers) -> None:
    """No number is said to have two holders, as its workers work; books that would be counted twice are not checked."""
    sample = LedgerSample(servers.repeated())
    with pytest.raises(RepeatedServerError):
        await sample.read()
    check = BooksCheck(QueryLimiter(servers.repeated()))
    await check._check()
    told = check.part()
    await check.close()

    first, second = sample.parts(str)
    head = headline([first, second])
    assert (OK, FAILED) == (first.status, second.status)
    assert ("failed", f"{second.name} is another server's address") == (head["kind"], head["title"])
    assert f"{server_name(servers.alone[0])} and " in head["text"]
    assert [("granted", 1)] == [(each.code, each.count) for each in sample.outcomes]
    assert told is not None
    assert "not checked" == told.cause
    assert "lead to one server" in told.text


@pytest.mark.whole
async def test_one_server_of_several_is_a_failed_part_and_its_books_are_not_checked(servers: TwoServers) -> None:
    """With INMAIL_DATABASE_SHARDS forgotten: nothing that it tells is shown as what all tell."""
    monitor = SystemMonitor(QueryLimiter(servers.alone[0]), {})
    await monitor.take_sample()
    overview = monitor.overview_json()
    await monitor.close()
    check = BooksCheck(QueryLimiter(servers.alone[0]))
    await check._check()
    told = check.part()
    await check.close()

    (part,) = [each for each in overview["health"] if each.name.startswith("Postgres")]
    assert (FAILED, "named alone") == (part.status, part.cause)
    assert "holds only some of the partition numbers: name all servers" in part.text
    assert "Postgres is one server of several" == overview["headline"]["title"]
    assert [] == overview["outcomes"]["rows"]
    assert told is not None
    assert "not checked" == told.cause


async def test_a_number_that_no_server_holds_or_two_is_told_as_a_trouble(servers: TwoServers) -> None:
    """With what to look at; one under way is no trouble."""
    sample = LedgerSample(servers.both)
    await servers.move_back()
    await sample.read()
    under_way = _parts(sample)
    await set_state(servers.first, 2, "left", servers.second)
    await set_state(servers.second, 3, "held")
    await set_state(servers.first, 3, "left", servers.second)
    await sample.read()
    nobody = headline(sample.parts(str))
    await set_state(servers.first, 2, "held")
    await set_state(servers.second, 1, "held")
    await sample.read()
    two = headline(sample.parts(str))

    assert "Partitions" not in under_way
    assert ("failed", "No server holds partition 2") == (nobody["kind"], nobody["title"])
    assert "nobody works partition 2, and what comes waits" in nobody["text"]
    assert "Two servers hold partition 1" == two["title"]
    assert [True, True] == [server_name(each) in two["text"] for each in servers.alone]


async def test_books_are_checked_on_every_server(servers: TwoServers) -> None:
    """The server whose books are out of balance is named; one that is away hides nothing of the other."""
    check = BooksCheck(QueryLimiter(servers.both))
    check.part()
    await check.wait()
    sound = check.part()
    await servers.second.execute("update lots set remaining = 2")
    await check._check()
    wrong = check.part()
    half = BooksCheck(QueryLimiter(servers.without_second()))
    await servers.first.execute("update lots set remaining = 1")
    await half._check()
    told = half.part()
    for each in (check, half):
        await each.close()

    assert sound is not None
    assert wrong is not None
    assert told is not None
    first, second = map(server_name, servers.alone)
    assert ("balanced", f"3 credits are missing on {second}") == (sound.cause, wrong.text)
    assert f"4 credits are missing on {first}" == told.text


@pytest.mark.whole
async def test_the_overview_has_a_part_for_each_server(servers: TwoServers) -> None:
    """The page greys what a server that is away said, and its headline names it."""
    await apply_topics(servers.alone[0], await plan_topics(servers.alone[0]))
    monitor = SystemMonitor(QueryLimiter(servers.without_second()), {})
    await monitor.take_sample()
    overview = monitor.overview_json()
    await monitor.close()

    names = [part.name for part in overview["health"]]
    assert "Postgres" not in names
    first = f"Postgres at {server_name(servers.alone[0])}"
    assert [first, "Postgres at localhost:1/inmail"] == [name for name in names if name.startswith("Postgres")]
    assert "Postgres at localhost:1/inmail does not answer" == overview["headline"]["title"]
    assert "Only accounts of partitions 3 wait for it" in overview["headline"]["text"]
    assert {"postgres"} == set(overview["errors"])
    assert {"title": "Postgres at localhost:1/inmail does not answer", "at": None} == overview["troubles"]["postgres"]


async def test_operations_of_the_servers_that_answer_are_listed_whichever_is_away(servers: TwoServers) -> None:
    """As the command does: the others' are shown, and the server that may have more is named."""
    for settings in servers.alone:
        async with recorded_operation(settings, Intent("a verb", "ops-1", "a trial", {}, {})):
            pass
    second = servers.alone[1].database_url.get_secret_value()
    home_away = servers.both.model_copy(
        update={"database_url": SecretStr(SILENT), "database_shards": SecretStr(f"{SILENT} {second}")}
    )

    listed = [await _operations(each) for each in (servers.both, servers.without_second(), home_away)]

    assert [2, 1, 1] == [len(each["operations"]) for each in listed]
    assert [[], ["localhost:1/inmail"], ["localhost:1/inmail"]] == [
        [error.split()[2].rstrip(":") for error in each["silent_servers"]] for each in listed
    ]


async def _operations(settings: Settings) -> Any:
    limiter = QueryLimiter(settings)
    api = Api(limiter, SystemMonitor(limiter, {}), OperationRunner(settings))
    body = (await api.operations(make_mocked_request("GET", "/api/operations"))).body
    assert isinstance(body, bytes)
    return json.loads(body)
