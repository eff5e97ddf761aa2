"""Kafka's requests about transactions that aiokafka does not have: who has one open where, its state, and its end."""

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from infra.kafka.cluster_queries import group_by_topic

__all__ = [
    "DescribeProducersRequest",
    "DescribeTransactionsRequest",
    "ListTransactionsRequest",
    "WriteMarkerRequest",
]

_DESCRIBE_PRODUCERS, _DESCRIBE_TRANSACTIONS, _LIST_TRANSACTIONS, _WRITE_MARKERS = 61, 65, 66, 27
_TAGS = ("tags", TaggedFields)
_TEXT = CompactString("utf-8")
_PARTITIONS = CompactArray(("name", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)


class _ProducersResponse(Response):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION = _DESCRIBE_PRODUCERS, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("start_offset", Int64),
                                _TAGS,
                            ),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _ProducersRequestStruct(RequestStruct):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION, FLEXIBLE_VERSION = _DESCRIBE_PRODUCERS, 0, True
    RESPONSE_TYPE = _ProducersResponse
    SCHEMA = Schema(("topics", _PARTITIONS), _TAGS)


class DescribeProducersRequest(Request[_ProducersRequestStruct]):  # type: ignore[misc] # aiokafka is untyped
    """Asks the leader of partitions which producers write to them."""

    API_KEY = _DESCRIBE_PRODUCERS

    def __init__(self, places: Sequence[TopicPartition]) -> None:
        self._topics = _by_topic(places)

    def build(self, request_struct_class: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Return the request in the one version there is."""
        return request_struct_class(self._topics, {})


class _ListResponse(Response):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION = _LIST_TRANSACTIONS, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_states", CompactArray(_TEXT)),
        ("transactions", CompactArray(("id", _TEXT), ("producer_id", Int64), ("state", _TEXT), _TAGS)),
        _TAGS,
    )


class _ListRequestStruct(RequestStruct):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION, FLEXIBLE_VERSION = _LIST_TRANSACTIONS, 0, True
    RESPONSE_TYPE = _ListResponse
    SCHEMA = Schema(("states", CompactArray(_TEXT)), ("producer_ids", CompactArray(Int64)), _TAGS)


class ListTransactionsRequest(Request[_ListRequestStruct]):  # type: ignore[misc] # aiokafka is untyped
    """Asks a broker which transactional ids producers have, of those that it coordinates and the user may describe."""

    API_KEY = _LIST_TRANSACTIONS

    def __init__(self, producer_ids: Sequence[int]) -> None:
        self._producer_ids = list(producer_ids)

    def build(self, request_struct_class: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Return the request in the version that every broker has."""
        return request_struct_class([], self._producer_ids, {})


class _StateResponse(Response):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION = _DESCRIBE_TRANSACTIONS, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            CompactArray(
                ("error_code", Int16),
                ("id", _TEXT),
                ("state", _TEXT),
                ("timeout_ms", Int32),
                ("start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("topics", _PARTITIONS),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _StateRequestStruct(RequestStruct):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION, FLEXIBLE_VERSION = _DESCRIBE_TRANSACTIONS, 0, True
    RESPONSE_TYPE = _StateResponse
    SCHEMA = Schema(("ids", CompactArray(_TEXT)), _TAGS)


class DescribeTransactionsRequest(Request[_StateRequestStruct]):  # type: ignore[misc] # aiokafka is untyped
    """Asks a coordinator for the state of the transactions of its transactional ids."""

    API_KEY = _DESCRIBE_TRANSACTIONS

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = list(ids)

    def build(self, request_struct_class: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Return the request in the one version there is."""
        return request_struct_class(self._ids, {})


class _MarkerResponse(Response):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION = _WRITE_MARKERS, 1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                (
                    "topics",
                    CompactArray(
                        ("name", _TEXT),
                        ("partitions", CompactArray(("partition", Int32), ("error_code", Int16), _TAGS)),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _MarkerRequestStruct(RequestStruct):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION, FLEXIBLE_VERSION = _WRITE_MARKERS, 1, True
    RESPONSE_TYPE = _MarkerResponse
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("committed", Boolean),
                ("topics", _PARTITIONS),
                ("coordinator_epoch", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class WriteMarkerRequest(Request[_MarkerRequestStruct]):  # type: ignore[misc] # aiokafka is untyped
    """Asks a leader to end a producer's transaction in a partition, as its coordinator would."""

    API_KEY = _WRITE_MARKERS

    def __init__(
        self, place: TopicPartition, producer: tuple[int, int], coordinator_epoch: int, *, committed: bool
    ) -> None:
        self._marker: tuple[Any, ...] = (*producer, committed, _by_topic([place]), max(coordinator_epoch, 0), {})

    def build(self, request_struct_class: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Return the request in a version that every broker from 4.0 on has."""
        return request_struct_class([self._marker], {})


def _by_topic(places: Sequence[TopicPartition]) -> list[tuple[str, list[int], Mapping[int, bytes]]]:
    grouped = group_by_topic((place, (place.partition,)) for place in places)
    return [(topic, [number for (number,) in rows], {}) for topic, rows in grouped]
