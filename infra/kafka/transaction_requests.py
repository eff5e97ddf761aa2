"""Kafka's requests about transactions that aiokafka does not have: who has one open where, its state, and its end.

Each is in the oldest version, which every broker from 4.0 on has.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from aiokafka import TopicPartition
from aiokafka.protocol.types import Boolean, CompactArray, Int16, Int32, Int64

from infra.kafka.cluster_queries import group_by_topic
from infra.kafka.raw_requests import TEXT, RawRequest, request_struct, table

__all__ = ["describe_producers", "describe_transactions", "list_transactions", "write_marker"]

_PARTITIONS: Final = table(("name", TEXT), ("partitions", CompactArray(Int32)))
_PRODUCERS: Final = table(
    ("producer_id", Int64),
    ("producer_epoch", Int32),
    ("last_sequence", Int32),
    ("last_timestamp", Int64),
    ("coordinator_epoch", Int32),
    ("start_offset", Int64),
)
_OF_PARTITIONS: Final = table(
    ("partition", Int32), ("error_code", Int16), ("error_message", TEXT), ("producers", _PRODUCERS)
)
_DESCRIBE_PRODUCERS: Final = request_struct(
    "DescribeProducers",
    61,
    0,
    [("topics", _PARTITIONS)],
    [("throttle_time_ms", Int32), ("topics", table(("name", TEXT), ("partitions", _OF_PARTITIONS)))],
)
_LIST_TRANSACTIONS: Final = request_struct(
    "ListTransactions",
    66,
    0,
    [("states", CompactArray(TEXT)), ("producer_ids", CompactArray(Int64))],
    [
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_states", CompactArray(TEXT)),
        ("transactions", table(("id", TEXT), ("producer_id", Int64), ("state", TEXT))),
    ],
)
_TRANSACTIONS: Final = table(
    ("error_code", Int16),
    ("id", TEXT),
    ("state", TEXT),
    ("timeout_ms", Int32),
    ("start_time_ms", Int64),
    ("producer_id", Int64),
    ("producer_epoch", Int16),
    ("topics", _PARTITIONS),
)
_DESCRIBE_TRANSACTIONS: Final = request_struct(
    "DescribeTransactions",
    65,
    0,
    [("ids", CompactArray(TEXT))],
    [("throttle_time_ms", Int32), ("transactions", _TRANSACTIONS)],
)
_MARKERS: Final = table(
    ("producer_id", Int64),
    ("producer_epoch", Int16),
    ("committed", Boolean),
    ("topics", _PARTITIONS),
    ("coordinator_epoch", Int32),
)
_WRITTEN: Final = table(("name", TEXT), ("partitions", table(("partition", Int32), ("error_code", Int16))))
_WRITE_MARKERS: Final = request_struct(
    "WriteTxnMarkers",
    27,
    1,
    [("markers", _MARKERS)],
    [("markers", table(("producer_id", Int64), ("topics", _WRITTEN)))],
)


def describe_producers(places: Sequence[TopicPartition]) -> RawRequest:
    """Return what asks the leader of partitions which producers write to them."""
    return RawRequest(_DESCRIBE_PRODUCERS, _by_topic(places))


def list_transactions(producer_ids: Sequence[int]) -> RawRequest:
    """Return what asks a broker for producers' transactional ids: those it coordinates and the user may describe."""
    return RawRequest(_LIST_TRANSACTIONS, [], list(producer_ids))


def describe_transactions(ids: Sequence[str]) -> RawRequest:
    """Return what asks a coordinator for the state of the transactions of its transactional ids."""
    return RawRequest(_DESCRIBE_TRANSACTIONS, list(ids))


def write_marker(
    place: TopicPartition, producer: tuple[int, int], coordinator_epoch: int, *, committed: bool
) -> RawRequest:
    """Return what asks a leader to end a producer's transaction in a partition, as its coordinator would.

    Args:
        place: the partition.
        producer: its id and epoch.
        coordinator_epoch: of its coordinator, as the partition knows it.
        committed: whether the transaction is committed; otherwise it is aborted.

    """
    return RawRequest(_WRITE_MARKERS, [(*producer, committed, _by_topic([place]), max(coordinator_epoch, 0), {})])


def _by_topic(places: Sequence[TopicPartition]) -> list[tuple[str, list[int], Mapping[int, bytes]]]:
    grouped = group_by_topic((place, (place.partition,)) for place in places)
    return [(topic, [number for (number,) in rows], {}) for topic, rows in grouped]
