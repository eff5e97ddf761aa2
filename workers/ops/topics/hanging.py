"""Transactions that hang in our topics: listed, and ended on record."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aiokafka.errors import TopicAuthorizationFailedError

from infra.kafka.cluster_queries import ClusterQueries, open_cluster_queries
from infra.kafka.hanging_transactions import HangingTransaction, end_transaction, find_hanging_transactions
from infra.settings import Settings
from schemas.catalogue import OUTPUT_TOPICS, TOPICS
from workers.ops.operations import Intent, OngoingOperation, Operator, recorded_operation
from workers.topology import GROUP_OF

__all__ = ["VERB", "describe_hanging", "end_hanging", "find_hanging", "list_hanging", "ours_of"]

VERB: Final = "end-transactions"
OFFSETS: Final = "__consumer_offsets"
_OUR_IDS: Final = tuple(f"{group}." for group in GROUP_OF.values())


async def list_hanging(settings: Settings) -> list[HangingTransaction]:
    """Return the transactions that hang in our topics, and those of our workers among committed offsets.

    Raises:
        KafkaError: when a broker does not answer, or does not let the user ask.

    """
    async with open_cluster_queries(settings) as lookup:
        return await find_hanging(lookup)


async def find_hanging(lookup: ClusterQueries) -> list[HangingTransaction]:
    """Return the same through an open client. Whoever may not read `__consumer_offsets` is not told of those there.

    Raises:
        KafkaError: when a broker does not answer, or does not let the user ask.

    """
    hanging = await find_hanging_transactions(lookup, TOPICS)
    with suppress(TopicAuthorizationFailedError):
        offsets = await find_hanging_transactions(lookup, [OFFSETS])
        hanging += [each for each in offsets if each.transactional_id and each.transactional_id.startswith(_OUR_IDS)]
    return hanging


def ours_of(hanging: Sequence[HangingTransaction]) -> list[HangingTransaction]:
    """Return those that were left by our workers: only workers write to result topics in transactions."""
    return [each for each in hanging if each.place.topic in (*OUTPUT_TOPICS, OFFSETS)]


def describe_hanging(hanging: HangingTransaction) -> str:
    """Return in words where a transaction hangs, since when, whose it is and what its coordinator says."""
    whose = hanging.transactional_id or "a producer whose transactional id is not known"
    says = f", whose coordinator says {hanging.state}" if hanging.state else ""
    return (
        f"{hanging.place.topic} {hanging.place.partition} from offset {hanging.start_offset}:"
        f" a transaction of {whose}{says}, last written {hanging.since:%Y-%m-%d %H:%M:%SZ}"
    )


async def end_hanging(settings: Settings, hanging: Sequence[HangingTransaction], who: Operator) -> OngoingOperation:
    """Write the markers that transactions of our workers lack, on record; return the operation.

    Raises:
        RefusedError: when the same is under way.
        KafkaError, OSError, asyncpg.PostgresError: when a server does not answer or refuses.

    """
    plan = {"transactions": [describe_hanging(each) for each in hanging]}
    async with recorded_operation(settings, Intent(VERB, *who, {}, plan)) as operation:
        operation.result |= {"committed": 0, "aborted": 0}
        async with open_cluster_queries(settings) as lookup:
            for each in hanging:
                committed = await end_transaction(lookup, each)
                operation.result["committed" if committed else "aborted"] += 1
                await operation.save_progress()
    return operation
