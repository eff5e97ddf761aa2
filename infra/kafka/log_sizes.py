"""Reads how many bytes each partition has on its leader's disk (KIP-113). aiokafka lacks this request."""

import asyncio
from collections.abc import Collection
from typing import Final

from aiokafka import TopicPartition
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Int64, String

from infra.kafka.cluster_queries import ClusterQueries, group_by_topic
from infra.kafka.raw_requests import RawRequest, request_struct

__all__ = ["fetch_log_sizes"]

_PARTITIONS: Final = Array(("partition", Int32), ("size", Int64), ("offset_lag", Int64), ("is_future", Boolean))
_TOPICS: Final = Array(("topic", String("utf-8")), ("partitions", _PARTITIONS))
_DESCRIBE_LOG_DIRS: Final = request_struct(
    "DescribeLogDirs",
    35,
    1,  # the oldest that Kafka 4 knows
    [("topics", Array(("topic", String("utf-8")), ("partitions", Array(Int32))))],
    [
        ("throttle_time_ms", Int32),
        ("results", Array(("error_code", Int16), ("log_dir", String("utf-8")), ("topics", _TOPICS))),
    ],
    flexible=False,
)


async def fetch_log_sizes(queries: ClusterQueries, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the bytes of partitions on their leaders, without those that this user may not ask for.

    A broker answers only who may describe the cluster; to anybody else it names no partition.

    Raises:
        KafkaError: when a broker does not answer.

    """

    async def ask(node: int, asked: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        topics = group_by_topic((place, (place.partition,)) for place in asked)
        request = RawRequest(_DESCRIBE_LOG_DIRS, [(topic, [number for (number,) in rows]) for topic, rows in topics])
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
