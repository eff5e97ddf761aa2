"""A transaction of a worker's that its coordinator ends without one of its markers."""

from typing import Final

from aiokafka import TopicPartition

from infra.kafka.clients import create_lane_producer
from infra.settings import Settings
from schemas.catalogue import CREDIT_EVENTS, SEND_RESULTS

__all__ = ["LENIENT", "leave_marker_out", "leave_offset_marker_out"]

# With this the broker does not refuse records of a transaction in a partition of which its coordinator does not know.
LENIENT: Final = {"transaction.partition.verification.enable": "false"}


async def leave_marker_out(settings: Settings, *, commit: bool) -> TopicPartition:
    """End a transaction, and return the partition in which it stays open.

    As a broker of 4.3 does for a partition without a leader: the coordinator here does not know of the partition.
    """
    number = settings.topic_partitions - 1
    place, known = TopicPartition(SEND_RESULTS, number), TopicPartition(CREDIT_EVENTS, number)
    producer = create_lane_producer(settings, "inmail-send.left.0")
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(known.topic, b"known", partition=number)
    producer._txn_manager._txn_partitions.add(place)
    await producer.send_and_wait(place.topic, b"left", partition=number)
    await (producer.commit_transaction() if commit else producer.abort_transaction())
    await producer.stop()
    return place


async def leave_offset_marker_out(settings: Settings, group: str, place: TopicPartition, offset: int) -> None:
    """Commit a group's offset in a transaction whose coordinator does not know that offsets are part of it."""
    known = TopicPartition(CREDIT_EVENTS, 0)
    producer = create_lane_producer(settings, "inmail-send.left.1")
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(known.topic, b"known", partition=known.partition)
    producer._txn_manager._txn_consumer_group = group
    await producer.send_offsets_to_transaction({place: offset}, group)
    await producer.commit_transaction()
    await producer.stop()
