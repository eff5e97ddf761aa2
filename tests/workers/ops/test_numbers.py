"""Operators' verbs where several Postgres servers hold the books: each works with the server of its numbers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from schemas.catalogue import SEND_REQUESTS
from tests.workers.command import run
from tests.workers.two_servers import TwoServers, account_of, set_state
from workers.commands.running import Exit
from workers.ledger.model import WorkerName
from workers.ops import prune as pruning
from workers.ops.books.shards import NotHeldError, ServerError, server_name
from workers.ops.books.whole_books import PartOfBooksError
from workers.ops.clock.decide import ClockDecision, decide_clock, plan_clock
from workers.ops.clock.set_back import VERB, plan_set_back, set_back
from workers.ops.clock.state import read_clocks
from workers.ops.numbers import one_server_of, one_server_of_number, require_one_server
from workers.ops.operations import Intent, Operator, RefusedError, recorded_operation
from workers.ops.prune import PrunePlan, plan_prune, prune
from workers.ops.replay import balances, reemit_plan
from workers.ops.replay.reemit_rows import RowFilter
from workers.ops.topics.ended import rows_of_lanes, start_lanes
from workers.ops.topics.numbering import number_accounts, plan_numbering
from workers.ops.topics.plan import apply_topics, plan_topics

_LANE = (
    "insert into lanes (consumer_group, topic, partition, epoch, next_offset, as_of, held, held_offset, held_time)"
    " values ('inmail-send', 'inmail.send-requests', $1, 1, $2, '2026-01-01', 'far ahead', 7, '2030-01-01')"
)


@pytest.fixture
async def lanes(servers: TwoServers) -> TwoServers:
    """Two servers with the lane of number 3, which the second holds; what stayed on the first does not count."""
    await servers.first.execute(_LANE, 3, 5)
    await servers.second.execute(_LANE, 3, 9)
    await servers.first.execute(_LANE, 0, 1)
    return servers


async def test_a_verb_works_with_the_server_of_its_numbers_or_account(servers: TwoServers) -> None:
    """A number that no server has, or two, is refused. One server is never asked."""
    first, second = (each.database_url for each in servers.alone)
    found = [
        await one_server_of_number(servers.both, 0),
        await one_server_of_number(servers.both, 3),
        await one_server_of(servers.both, account_of(3), None),
        await one_server_of(servers.both, None, 3),
        await one_server_of_number(servers.without_second(), 0),
    ]

    assert [first, second, second, second, first] == [each.database_url for each in found]
    assert {""} == {each.database_shards.get_secret_value() for each in found}
    with pytest.raises(ServerError):
        await one_server_of_number(servers.without_second(), 3)
    await set_state(servers.first, 2, "left", servers.second)
    with pytest.raises(NotHeldError, match="partition number 2 is held by no server"):
        await one_server_of_number(servers.both, 2)
    assert servers.alone[0] is await one_server_of_number(servers.alone[0], 2)
    require_one_server(servers.alone[0], "v", "w")
    with pytest.raises(RefusedError, match="`v` does not work with several Postgres servers"):
        require_one_server(servers.both, "v", "w")


async def test_topics_are_planned_by_the_lanes_of_all_servers(lanes: TwoServers) -> None:
    """Each lane's row is that of the server that holds its number."""
    rows: list[Any] = await rows_of_lanes(lanes.both, "select partition, next_offset from lanes")

    assert {(0, 1), (3, 9)} == {tuple(row) for row in rows}


async def test_lanes_are_started_on_the_server_of_their_number(servers: TwoServers) -> None:
    """No server gets a lane of a number that another holds."""
    await apply_topics(servers.alone[0], await plan_topics(servers.alone[0]))
    for connection, number in ((servers.first, 0), (servers.second, 3)):
        await connection.execute(_LANE, number, None)

    assert await start_lanes(servers.both, "inmail-send", SEND_REQUESTS, {0: 0, 1: 0, 3: 0})

    query = "select array_agg(partition order by partition) from lanes"
    assert ([0, 1], [3]) == (await servers.first.fetchval(query), await servers.second.fetchval(query))


async def test_accounts_of_several_servers_are_not_numbered_anew(servers: TwoServers) -> None:
    """They would belong to other servers: it is refused, with what to do instead."""
    await servers.first.execute("insert into accounts (account_id, partition) values ('a', 0)")
    assert await plan_numbering(servers.both) is None
    more = servers.both.model_copy(update={"topic_partitions": 8})

    with pytest.raises(RefusedError, match=r"by 4 partitions, .* is 8: .*`inmail shards move`"):
        await plan_numbering(more)


async def test_copies_that_a_move_left_are_to_be_deleted_before_accounts_are_counted(servers: TwoServers) -> None:
    """Their server holds no number that could be moved to the first."""
    await servers.first.execute("update partitioning set partitions = 8")
    await servers.second.execute("insert into accounts (account_id, partition) values ('copy', 3)")
    await set_state(servers.first, 3, "held")
    await set_state(servers.second, 3, "left", servers.first)

    with pytest.raises(RefusedError, match=r"they are copies .* `inmail shards move` .* without --keep"):
        await plan_numbering(servers.both.model_copy(update={"topic_partitions": 8}))


async def test_one_server_of_several_is_not_numbered_anew(servers: TwoServers) -> None:
    """With INMAIL_DATABASE_SHARDS forgotten, its accounts would get numbers that another server holds."""
    await servers.first.execute("insert into accounts (account_id, partition) values ('a', 0)")
    alone = servers.alone[0].model_copy(update={"topic_partitions": 8})

    for number_or_plan in (plan_numbering, number_accounts):
        with pytest.raises(PartOfBooksError, match="holds only some of the partition numbers: name all servers"):
            await number_or_plan(alone)

    assert [4, 0] == [
        await servers.first.fetchval(query)
        for query in ("select partitions from partitioning", "select partition from accounts")
    ]


async def test_a_server_without_accounts_is_told_the_count_of_the_others(servers: TwoServers) -> None:
    """After partitions were added it has the old one; one that was prepared early has none."""
    await servers.first.execute(
        "insert into accounts (account_id, partition) values ('a', 0); update partitioning set partitions = 8"
    )
    more, query = servers.both.model_copy(update={"topic_partitions": 8}), "select partitions from partitioning"
    counts = []
    for spoil in ("select", "delete from partitioning", "insert into accounts (account_id, partition) values ('b', 3)"):
        await servers.second.execute(spoil)
        planned = await plan_numbering(more)
        assert (planned is None) is spoil.startswith("insert")
        await number_accounts(more)
        counts.append((await servers.second.fetchval(query), await plan_numbering(more)))
    await servers.second.execute("delete from partitioning")  # an account was moved there before it had one

    await number_accounts(more)

    assert [(8, None)] * 3 == counts
    assert [8, 8] == [await each.fetchval(query) for each in (servers.first, servers.second)]
    assert 0 == await servers.first.fetchval("select partition from accounts")


_Ask = Callable[[TwoServers], Awaitable[object]]
_WHO = Operator("a", "b")


async def _decide(servers: TwoServers) -> None:
    plan = await plan_clock(servers.both, WorkerName.SEND, 3, ClockDecision.ACCEPT)
    await servers.second.execute("alter table clock_decisions rename to gone")
    await decide_clock(servers.both, plan, _WHO)


async def _prune(servers: TwoServers) -> None:
    await prune(servers.both, PrunePlan(1, 1, uuid4(), {0: 1, 3: 1}), who=_WHO, stop=asyncio.Event())


async def _balances(servers: TwoServers) -> None:
    both = servers.both.model_copy(update={"balances_topic": True})
    await balances.plan_balances(both, account_of(3), 1)


@pytest.mark.parametrize(
    ("lost", "ask"),
    [
        ("ticks", lambda servers: plan_prune(servers.both)),
        ("ticks", _prune),
        ("lanes", lambda servers: read_clocks(servers.both)),
        ("lanes", lambda servers: plan_clock(servers.both, WorkerName.SEND, 3, ClockDecision.ACCEPT)),
        ("earlier_rows", _decide),
        ("journal", lambda servers: reemit_plan.plan_reemit(servers.both, RowFilter(partition=3), None, 1)),
        ("accounts", _balances),
        ("ticks", lambda servers: rows_of_lanes(servers.both, "select partition, 1 / (next_offset - 9) from lanes")),
    ],
    ids=["prune planned", "prune", "clocks", "clock planned", "clock decided", "reemit", "balances", "topics"],
)
async def test_an_error_says_of_which_of_several_servers_it_is(
    lanes: TwoServers, monkeypatch: pytest.MonkeyPatch, lost: str, ask: _Ask
) -> None:
    """Not of that of INMAIL_DATABASE_URL, with which nothing is wrong."""

    def answer(found: object) -> Callable[..., Awaitable[object]]:
        async def read(*_: object) -> object:
            return found

        return read

    monkeypatch.setattr(pruning, "_read_topic", answer(({0: 1, 3: 1}, uuid4())))
    monkeypatch.setattr(reemit_plan, "_read_targets", answer(({}, {})))
    monkeypatch.setattr(balances, "_read_topic_id", answer(uuid4()))
    await lanes.second.execute(f"alter table {lost} rename to lost")

    with pytest.raises(ServerError) as error:
        await ask(lanes)

    assert lanes.alone[1].database_url == error.value.settings.database_url


async def test_a_decision_about_a_clock_is_kept_where_the_lane_is(lanes: TwoServers) -> None:
    """With its operation, which the decision names; clocks are shown of all servers."""
    plan = await plan_clock(lanes.both, WorkerName.SEND, 3, ClockDecision.ACCEPT)
    await decide_clock(lanes.both, plan, Operator("a", "b"))

    query = "select count(*) from clock_decisions join operations using (operation)"
    assert (0, 1) == (await lanes.first.fetchval(query), await lanes.second.fetchval(query))
    assert [(0, True), (3, True)] == [(each.partition, each.held_offset == 7) for each in await read_clocks(lanes.both)]


_FAR = "update lanes set as_of = now() + interval '1 year'"
_IS_FAR = "select array_agg(as_of > now() + interval '1 day' order by partition) from lanes"


async def test_clocks_of_several_servers_are_set_back_by_one_command(lanes: TwoServers) -> None:
    """Each lane where its number is held; what stayed elsewhere is not touched. Noted once, with the servers."""
    for connection in (lanes.first, lanes.second):
        await connection.execute(_FAR)
    first, second = map(server_name, lanes.alone)

    text = (await run(lanes.both, "clock", "set-back", "--dry-run")).out
    done = await run(lanes.both, "clock", "set-back", "--by", "ann", "--because", "a wrong year", "--yes", "--json")
    told = json.loads(done.out)

    assert [True, True] == [name in text for name in (first, second)]
    assert [{"server": first, "numbers": [0, 1, 2]}, {"server": second, "numbers": [3]}] == told["plan"]["servers"]
    assert [0, 3] == [each["partition"] for each in told["plan"]["lanes"]]
    assert {"lanes": 2} == told["result"]
    assert ([False, True], [False]) == (await lanes.first.fetchval(_IS_FAR), await lanes.second.fetchval(_IS_FAR))
    noted = [await each.fetchval("select count(*) from operations") for each in (lanes.first, lanes.second)]
    assert [1, 0] == noted


async def test_clocks_that_were_set_back_since_the_plan_are_left_alone(lanes: TwoServers) -> None:
    """They have gone on; the operation counts those that it has set."""
    for connection in (lanes.first, lanes.second):
        await connection.execute(_FAR)
    plan = await plan_set_back(lanes.both)
    done = await set_back(lanes.both, plan, Operator("ann", "a wrong year"))
    await lanes.second.execute("update lanes set as_of = as_of + interval '1 hour'")
    before = await lanes.second.fetchrow("select * from lanes")
    again = await set_back(lanes.both, plan, Operator("bob", "a wrong year"))

    assert [2, 0] == [each.result["lanes"] for each in (done, again)]
    assert before == await lanes.second.fetchrow("select * from lanes")


async def test_operations_are_listed_whichever_server_they_are_noted_on(servers: TwoServers) -> None:
    """By when they began; a copy that a move has left is no second one. A server that is away is named."""
    for number, settings in enumerate((servers.both, servers.alone[1], servers.both)):
        async with recorded_operation(settings, Intent(f"verb {number}", "ann", "b", {}, {})):
            pass
    noted = await servers.second.fetchrow("select * from operations")
    assert noted is not None
    names, places = ", ".join(noted.keys()), ", ".join(f"${number + 1}" for number in range(len(noted)))
    copy = f"insert into operations ({names}) overriding system value values ({places})"  # noqa: S608 - our own names
    await servers.first.execute(copy, *noted)

    listed = json.loads((await run(servers.both, "operations", "list", "--json")).out)
    newest = json.loads((await run(servers.both, "operations", "list", "--last", "1", "--json")).out)
    shown = await run(servers.both, "operations", "show", str(noted["operation"]))
    away = await run(servers.without_second(), "operations", "list", "--json")
    nowhere = await run(servers.without_second(), "operations", "show", "77")

    assert ["verb 2", "verb 1", "verb 0"] == [each["verb"] for each in listed]
    assert ["verb 2"] == [each["verb"] for each in newest]
    assert (Exit.DONE, True) == (shown.code, "verb 1" in shown.out)
    assert (Exit.UNREACHABLE, Exit.UNREACHABLE) == (away.code, nowhere.code)
    assert {"verb 0", "verb 2"} <= {each["verb"] for each in json.loads(away.out)}
    assert ["Postgres cannot be reached at localhost:1" in each.err for each in (away, nowhere)] == [True, True]


async def test_a_server_that_is_away_keeps_clocks_from_being_set_back_but_for_the_partitions_of_others(
    lanes: TwoServers,
) -> None:
    """It is named, with what to do; where it goes away between plan and run, the same command does what is left."""
    for connection in (lanes.first, lanes.second):
        await connection.execute(_FAR)
    who = ("--by", "ann", "--because", "a wrong year", "--yes")
    plan = await plan_set_back(lanes.both)

    away = await run(lanes.without_second(), "clock", "set-back", *who)
    untouched = await lanes.first.fetchval(_IS_FAR)
    async with recorded_operation(lanes.alone[1], Intent(VERB, "bob", "another", {}, {})):
        with pytest.raises(RefusedError, match=rf"{server_name(lanes.alone[1])}: another clock set-back is under way"):
            await set_back(lanes.both, plan, Operator("ann", "a wrong year"))
    half = await lanes.first.fetchval(_IS_FAR), await lanes.second.fetchval(_IS_FAR)
    left = await plan_set_back(lanes.both)
    await set_back(lanes.both, left, Operator("ann", "a wrong year"))

    assert (Exit.UNREACHABLE, True) == (away.code, "Postgres cannot be reached at localhost:1" in away.err)
    assert ([True, True], ([False, True], [True])) == (untouched, half)
    assert [3] == [each.lane.partition for each in left.lanes]
    assert [False] == await lanes.second.fetchval(_IS_FAR)
    await lanes.first.execute(_FAR)
    assert Exit.DONE == (await run(lanes.without_second(), "clock", "set-back", "--partition", "0", *who)).code
    await lanes.move_back()
    with pytest.raises(NotHeldError, match="partition number 3 is held by no server"):
        await plan_set_back(lanes.both)
