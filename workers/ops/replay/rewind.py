"""Rewinds a group: sets its offsets all at once, while it has no members, on record.

Of several servers, all that hold one of the partitions have to answer: nothing is set without one of them. The
operation is noted on the server of INMAIL_DATABASE_URL.

If the process is killed, either no offset is set or all are. So the same command again has the same plan, or nothing
left to do.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiokafka import TopicPartition
from asyncpg import Record
from pydantic import SecretStr

from infra.kafka.clients import admin_client, committed_offsets
from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.lanes import last_owners
from workers.ops.books.shards import naming_server
from workers.ops.group_offsets import set_offsets, wait_until_empty
from workers.ops.numbers import open_locked, servers_of_numbers
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation
from workers.ops.replay.rewind_plan import RewindOptions, RewindPlan, plan_rewind
from workers.ops.replay.rewind_target import VERB, RewindTarget
from workers.topology import GROUP_OF, TOPIC_OF

__all__ = ["rewind"]

_ANNOUNCE: Final = """
update lanes as l
set published = least(l.published, u.target), epoch = l.epoch + 1, head = null,
    owner_epoch = case l.owner_epoch when l.epoch then l.epoch + 1 else l.owner_epoch end
from unnest($3::integer[], $4::bigint[]) as u (number, target)
where l.consumer_group = $1 and l.topic = $2 and l.partition = u.number
returning l.partition, u.target, l.epoch
"""
_NOTE: Final = """
update lanes as l set published = u.target, maybe_published = u.target
from unnest($3::integer[], $4::bigint[], $5::bigint[]) as u (number, target, its_epoch)
where l.consumer_group = $1 and l.topic = $2 and l.partition = u.number and l.epoch = u.its_epoch
"""
_MOVED: Final = "partition numbers moved to another server meanwhile, and nothing was set: run the same command again"


async def rewind(  # noqa: PLR0913 - what, how and by whom, and how to stop it
    settings: Settings,
    target: RewindTarget,
    options: RewindOptions,
    plan: RewindPlan,
    *,
    who: Operator,
    stop: asyncio.Event,
    drain_seconds: float,
    tell: Callable[[str], None] = lambda _: None,
) -> OngoingOperation:
    """Set a group's offsets as planned, once the group has no members; return the operation and its result.

    The workers make progress while they drain, so the plan is computed again after that, for the same offsets.

    Args:
        settings: where Kafka and Postgres are.
        target: the target that the plan was made with.
        options: the options that the plan was made with.
        plan: the accepted plan.
        who: the operator.
        stop: ends the wait for members, before any offset is set.
        drain_seconds: the longest wait for members to leave, with --drain.
        tell: called with lines of text about the wait.

    Raises:
        RefusedError: when another rewind is running, or this one is unsafe or would publish again without the option.
        NotSetUpError, KafkaError, OSError, asyncpg.PostgresError: when the rewind fails; the same command resumes it.

    """
    group = GROUP_OF[TOPIC_OF[plan.worker]]
    arguments = {
        "worker": plan.worker.value,
        "publish_again": options.publish_again,
        "drain": options.drain,
        **target.summary(),
    }
    intent = Intent(VERB, *who, arguments, plan.summary())
    with naming_server(settings):
        async with recorded_operation(settings, intent) as operation, _open_others(settings, plan) as others:
            if options.drain:
                async with admin_client(settings) as admin:
                    operation.stopped = not await wait_until_empty(admin, group, drain_seconds, stop, tell)
            if not operation.stopped:
                again = await plan_rewind(settings, plan.worker, target, options, plan.targets)
                if again.held_by != plan.held_by:
                    raise RefusedError(_MOVED)
                connections = others | {settings.database_url: operation.connection}
                await _set_offsets(settings, operation, again, connections)
    return operation


@asynccontextmanager
async def _open_others(settings: Settings, plan: RewindPlan) -> AsyncIterator[dict[SecretStr, Connection]]:
    """Connect to the servers that hold partitions of a plan, but for that of the operation; lock the verb there.

    Yield the connections by the server's URL.
    """
    async with AsyncExitStack() as opened:
        connections: dict[SecretStr, Connection] = {}
        for server, _ in plan.servers:
            if server.database_url != settings.database_url:
                with naming_server(server):
                    connections[server.database_url] = await opened.enter_async_context(open_locked(server, VERB))
        yield connections


async def _set_offsets(
    settings: Settings, operation: OngoingOperation, plan: RewindPlan, connections: Mapping[SecretStr, Connection]
) -> None:
    """Set the offsets of a plan computed after the group's last member has left.

    Args:
        settings: where Kafka and Postgres are.
        operation: that the rewind is noted as.
        plan: what to set.
        connections: to the servers of the plan, by their URLs: those that hold the verb's lock.

    """
    if plan.refusal is not None or (plan.members and plan.moves):
        raise RefusedError(plan.refusal or "the group has members again")
    # Saved first, so that a rewind killed after this line can be undone.
    operation.result |= {"moves": [move.summary() for move in plan.moves], "set": False}
    await operation.save_progress()
    group, topic = GROUP_OF[TOPIC_OF[plan.worker]], TOPIC_OF[plan.worker]
    offsets = {TopicPartition(topic, move.partition): move.target for move in plan.moves}
    if offsets:
        announced: list[tuple[Settings, list[Record]]] = []
        for server, held in plan.servers:
            own = {move.partition: move.target for move in plan.moves if not held or move.partition in held}
            with naming_server(server):
                connection = connections[server.database_url]
                announced.append((server, await _announce_offsets(connection, (group, topic), own)))
        # Announced on a server that has copied its lanes to another meanwhile, the other would not know.
        numbers = [number for each in plan.servers for number in each.numbers]
        if await servers_of_numbers(settings, numbers) != plan.servers:
            raise RefusedError(_MOVED)
        owners = [await last_owners(connection, group) for connection in connections.values()]
        await set_offsets(settings, group, offsets, set().union(*owners))
        async with admin_client(settings) as admin:
            if await committed_offsets(admin, group, list(offsets)) != offsets:
                raise RefusedError(
                    "the group's offsets were changed by another client meanwhile: check them, and try again"
                )
        for server, lanes in announced:
            with naming_server(server):
                await _note_offsets(connections[server.database_url], (group, topic), lanes)
    operation.result["set"] = True


async def _announce_offsets(connection: Connection, key: tuple[str, str], targets: Mapping[int, int]) -> list[Record]:
    """Let the lanes expect the new offsets: they would take an unannounced older offset for a broker's error.

    Announced before the offsets are set: a lane accepts any offset from the announced one on, so an announcement alone
    does no harm. It ends the lanes' epochs: a worker that was frozen, and that its group counted out, would give its
    lanes back with what it knows to be published. Return of each lane its partition, its target and its new epoch.
    """
    return await connection.fetch(_ANNOUNCE, *key, list(targets), list(targets.values()))


async def _note_offsets(connection: Connection, key: tuple[str, str], lanes: Sequence[Record]) -> None:
    """Note that no answer beyond the new offsets counts as published, in the rows of lanes that nobody has since then.

    Whatever a broker tells later, or forgets: what was published before the rewind is to be published again.
    """
    columns = [[lane[name] for lane in lanes] for name in ("partition", "target", "epoch")]
    await connection.execute(_NOTE, *key, *columns)
