"""Operators' verbs where several Postgres servers hold the books: each works with the server of its numbers."""

from typing import Any

import pytest

from schemas.catalogue import SEND_REQUESTS
from tests.workers.two_servers import TwoServers, account_of
from workers.ledger.model import WorkerName
from workers.ops.books.shards import ServerError
from workers.ops.clock.decide import ClockDecision, decide_clock, plan_clock
from workers.ops.clock.state import read_clocks
from workers.ops.numbers import one_server_of, one_server_of_numbers, require_one_server
from workers.ops.operations import Operator, RefusedError
from workers.ops.topics.ended import rows_of_lanes, start_lanes
from workers.ops.topics.numbering import plan_numbering
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
    """Numbers of two servers are refused, with who holds which; so is none. One server is never asked."""
    first, second = (each.database_url for each in servers.alone)
    found = [
        await one_server_of_numbers(servers.both, [0, 2], "v"),
        await one_server_of_numbers(servers.both, [3], "v"),
        await one_server_of(servers.both, account_of(3), None, "v"),
        await one_server_of_numbers(servers.without_second(), [0], "v"),
    ]

    assert [first, second, second, first] == [each.database_url for each in found]
    assert {""} == {each.database_shards.get_secret_value() for each in found}
    for numbers in ([0, 3], []):
        with pytest.raises(RefusedError, match=r"give --partition of one of them \(.* holds 0-2; .* holds 3\)"):
            await one_server_of_numbers(servers.both, numbers, "v")
    with pytest.raises(ServerError):
        await one_server_of_numbers(servers.without_second(), [3], "v")
    assert servers.alone[0] is await one_server_of_numbers(servers.alone[0], [], "v")
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
    assert await plan_numbering(servers.both) is None
    more = servers.both.model_copy(update={"topic_partitions": 8})

    with pytest.raises(RefusedError, match=r"by 4 partitions, .* is 8: .*`inmail shards move`"):
        await plan_numbering(more)


async def test_a_decision_about_a_clock_is_kept_where_the_lane_is(lanes: TwoServers) -> None:
    """With its operation, which the decision names; clocks are shown of all servers."""
    plan = await plan_clock(lanes.both, WorkerName.SEND, 3, ClockDecision.ACCEPT)
    await decide_clock(lanes.both, plan, Operator("a", "b"))

    query = "select count(*) from clock_decisions join operations using (operation)"
    assert (0, 1) == (await lanes.first.fetchval(query), await lanes.second.fetchval(query))
    assert [(0, True), (3, True)] == [(each.partition, each.held_offset == 7) for each in await read_clocks(lanes.both)]
