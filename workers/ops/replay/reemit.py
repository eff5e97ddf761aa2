"""Publishes stored answers once more at a steady rate, on record, with the same bytes and event ids.

No worker is stopped and no offset moves. The position is saved after the brokers have acknowledged the events: an
operation that is killed and resumed sends at most the last second's events twice, with the same ids.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from infra.kafka.sender import Outgoing
from infra.postgres import Connection
from infra.settings import Settings
from workers.jobs.job import Message
from workers.ops.numbers import naming_part, one_server_of
from workers.ops.operations import Intent, OngoingOperation, Operator
from workers.ops.replay.reemit_plan import VERB, ReemitPlan, operation_arguments
from workers.ops.replay.reemit_rows import RowFilter, read_pages
from workers.ops.replay.server_runs import Page, Progress, run_parts

__all__ = ["reemit"]


async def reemit(  # noqa: PLR0913 - what, how and by whom, and how to stop it
    settings: Settings,
    selection: RowFilter,
    plan: ReemitPlan,
    *,
    who: Operator,
    stop: asyncio.Event,
    progress: Progress = lambda _: None,
) -> OngoingOperation:
    """Send the events of a plan; return the operation and its result.

    Rows booked during the reemission are included if their account has not been sent yet.

    Args:
        settings: where Kafka and Postgres are.
        selection: the filter that the plan was made with.
        plan: the accepted plan.
        who: the operator.
        stop: ends the reemission between two events; the same command resumes it.
        progress: called with the number of events sent or refused.

    Raises:
        RefusedError: when another reemission is running.
        KafkaError, OSError, asyncpg.PostgresError: when the reemission fails; the same command resumes it.

    """
    own = await one_server_of(settings, selection.account, selection.partition)

    async def pages(connection: Connection, part: ReemitPlan) -> AsyncGenerator[Page, None]:
        async with aclosing(read_pages(connection, selection, part.start, part.numbers)) as found:
            async for page in found:
                yield [(position.summary(), _outgoing(part, message)) for position, message in page]

    intent = Intent(VERB, *who, operation_arguments(selection, plan.to, plan.topic_ids), plan.summary())
    with naming_part(settings, own):
        return await run_parts(own, intent, plan, pages, stop=stop, progress=progress)


def _outgoing(plan: ReemitPlan, message: Message) -> Outgoing:
    topic = plan.to or message.topic
    # A tick's answer has a partition instead of a key; the target topic may have fewer partitions.
    partition = None if message.partition is None else message.partition % plan.partitions[topic]
    return Outgoing(topic, message.key, message.value, None, tuple(message.headers or ()), partition=partition)
