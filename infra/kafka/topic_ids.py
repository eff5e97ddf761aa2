"""Reads the ids of topics, and what a user may do with topics (KIP-516, KIP-430).

A topic that was deleted and created again under its name has another id. aiokafka has only older versions of the
metadata request, without ids. This module defines the version with ids in aiokafka's types.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple
from uuid import UUID

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

__all__ = ["DescribedTopic", "describe_topics", "fetch_topic_ids", "topic_ids"]

_METADATA, _VERSION = 3, 11
_NO_ID = UUID(int=0)


class _Uuid(AbstractType[UUID]):  # type: ignore[misc] # aiokafka is untyped
    """A UUID of sixteen bytes on the wire."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        """Return the bytes of an id."""
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        """Read an id."""
        return UUID(bytes=data.read(16))


class _MetadataResponse(Response):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION = _METADATA, _VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataRequestStruct(RequestStruct):  # type: ignore[misc] # aiokafka is untyped
    API_KEY, API_VERSION, FLEXIBLE_VERSION = _METADATA, _VERSION, True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequestStruct]):  # type: ignore[misc] # aiokafka is untyped
    """A request for topics by name, which does not create topics."""

    API_KEY = _METADATA

    def __init__(self, topics: Sequence[str], *, operations: bool = False) -> None:
        self._topics: list[tuple[UUID, str, dict[int, bytes]]] = [(_NO_ID, topic, {}) for topic in topics]
        self._operations = operations

    def build(self, request_struct_class: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Return the request in its only version."""
        return request_struct_class(self._topics, False, self._operations, {})


async def fetch_topic_ids(client: AIOKafkaClient, topics: Sequence[str]) -> dict[str, UUID]:
    """Return the ids of topics through an open client, without topics that do not exist.

    Raises:
        KafkaError: when a broker does not answer or does not know an id now. It may know the id later.

    """
    answer = await client.send(client.get_random_node(), _MetadataRequest(topics))
    found = {}
    for error, topic, topic_id, *_ in answer.topics:
        if for_code(error) is UnknownTopicOrPartitionError:
            continue
        if error:
            raise for_code(error)(f"the id of {topic} is not known")
        if topic_id != _NO_ID:
            found[topic] = topic_id
    return found


class DescribedTopic(NamedTuple):
    """What the cluster says of a topic."""

    replicas: int  # of the partition with the fewest
    leaderless: tuple[int, ...]  # partitions that nobody leads
    lagging: tuple[int, ...]  # partitions of which a replica is not in sync
    behind: tuple[int, ...]  # the brokers that hold such replicas
    operations: int | None  # that the user may do, as bits; None: the user may not even describe it


async def describe_topics(client: AIOKafkaClient, topics: Sequence[str]) -> dict[str, DescribedTopic]:
    """Return what the cluster says of topics; without topics that do not exist.

    Raises:
        KafkaError: when a broker does not answer.

    """
    answer = await client.send(client.get_random_node(), _MetadataRequest(topics, operations=True))
    found = {}
    for error, topic, _, _, partitions, operations, _ in answer.topics:
        if for_code(error) is TopicAuthorizationFailedError:
            found[topic] = DescribedTopic(0, (), (), (), None)
        elif not error:
            found[topic] = DescribedTopic(
                min(len(each[4]) for each in partitions),
                tuple(sorted(each[1] for each in partitions if each[2] < 0)),
                tuple(sorted(each[1] for each in partitions if len(each[5]) < len(each[4]))),
                tuple(sorted({node for each in partitions for node in set(each[4]) - set(each[5])})),
                operations,
            )
    return found


async def topic_ids(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> dict[str, UUID]:
    """Return the ids of topics through an admin client; see `fetch_topic_ids`."""
    return await fetch_topic_ids(admin._client, topics)  # noqa: SLF001 - there is no other way
