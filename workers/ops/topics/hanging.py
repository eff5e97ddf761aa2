"""Transactions that hang in our topics: listed, and ended on record."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from aiokafka.errors import TopicAuthorizationFailedError

from infra.clock import utc_now
from infra.kafka.cluster_queries import ClusterQueries, open_cluster_queries
from infra.kafka.hanging_transactions import (
    TRANSACTION_STATE,
    HangingTransaction,
    end_transaction,
    find_hanging_transactions,
)
from infra.settings import Settings
from schemas.catalogue import BALANCES, OUTPUT_TOPICS
from workers.ops.operations import Intent, OngoingOperation, Operator, RefusedError, recorded_operation
from workers.topology import GROUP_OF, topics_of

__all__ = [
    "VERB",
    "describe_hanging",
    "end_hanging",
    "find_hanging",
    "list_hanging",
    "may_be_live",
    "ours_of",
    "still_hanging",
]

VERB: Final = "end-transactions"
OFFSETS: Final = "__consumer_offsets"
# A worker's transaction lasts at most the 120 s that INMAIL_TRANSACTION_SECONDS may be, and its coordinator looks for
# those whose time is up every 10 s. The rest is for clocks that differ. Nothing makes this shorter.
_LIVE: Final = timedelta(minutes=5)
_OUR_IDS: Final = tuple(f"{group}." for group in GROUP_OF.values())


async def list_hanging(settings: Settings) -> list[HangingTransaction]:
    """Return the transactions that hang in our topics, and those of our workers among committed offsets.

    Raises:
        KafkaError: when a broker does not answer, or does not let the user ask.

    """
    async with open_cluster_queries(settings) as lookup:
        return await find_hanging(lookup, settings)


async def find_hanging(lookup: ClusterQueries, settings: Settings) -> list[HangingTransaction]:
    """Return the same through an open client. Whoever may not read `__consumer_offsets` is not told of those there.

    Raises:
        KafkaError: when a broker does not answer, or does not let the user ask.

    """
    hanging = await find_hanging_transactions(lookup, topics_of(settings))
    with suppress(TopicAuthorizationFailedError):
        offsets = await find_hanging_transactions(lookup, [OFFSETS])
        hanging += [each for each in offsets if each.transactional_id and each.transactional_id.startswith(_OUR_IDS)]
    return hanging


def ours_of(hanging: Sequence[HangingTransaction]) -> list[HangingTransaction]:
    """Return those that were left by our workers: only workers write to result topics in transactions."""
    return [each for each in hanging if each.place.topic in (*OUTPUT_TOPICS, BALANCES, OFFSETS)]


def may_be_live(hanging: HangingTransaction) -> bool:
    """Return whether a transaction may be under way: its coordinator does not say that it is complete, and it is young.

    A coordinator that loads, or that this user may not ask, says nothing of a transaction that a worker will still end.
    """
    return not hanging.is_complete and utc_now() - hanging.since < _LIVE


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

    Which transactions hang is asked again: only those are ended that still do, and lack the same marker. None is ended
    that may be live.

    Raises:
        RefusedError: when the same is under way; when this user is not shown who coordinates transactions.
        KafkaError, OSError, asyncpg.PostgresError: when a server does not answer or refuses.

    """
    plan = {"transactions": [describe_hanging(each) for each in hanging]}
    async with recorded_operation(settings, Intent(VERB, *who, {}, plan)) as operation:
        operation.result |= {"committed": 0, "aborted": 0, "left": len(hanging)}
        async with open_cluster_queries(settings) as lookup:
            if not lookup.partitions(TRANSACTION_STATE):
                raise RefusedError(
                    f"{TRANSACTION_STATE} is not visible: grant DESCRIBE on it, or live ones may be ended"
                )
            for each in still_hanging(hanging, await find_hanging(lookup, settings)):
                committed = await end_transaction(lookup, each)
                operation.result["committed" if committed else "aborted"] += 1
                operation.result["left"] -= 1
                await operation.save_progress()
    return operation


def still_hanging(
    listed: Sequence[HangingTransaction], found: Sequence[HangingTransaction]
) -> list[HangingTransaction]:
    """Return those of the found transactions that may be ended: listed before with the same marker, and not live."""
    known = {_identity(each) for each in listed}
    return [each for each in ours_of(found) if _identity(each) in known and not may_be_live(each)]


def _identity(hanging: HangingTransaction) -> tuple[object, ...]:
    return (
        hanging.place,
        hanging.producer_id,
        hanging.producer_epoch,
        hanging.start_offset,
        hanging.is_committed,
    )
