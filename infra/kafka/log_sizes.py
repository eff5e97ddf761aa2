"""Reads how many bytes each partition has on its leader's disk (KIP-113). aiokafka lacks this request."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Int64, Schema, String

from infra.kafka.cluster_queries import ClusterQueries, group_by_topic

__all__ = ["fetch_log_sizes"]

_DESCRIBE_LOG_DIRS: Final = 35
_VERSION: Final = 1  # the oldest that Kafka 4 knows


class _LogDirsResponse(Response):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION = _DESCRIBE_LOG_DIRS, _VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            Array(
                ("error_code", Int16),
                ("log_dir", String("utf-8")),
                (
                    "topics",
                    Array(
                        ("topic", String("utf-8")),
                        (
                            "partitions",
                            Array(("partition", Int32), ("size", Int64), ("offset_lag", Int64), ("is_future", Boolean)),
                        ),
                    ),
                ),
            ),
        ),
    )


class _LogDirsRequestStruct(RequestStruct):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION = _DESCRIBE_LOG_DIRS, _VERSION
    RESPONSE_TYPE = _LogDirsResponse
    SCHEMA = Schema(("topics", Array(("topic", String("utf-8")), ("partitions", Array(Int32)))))


class _LogDirsRequest(Request[_LogDirsRequestStruct]):  # type: ignore[misc] # aiokafka is untyped
    API_KEY = _DESCRIBE_LOG_DIRS

    def __init__(self, topics: Sequence[tuple[str, list[int]]]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Return the request in its only version."""
        return request_struct_class(self._topics)


async def fetch_log_sizes(queries: ClusterQueries, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the bytes of partitions on their leaders, without those that this user may not ask for.

    A broker answers only who may describe the cluster; to anybody else it names no partition.

    Raises:
        KafkaError: when a broker does not answer.

    """

    async def ask(node: int, asked: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        topics = group_by_topic((place, (place.partition,)) for place in asked)
        request = _LogDirsRequest([(topic, [number for (number,) in rows]) for topic, rows in topics])
        answer = await queries.send(node, request)
        return {
            TopicPartition(topic, partition): size
            for _, _, found in answer.results
            for topic, partitions in found
            for partition, size, _, is_future in partitions
            if not is_future
        }

    parts = queries.group_by_leader(dict.fromkeys(places, 0)).items()
    answers = await asyncio.gather(*(ask(node, asked) for node, asked in parts))
    return {place: size for answer in answers for place, size in answer.items()}
