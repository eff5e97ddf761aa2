"""Creates Kafka clients with the arguments that this system needs.

aiokafka's defaults favour fresh data over complete data; a comment gives the reason for each other argument.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    NoBrokersAvailable,
    NoError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.partitioner import murmur2
from aiokafka.protocol.group import LeaveGroupRequest

from infra.kafka import lenient_headers
from infra.kafka.aiokafka_fixes import Consumer, ConsumerLostError, LaneProducer, Producer
from infra.kafka.connecting import complete_request, protect_bootstrap
from infra.kafka.fetch_pace import GATHERING
from infra.kafka.shard_assignor import ShardAssignor
from infra.settings import Settings

__all__ = [
    "NotSetUpError",
    "admin_client",
    "committed_offsets",
    "count_partitions",
    "create_consumer",
    "create_lane_producer",
    "create_producer",
    "leave_group",
    "partition_of",
    "partitions_of",
    "reader",
    "stop_producer",
]

lenient_headers.install()

MAX_RECORD_BYTES = 4 * 1024 * 1024  # a dead letter holds a refused record of up to 1 MiB as base64, and its reason

_NAMELESS_SECONDS, _AGAIN_SECONDS = 10.0, 0.5  # the longest wait for a broker's name, and the time between two requests


class NotSetUpError(Exception):
    """Kafka or Postgres lacks something that an `inmail` command creates. The message names the command."""


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key by murmur2, as Java's and aiokafka's default partitioners choose it.

    Cached, because accounts recur and murmur2 in Python costs more than the rest of a result.
    """
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def create_consumer(
    settings: Settings, group: str, rebalance_seconds: float, assignor: ShardAssignor | None = None
) -> AIOKafkaConsumer:
    """Return the consumer of a worker's group, which never commits or resets an offset by itself.

    Without an assignor it offers the group aiokafka's protocol alone, as a worker of the version before does.
    """
    return Consumer(
        assignor,
        **settings.kafka_client(),
        group_id=group,
        client_id=group,
        enable_auto_commit=False,
        auto_offset_reset="none",  # a lost offset is an operator's decision, not a jump to the end
        isolation_level="read_committed",
        session_timeout_ms=round(settings.session_seconds * 1000),
        heartbeat_interval_ms=round(settings.session_seconds * 1000 / 10),
        # Members whose partitions are revoked need time to drain before the group continues without them.
        rebalance_timeout_ms=round(rebalance_seconds * 1000),
        # The lanes watch their own progress; this check stops for good after one failed poll.
        max_poll_interval_ms=24 * 3600 * 1000,
        # One fetch serves all partitions of a broker, so a short wait soon fetches a partition again that was drained.
        fetch_min_bytes=GATHERING.bytes,
        fetch_max_wait_ms=GATHERING.milliseconds,
        max_partition_fetch_bytes=256 * 1024,
        # The broker checks CRCs on arrival, and TCP protects the transfer; another check costs 3% of a worker.
        check_crcs=False,
    )


def create_lane_producer(settings: Settings, transactional_id: str) -> AIOKafkaProducer:
    """Return one of a lane's transactional producers. Its start fences any earlier owner of the id."""
    return LaneProducer(
        **settings.kafka_client(),
        client_id=transactional_id,
        transactional_id=transactional_id,
        transaction_timeout_ms=round(settings.transaction_seconds * 1000),
        # A broker usually answers the start of a transaction with a retriable error; the default back-off is 100 ms.
        retry_backoff_ms=5,
        max_batch_size=1024 * 1024,
        max_request_size=MAX_RECORD_BYTES,
    )


def create_producer(settings: Settings, client_id: str, *, large: bool = False) -> AIOKafkaProducer:
    """Return an ordinary producer: idempotent, acknowledged by all replicas, partitioned by key with murmur2.

    With `large` it compresses, and sends records up to 4 MiB: such a record may have arrived compressed.
    """
    return Producer(
        **settings.kafka_client(),
        client_id=client_id,
        acks="all",
        enable_idempotence=True,
        linger_ms=5,
        max_batch_size=256 * 1024,
        **({"compression_type": "gzip", "max_request_size": MAX_RECORD_BYTES} if large else {}),
    )


async def stop_producer(producer: AIOKafkaProducer | None, seconds: float) -> None:
    """Stop a producer, if any, and wait at most `seconds`: aiokafka waits without end for a lost broker."""
    if producer is not None:
        await asyncio.wait([asyncio.ensure_future(producer.stop())], timeout=seconds)


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Open an admin client and close it afterwards.

    A broker that has just restarted names no broker, not even itself, until its controller knows about it. aiokafka's
    consumers and producers ask again; its admin client would send the first request to "node id None".

    Raises:
        KafkaError: when the cluster cannot be reached, or has named no broker for 10 seconds.

    """
    client = AIOKafkaAdminClient(**settings.kafka_client(), client_id="inmail-admin")
    protect_bootstrap(client._client)  # noqa: SLF001 - there is no other way
    try:
        await client.start()
        await _wait_for_brokers(client._client)  # noqa: SLF001 - there is no other way
        yield client
    finally:
        await client.close()


async def _wait_for_brokers(client: AIOKafkaClient) -> None:
    try:
        async with asyncio.timeout(_NAMELESS_SECONDS):
            while not client.cluster.brokers():
                await asyncio.sleep(_AGAIN_SECONDS)
                await client.force_metadata_update()
    except TimeoutError as error:
        raise NoBrokersAvailable("the cluster names no broker that runs") from error


@asynccontextmanager
async def reader(
    settings: Settings,
    group: str | None = None,
    isolation_level: str = "read_committed",
    *,
    wait_ms: int = 500,
    partition_bytes: int = MAX_RECORD_BYTES,
) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a consumer that reads without joining a group, and never commits by itself.

    A broker without new records answers a fetch after `wait_ms`, and answers no other request of this consumer before.
    It sends at most `partition_bytes` of a partition at once, and at least one record. One that is lost raises a
    KafkaConnectionError: no worker's own consumer has to be replaced for it.
    """
    consumer = Consumer(
        **settings.kafka_client(),
        group_id=group,
        client_id="inmail-reader",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=isolation_level,
        fetch_max_wait_ms=wait_ms,
        max_partition_fetch_bytes=partition_bytes,
    )
    await consumer.start()
    try:
        yield consumer
    except ConsumerLostError as error:
        raise KafkaConnectionError(f"the connection of a reader was lost: {error}") from error
    finally:
        await consumer.stop()


async def committed_offsets(
    admin: AIOKafkaAdminClient, group: str, places: Sequence[TopicPartition]
) -> dict[TopicPartition, int | None]:
    """Return a group's committed offsets; None for a partition without one.

    A consumer's `committed()` also returns None while the group's coordinator loads or moves, because aiokafka ignores
    that error. A broker that knows the answer names every requested partition, with -1 for none.

    Raises:
        TopicAuthorizationFailedError: when the user may not describe one of the topics.
        KafkaError: when the offsets are not known now. They may be known later.

    """
    try:
        found = await admin.list_consumer_group_offsets(group, partitions=list(places))
    except NoError as error:
        # What aiokafka 0.14.0 raises where a partition has an error: that of the answer as a whole, which has none.
        # Brokers give a partition one only where its topic may not be described.
        raise TopicAuthorizationFailedError(f"the offsets of group {group} may not be read: {error.args[0]}") from error
    if missing := [place for place in places if place not in found]:
        raise GroupCoordinatorNotAvailableError(f"the offsets of group {group} on {missing[0].topic} are not known yet")
    return {place: found[place].offset if found[place].offset >= 0 else None for place in places}


async def leave_group(admin: AIOKafkaAdminClient, group: str, node: int, member: str) -> None:
    """Let a member leave its group through another client: its own has to wait until the group lets it in.

    Raises:
        KafkaError: when the coordinator does not answer, or refuses.

    """
    client = admin._client  # noqa: SLF001 - there is no other way
    response = await complete_request(client, client.send(node, LeaveGroupRequest(group, member)))
    error = for_code(response.error_code)
    if error not in (NoError, UnknownMemberIdError):
        raise error


async def count_partitions(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> dict[str, int]:
    """Return the number of partitions of each topic, through an open client.

    Raises:
        NotSetUpError: when a topic does not exist.

    """
    # A request for all topics: a broker may create a topic that is requested by name.
    rows = await admin.describe_topics()
    found = {row["topic"]: len(row["partitions"]) for row in rows if row["error_code"] == 0}
    missing = [topic for topic in topics if topic not in found]
    if missing:
        raise NotSetUpError(f"Kafka has no topic {', '.join(missing)}: run `inmail topics apply`")
    return {topic: found[topic] for topic in topics}


def partitions_of(topic: str, count: int) -> list[TopicPartition]:
    """Return the partitions of a topic that has `count` of them."""
    return [TopicPartition(topic, number) for number in range(count)]
