"""Transactions that are open in a partition though no coordinator will end them: found, and ended.

A broker of 4.3 or 4.4 may note a transaction as complete without a marker in each of its partitions (KAFKA-20734). A
read_committed reader stops before such a transaction until the same producer ends another one there, or for good.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, LeaderNotAvailableError, for_code

from infra.clock import from_milliseconds
from infra.kafka.cluster_queries import ClusterQueries
from infra.kafka.transaction_requests import (
    describe_producers,
    describe_transactions,
    list_transactions,
    write_marker,
)

__all__ = ["TRANSACTION_STATE", "HangingTransaction", "end_transaction", "find_hanging_transactions"]

TRANSACTION_STATE: Final = "__transaction_state"  # leaders of its partitions coordinate transactions

_COMMITTED: Final = "CompleteCommit"
_COMPLETE: Final = {_COMMITTED, "CompleteAbort", "Empty"}


class HangingTransaction(NamedTuple):
    """A transaction that is open in a partition and that no coordinator will end."""

    place: TopicPartition
    start_offset: int
    since: datetime  # when its producer last wrote to the partition
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    transactional_id: str | None  # None: of no transactional id that this user may describe
    state: str | None  # of the id's last transaction, in its coordinator's words

    @property
    def is_committed(self) -> bool:
        """Whether its coordinator says that it is committed, so that only the marker is missing."""
        return self.state == _COMMITTED

    @property
    def is_complete(self) -> bool:
        """Whether its coordinator says that it is complete; otherwise only its age tells that it is not under way."""
        return self.state in _COMPLETE


class _Open(NamedTuple):
    """A transaction that is open in a partition, by its leader's word."""

    place: TopicPartition
    producer_id: int
    start_offset: int


class _Transaction(NamedTuple):
    """The last transaction of a transactional id, by its coordinator's word."""

    id: str
    state: str
    producer_epoch: int
    places: frozenset[TopicPartition]


async def find_hanging_transactions(lookup: ClusterQueries, topics: Sequence[str]) -> list[HangingTransaction]:
    """Return the hanging transactions in topics: open in a partition before and after their coordinators were asked.

    Needs READ on the topics and DESCRIBE on the transactional ids. A transaction of an id that this user may not
    describe looks as if no coordinator knew it: it is among the answer, without an id.

    Raises:
        KafkaError: when a broker does not answer, or does not let the user ask; when a coordinator is missing, whose
            transactions would look as if nobody knew them.

    """
    places = [place for topic in topics for place in lookup.partitions(topic)]
    if not (before := await _open_transactions(lookup, places)):
        return []
    coordinators = await _coordinators(lookup)
    known = await _transactions(lookup, sorted({each.producer_id for each in before}))
    if await _coordinators(lookup) != coordinators:
        raise LeaderNotAvailableError(f"leaders of {TRANSACTION_STATE} changed while they were asked: try again")
    after = await _open_transactions(lookup, sorted({each.place for each in before}))
    found = []
    for each in before.keys() & after.keys():
        (epoch, time, coordinator_epoch), transaction = after[each], known.get(each.producer_id)
        if transaction is not None and transaction.state not in _COMPLETE and each.place in transaction.places:
            continue  # under way, or its coordinator is about to end it
        same = transaction is not None and transaction.producer_epoch == epoch
        found.append(
            HangingTransaction(
                each.place,
                each.start_offset,
                from_milliseconds(time),
                each.producer_id,
                epoch,
                coordinator_epoch,
                transaction.id if transaction else None,
                transaction.state if transaction and same else None,
            )
        )
    return sorted(found)


async def end_transaction(lookup: ClusterQueries, hanging: HangingTransaction) -> bool:
    """Write the marker that a transaction lacks; return whether as committed, as its coordinator said, or as aborted.

    Needs ALTER or CLUSTER_ACTION on the cluster.

    Raises:
        KafkaError: when the leader does not answer or refuses.

    """
    (node,) = lookup.group_by_leader({hanging.place: 0})
    producer = (hanging.producer_id, hanging.producer_epoch)
    request = write_marker(hanging.place, producer, hanging.coordinator_epoch, committed=hanging.is_committed)
    answer = await lookup.send(node, request)
    code = next(row[1] for marker in answer.markers for topic in marker[1] for row in topic[1])
    if code:
        raise for_code(code)(f"the transaction in {hanging.place.topic} {hanging.place.partition} was not ended")
    return hanging.is_committed


async def _open_transactions(
    lookup: ClusterQueries, places: Sequence[TopicPartition]
) -> dict[_Open, tuple[int, int, int]]:
    """Return the open transactions in partitions, each with its producer's epoch, its time, its coordinator's epoch."""
    found = {}
    for node, asked in lookup.group_by_leader(dict.fromkeys(places, 0)).items():
        answer = await lookup.send(node, describe_producers(list(asked)))
        for topic, partitions, _ in answer.topics:
            for partition, error, _, producers, _ in partitions:
                _raise_for_code(error, f"the producers of {topic} {partition} are not known")
                for producer_id, epoch, _, time, coordinator_epoch, start, _ in producers:
                    if start >= 0:
                        place = _Open(TopicPartition(topic, partition), producer_id, start)
                        found[place] = (epoch, time, coordinator_epoch)
    return found


async def _coordinators(lookup: ClusterQueries) -> dict[int, dict[TopicPartition, int]]:
    """Return the brokers that coordinate transactions; none where this user may not describe their topic.

    A broker lists transactions only of the partitions that it leads, and says nothing of those that nobody leads.
    """
    await lookup.refresh()
    places = dict.fromkeys(lookup.partitions(TRANSACTION_STATE), 0)
    coordinators = lookup.group_by_leader(places)
    if missing := sorted(places.keys() - {place for led in coordinators.values() for place in led}):
        numbers = ", ".join(str(place.partition) for place in missing)
        raise LeaderNotAvailableError(
            f"nobody leads {TRANSACTION_STATE} {numbers}, so which transactions are under way is not known"
        )
    return coordinators


async def _transactions(lookup: ClusterQueries, producer_ids: Sequence[int]) -> Mapping[int, _Transaction]:
    """Return the last transaction of each producer that has a transactional id, by the number of the producer."""
    found = {}
    for node in lookup.brokers():
        listed = await lookup.send(node, list_transactions(producer_ids))
        _raise_for_code(listed.error_code, "transactions cannot be listed")
        ids = [row[0] for row in listed.transactions]
        described: Any = await lookup.send(node, describe_transactions(ids)) if ids else None
        for error, id_, state, _, _, producer_id, epoch, topics, _ in described.transactions if described else ():
            _raise_for_code(error, f"the transactions of {id_} are not known")
            places = frozenset(TopicPartition(name, number) for name, numbers, _ in topics for number in numbers)
            if producer_id in found and state in _COMPLETE:
                continue  # of two that call themselves its coordinator, believe the one that has it under way
            found[producer_id] = _Transaction(id_, state, epoch, places)
    return found


def _raise_for_code(code: int, words: str) -> None:
    if code:
        error: KafkaError = for_code(code)(words)
        raise error
