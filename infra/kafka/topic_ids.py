"""Reads the ids of topics, and what a user may do with topics (KIP-516, KIP-430).

A topic that was deleted and created again under its name has another id. aiokafka has only older versions of the
metadata request, without ids. This module defines the version with ids in aiokafka's types.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Final, NamedTuple
from uuid import UUID

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.types import Boolean, CompactArray, Int16, Int32

from infra.kafka.raw_requests import BROKERS, TEXT, RawRequest, request_struct, table

__all__ = ["DescribedTopic", "describe_topics", "fetch_topic_ids", "topic_ids"]

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


_PARTITIONS: Final = table(
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", CompactArray(Int32)),
    ("isr", CompactArray(Int32)),
    ("offline_replicas", CompactArray(Int32)),
)
_TOPICS: Final = table(
    ("error_code", Int16),
    ("topic", TEXT),
    ("topic_id", _Uuid),
    ("is_internal", Boolean),
    ("partitions", _PARTITIONS),
    ("authorized_operations", Int32),
)
_METADATA: Final = request_struct(
    "Metadata",
    3,
    11,
    [
        ("topics", table(("topic_id", _Uuid), ("topic", TEXT))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
    ],
    [
        ("throttle_time_ms", Int32),
        ("brokers", BROKERS),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        ("topics", _TOPICS),
    ],
)


def _metadata_request(topics: Sequence[str], *, operations: bool = False) -> RawRequest:
    """Return a request for topics by name, which does not create topics."""
    return RawRequest(_METADATA, [(_NO_ID, topic, {}) for topic in topics], False, operations)


async def fetch_topic_ids(client: AIOKafkaClient, topics: Sequence[str]) -> dict[str, UUID]:
    """Return the ids of topics through an open client, without topics that do not exist.

    Raises:
        KafkaError: when a broker does not answer or does not know an id now. It may know the id later.

    """
    answer = await client.send(client.get_random_node(), _metadata_request(topics))
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
    answer = await client.send(client.get_random_node(), _metadata_request(topics, operations=True))
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
