"""Rewinds a group: sets its offsets all at once, while it has no members, on record.

If the process is killed, either no offset is set or all are. So the same command again has the same plan, or nothing
left to do.
"""

import asyncio
from collections.abc import Callable, Mapping

from aiokafka import TopicPartition

from infra.kafka.clients import admin_client, committed_offsets
from infra.postgres import connect_database
from infra.settings import Settings
from workers.ops.books.lanes import last_owners
from workers.ops.group_offsets import set_offsets, wait_until_empty
from workers.ops.numbers import one_server_of_numbers
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation
from workers.ops.replay.rewind_plan import RewindOptions, RewindPlan, plan_rewind
from workers.ops.replay.rewind_target import VERB, RewindTarget
from workers.topology import GROUP_OF, TOPIC_OF

__all__ = ["rewind"]


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
    settings = await one_server_of_numbers(settings, target.partitions, "inmail replay rewind")
    group = GROUP_OF[TOPIC_OF[plan.worker]]
    arguments = {
        "worker": plan.worker.value,
        "publish_again": options.publish_again,
        "drain": options.drain,
        **target.summary(),
    }
    async with recorded_operation(settings, Intent(VERB, *who, arguments, plan.summary())) as operation:
        if options.drain:
            async with admin_client(settings) as admin:
                operation.stopped = not await wait_until_empty(admin, group, drain_seconds, stop, tell)
        if not operation.stopped:
            await _set_offsets(
                settings, operation, await plan_rewind(settings, plan.worker, target, options, plan.targets)
            )
    return operation


async def _set_offsets(settings: Settings, operation: OngoingOperation, plan: RewindPlan) -> None:
    """Set the offsets of a plan computed after the group's last member has left."""
    if plan.refusal is not None or (plan.members and plan.moves):
        raise RefusedError(plan.refusal or "the group has members again")
    # Saved first, so that a rewind killed after this line can be undone.
    operation.result |= {"moves": [move.summary() for move in plan.moves], "set": False}
    await operation.save_progress()
    group, topic = GROUP_OF[TOPIC_OF[plan.worker]], TOPIC_OF[plan.worker]
    offsets = {TopicPartition(topic, move.partition): move.target for move in plan.moves}
    if offsets:
        await _announce_offsets(settings, group, offsets)
        await set_offsets(settings, group, offsets, await last_owners(operation.connection, group))
        async with admin_client(settings) as admin:
            if await committed_offsets(admin, group, list(offsets)) != offsets:
                raise RefusedError(
                    "the group's offsets were changed by another client meanwhile: check them, and try again"
                )
    operation.result["set"] = True


async def _announce_offsets(settings: Settings, group: str, offsets: Mapping[TopicPartition, int]) -> None:
    """Let the lanes expect the new offsets: they would take an unannounced older offset for a broker's error.

    Announced before the offsets are set: a lane accepts any offset from the announced one on, so an announcement alone
    does no harm.
    """
    connection = await connect_database(settings)
    try:
        await connection.executemany(
            "update lanes set published = least(published, $4)"
            " where consumer_group = $1 and topic = $2 and partition = $3",
            [(group, tp.topic, tp.partition, offset) for tp, offset in offsets.items()],
        )
    finally:
        await connection.close()
