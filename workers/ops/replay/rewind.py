"""Rewinding a group: its offsets set back while it has no members, all at once, on record.

Killed before the offsets are set, nothing has happened; after it, all has. So the same command again finds either the
same plan or nothing left to do.
"""

import asyncio
from collections.abc import Callable, Mapping

from aiokafka import TopicPartition

from infra.kafka.clients import admin_client, committed_offsets
from infra.postgres import connect_database
from infra.settings import Settings
from workers.ops.group_offsets import set_offsets, wait_until_empty
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation
from workers.ops.replay.rewind_plan import RewindOptions, RewindPlan, plan_rewind
from workers.ops.replay.rewind_target import VERB, RewindTarget, group_of, topic_of

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
    """Set a group's offsets as planned, once it has no members; return the operation and its result.

    Its workers go on while they drain, so the plan is made anew after that, for the same offsets.

    Args:
        settings: where Kafka and Postgres are.
        target: where to, as the plan was made for.
        options: how, as the plan was made for.
        plan: what was agreed to.
        who: who it is, and why.
        stop: ends the wait for members. Nothing has happened then.
        drain_seconds: how long to wait for members to go, with --drain.
        tell: called with lines about the wait.

    Raises:
        RefusedError: when another rewind is under way, or this one is not safe or would publish again unasked.
        NotSetUpError, KafkaError, OSError, asyncpg.PostgresError: when it cannot go on. The same again goes on.

    """
    group = group_of(plan.worker)
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
    """Set the offsets of a plan that was made once the group had no members."""
    if plan.refusal is not None or (plan.members and plan.moves):
        raise RefusedError(plan.refusal or "the group has members again")
    # Written first: whoever undoes a rewind that was killed here finds where the group stood.
    operation.result |= {"moves": [move.summary() for move in plan.moves], "set": False}
    await operation.save_progress()
    group, topic = group_of(plan.worker), topic_of(plan.worker)
    offsets = {TopicPartition(topic, move.partition): move.target for move in plan.moves}
    if offsets:
        await _announce_offsets(settings, group, offsets)
        await set_offsets(settings, group, offsets)
        async with admin_client(settings) as admin:
            if await committed_offsets(admin, group, list(offsets)) != offsets:
                raise RefusedError("the group's offsets were set by somebody else meanwhile: look, and try again")
    operation.result["set"] = True


async def _announce_offsets(settings: Settings, group: str, offsets: Mapping[TopicPartition, int]) -> None:
    """Let the lanes expect these offsets: unannounced, they would take an older one for a broker's error.

    Written first: were the offsets not set after it, nothing is amiss, for what lies after what is expected is taken.
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
