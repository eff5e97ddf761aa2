"""Waiting until every lane is at work, and until everything that was asked is answered."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

from aiokafka.errors import KafkaError

from infra.kafka.cluster_queries import LATEST, open_cluster_queries
from infra.postgres import connect_database
from infra.settings import Settings
from infra.shards import settings_of_shards
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from tests.cluster.load import Published
from tests.workers.wire import settled
from workers.topology import GROUP_OF

__all__ = ["all_is_answered", "all_lanes_move", "group_members", "member_replaced", "until"]

_WAIT_SECONDS = 90.0
_LOOK_SECONDS = 0.2
_GROUPS = {topic: GROUP_OF[topic] for topic in (SEND_REQUESTS, BILLING_EVENTS)}
_STORED = "select partition, next_offset from lanes where topic = $1 and holds_number(partition)"


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until a condition holds; fail after a minute and a half."""
    deadline = monotonic() + _WAIT_SECONDS
    while not await condition():
        if monotonic() > deadline:
            raise AssertionError(f"not within {_WAIT_SECONDS:.0f} s: {what}")
        await asyncio.wait([asyncio.create_task(asyncio.sleep(_LOOK_SECONDS))])


async def all_lanes_move(settings: Settings, when: str) -> None:
    """Wait until every send lane has stored something more, twice: the second was published after the first."""
    for _ in range(2):
        before = await _stored(settings)

        standing: set[int] = set()

        async def moved(before: Mapping[int, int] = before, standing: set[int] = standing) -> bool:
            now = await _stored(settings)
            standing.clear()
            standing.update(n for n in range(settings.topic_partitions) if now.get(n, -1) <= before.get(n, 0))
            return not standing

        try:
            await until(moved, f"every lane at work {when}")
        except AssertionError as error:
            error.add_note(f"the lanes of {sorted(standing)} stand")
            raise


async def _stored(settings: Settings) -> dict[int, int]:
    """Return up to where the send lanes have stored on the server that holds their number, by partition."""
    found: dict[int, int] = {}
    for server in settings_of_shards(settings):
        connection = await connect_database(server)
        try:
            rows = await connection.fetch(_STORED, SEND_REQUESTS)
        finally:
            await connection.close()
        found |= {row["partition"]: row["next_offset"] or 0 for row in rows}
    return found


async def group_members(settings: Settings, topic: str) -> frozenset[str]:
    """Return the ids of the members of the group that reads a topic; empty while it rebalances."""
    async with open_cluster_queries(settings) as queries:
        found = (await queries.describe([GROUP_OF[topic]]))[GROUP_OF[topic]]
    return frozenset(member.id for member in found.members or ()) if found.settled else frozenset()


async def member_replaced(settings: Settings, topic: str, before: frozenset[str]) -> None:
    """Wait until a group has as many members as before, one of them another one."""

    async def replaced() -> bool:
        now = await group_members(settings, topic)
        return len(now) == len(before) and now != before

    await until(replaced, f"another member of the group that reads {topic}")


async def all_is_answered(settings: Settings, published: Published) -> None:
    """Wait until each group has committed the ends of its topic, and no transaction is open."""
    async with open_cluster_queries(settings) as queries:

        async def done() -> bool:
            try:
                await queries.refresh()
                committed = await queries.committed(_GROUPS.values())
                places = [place for topic in _GROUPS for place in queries.partitions(topic)]
                ends = await queries.offsets(dict.fromkeys(places, LATEST))
            except KafkaError:
                return False
            asked = sum(end for place, end in ends.items() if place.topic == SEND_REQUESTS)
            return asked == len(published.sends) and all(
                committed[_GROUPS[place.topic]].get(place) == ends.get(place) for place in places
            )

        await until(done, "everything answered")
    await settled(settings)
