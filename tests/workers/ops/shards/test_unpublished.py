"""A number does not move before answers are published that no other server could publish."""

import asyncio

import pytest
from aiokafka import TopicPartition

from infra.kafka.clients import reader
from infra.postgres import Connection
from schemas.catalogue import SEND_REQUESTS
from tests.conftest import Connect
from tests.workers.ops.shards.servers import Servers, move, shards_of
from tests.workers.wire import prepare
from workers.ops.shards import move as moving
from workers.ops.shards import published
from workers.ops.shards.move import MoveReport, MoveStep
from workers.ops.shards.published import UnpublishedError
from workers.topology import GROUP_OF

# A row of an account of number $1 whose record came in on partition $2, the last that its lane has read.
_MISPLACE = """
update journal as j set source_partition = l.partition, source_offset = l.next_offset - 1
from lanes as l
where l.topic = 'inmail.send-requests' and l.partition = $2 and (j.account, j.sequence) = (
    select x.account, x.sequence from journal as x join accounts as a using (account)
    where a.partition = $1 and x.worker = 'send' and x.is_answer limit 1
)
returning j.source_offset
"""
# Where this is the first test on a stack the topic is empty, and `prepare` goes on as if its records were lost.
_READ = """
update lanes set next_offset = greatest(next_offset, 1), topic_since = '-infinity'
where topic = 'inmail.send-requests'
"""
_UNKNOWN = "update lanes set published = null where topic = 'inmail.send-requests'"


async def _commit(servers: Servers, partition: int, offset: int) -> None:
    place = TopicPartition(SEND_REQUESTS, partition)
    async with reader(servers.first, GROUP_OF[SEND_REQUESTS]) as consumer:
        consumer.assign([place])
        await consumer.commit({place: offset})


async def _misplace(first: Connection, number: int, partition: int) -> int:
    await first.execute(_READ)
    offset = await first.fetchval(_MISPLACE, number, partition)
    await first.execute(_UNKNOWN)
    assert isinstance(offset, int)
    return offset


async def test_what_another_lane_stored_is_waited_for(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number's lanes have stopped; once the other lane has published, its records move with the rest."""
    await prepare(servers.second)  # topics, and groups that have committed something
    offset = await _misplace(await connect(servers.first), 1, 2)
    await _commit(servers, 2, offset)
    waits = asyncio.Event()

    def note(_: int, step: MoveStep) -> None:
        if step is MoveStep.WAIT:
            waits.set()

    monkeypatch.setattr(published, "_WAIT_SECONDS", 0.1)
    with pytest.raises(UnpublishedError, match=r"inmail.send-requests/2 has 1 answer stored .* whose number is 1"):
        await move(servers, [1], "1")
    between = [shard.holds(1) for shard in await shards_of(servers)]
    monkeypatch.setattr(published, "_WAIT_SECONDS", 30)
    going_on = asyncio.ensure_future(move(servers, [1], "1", MoveReport(step=note)))
    await asyncio.wait_for(waits.wait(), 20)
    await _commit(servers, 2, offset + 1)
    await going_on

    assert between == [False, False]
    assert [shard.holds(1) for shard in await shards_of(servers)] == [False, True]


async def test_what_its_own_lanes_stored_of_others_is_waited_for(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account stays, so that no other server has the answer: until it is out, the lanes go on where they are."""
    await prepare(servers.second)
    offset = await _misplace(await connect(servers.first), 2, 1)
    await _commit(servers, 1, offset)
    monkeypatch.setattr(published, "_LANES_SECONDS", 0.3)
    monkeypatch.setattr(moving, "_STOP_SECONDS", 0.1)

    with pytest.raises(
        UnpublishedError, match=r"inmail.send-requests/1 has 1 answer stored .* whose number is another"
    ):
        await move(servers, [1], "1")
    between = [shard.holds(1) for shard in await shards_of(servers)]
    await _commit(servers, 1, offset + 1)
    await move(servers, [1], "1")

    assert between == [True, False]
    assert [shard.holds(1) for shard in await shards_of(servers)] == [False, True]


@pytest.mark.parametrize("unread", [0, 1])
async def test_what_a_lane_knows_itself_counts(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch, unread: int
) -> None:
    """Its row says up to where its answers are published; Kafka's coordinator may know of an earlier offset."""
    await prepare(servers.second)
    first = await connect(servers.first)
    await _commit(servers, 2, await _misplace(first, 1, 2))
    await first.execute("update lanes set published = next_offset, next_offset = next_offset + $1", unread)
    monkeypatch.setattr(published, "_WAIT_SECONDS", 0.1)

    await move(servers, [1], "1")

    assert [shard.holds(1) for shard in await shards_of(servers)] == [False, True]
