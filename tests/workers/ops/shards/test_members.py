"""A number stays where it is while a worker that knows of one server only may go on with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from unittest.mock import AsyncMock

import pytest

from infra.kafka.clients import admin_client, create_consumer
from infra.kafka.shard_assignor import PROTOCOL, PROTOCOL_BEFORE, ShardAssignor
from infra.settings import Settings
from infra.shards import Shard
from schemas.catalogue import SEND_REQUESTS
from tests.workers.ops.shards.servers import WHO, Servers, shards_of
from tests.workers.wire import eventually
from workers.jobs.send import SendJob
from workers.ops.group_offsets import GroupDescription, describe_group
from workers.ops.operations import RefusedError
from workers.ops.shards import members
from workers.ops.shards.add import plan_add
from workers.ops.shards.move import move_numbers
from workers.ops.shards.move_plan import MovePlan, plan_moves
from workers.ops.topics.plan import apply_topics, plan_topics

_OLD = r"group inmail-\w+ has a worker of a version that knows of one Postgres server only"


@asynccontextmanager
async def _member(settings: Settings, shard: Shard | None) -> AsyncIterator[None]:
    """Be a member of the group of sends: of this version, on a server; or of the version before."""
    assignor = None if shard is None else ShardAssignor(shard)
    consumer = create_consumer(settings, SendJob.group, 10, assignor)
    consumer.subscribe([SEND_REQUESTS])
    await consumer.start()
    try:
        yield
    finally:
        await consumer.stop()


async def _agreed(settings: Settings, protocol: str, count: int) -> None:
    async with admin_client(settings) as admin:

        async def has() -> bool:
            found = await describe_group(admin, SendJob.group)
            return (found.protocol, len(found.members)) == (protocol, count)

        await eventually(has, f"{count} members with {protocol}")


async def _begin(settings: Settings, plan: MovePlan) -> None:
    await move_numbers(settings, plan, WHO, keep=False, stop=asyncio.Event())


async def test_no_number_moves_while_a_worker_of_the_version_before_is_in_a_group(
    servers: Servers, other_books: Callable[[], Awaitable[Settings]]
) -> None:
    """Nor is a server added. Two workers of this version use its protocol, though both offer the older one too."""
    brisk = {"session_seconds": 6.0, "transaction_seconds": 5.0}  # a group waits for its members' next heartbeats
    settings, third = servers.first.model_copy(update=brisk), (await other_books()).database_url.get_secret_value()
    await apply_topics(settings, await plan_topics(settings))
    (shard, _) = await shards_of(servers)
    async with _member(settings, shard), _member(settings, shard):
        await _agreed(settings, PROTOCOL, 2)
        plan = await plan_moves(settings, [1], "1")
        await plan_add(settings, third)

        async with _member(settings, None):
            await _agreed(settings, PROTOCOL_BEFORE, 3)
            for refused in (plan_moves(settings, [1], "1"), plan_add(settings, third), _begin(settings, plan)):
                with pytest.raises(RefusedError, match=_OLD):
                    await refused
            (first, second) = await shards_of(servers)
            assert (first.holds(1), second.holds(1)) == (True, False)

        await _agreed(settings, PROTOCOL, 2)
        await _begin(settings, await plan_moves(settings, [1], "1"))
    (first, second) = await shards_of(servers)
    assert (first.holds(1), second.holds(1)) == (False, True)


async def test_a_group_is_judged_when_its_members_have_agreed(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka tells no protocol while a group rebalances, which it does for a moment wherever a worker starts."""
    states = [("PreparingRebalance", ""), ("CompletingRebalance", ""), ("Stable", PROTOCOL_BEFORE)]
    described = AsyncMock(side_effect=[GroupDescription(state, ("one",), protocol) for state, protocol in states])
    monkeypatch.setattr(members, "describe_group", described)

    with pytest.raises(RefusedError, match=_OLD):
        await plan_moves(servers.first, [1], "1")


async def test_a_group_that_rebalances_without_end_refuses_a_move(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a worker of the version before is in it is not known."""
    monkeypatch.setattr(members, "_SESSIONS", 0.01)
    described = AsyncMock(return_value=GroupDescription("PreparingRebalance", ("one",), ""))
    monkeypatch.setattr(members, "describe_group", described)

    with pytest.raises(RefusedError, match=r"group inmail-\w+ has been rebalancing for 0 s \(PreparingRebalance\)"):
        await plan_moves(servers.first, [1], "1")
