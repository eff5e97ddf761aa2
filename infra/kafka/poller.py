"""Polling the partitions of one consumer so that an error of one of them costs the others nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

__all__ = ["POLL_SECONDS", "Fetched", "Polled", "Poller"]

POLL_SECONDS = 0.02
_ALONE_SECONDS = 60.0  # for so long after a failed poll, partitions are polled one by one

Fetched = Mapping[TopicPartition, Sequence[ConsumerRecord]]


class Polled(NamedTuple):
    """The result of a poll: records by partition, none of which has no record, and the partitions that failed."""

    records: Fetched
    failed: Mapping[TopicPartition, KafkaError]


class Poller:
    """Polls partitions together; for a while after a poll that failed, one by one.

    A poll that fails loses what it had drained of other partitions, so all of them have to seek again. Polled one by
    one, only the partitions that fail do.
    """

    def __init__(self, consumer: AIOKafkaConsumer, timed: Callable[[Awaitable[Fetched]], Awaitable[Fetched]]) -> None:
        """Take the consumer, and what awaits a poll and counts its time."""
        self._consumer = consumer
        self._timed = timed
        self._alone_until = 0.0

    async def poll(self, partitions: Sequence[TopicPartition]) -> Polled:
        """Wait up to `POLL_SECONDS` for records of some partitions.

        Never cancel this: aiokafka's consumer does not survive a cancelled poll whole.
        """
        alone = monotonic() < self._alone_until
        polled = await (self._poll_each(partitions) if alone else self._poll_together(partitions))
        if polled.failed:
            self._alone_until = monotonic() + _ALONE_SECONDS
        return polled

    async def _poll_together(self, partitions: Sequence[TopicPartition]) -> Polled:
        try:
            return Polled(await self._fetch(*partitions, milliseconds=int(POLL_SECONDS * 1000)), {})
        except KafkaError as error:
            structlog.get_logger("inmail.worker").warning("poll_failed", error=repr(error))
            return Polled({}, dict.fromkeys(partitions, error))

    async def _poll_each(self, partitions: Sequence[TopicPartition]) -> Polled:
        records: dict[TopicPartition, Sequence[ConsumerRecord]] = {}
        failed: dict[TopicPartition, KafkaError] = {}
        for tp in partitions:
            try:
                records.update(await self._fetch(tp, milliseconds=0))
            except KafkaError as error:
                structlog.get_logger("inmail.worker").warning("poll_failed", partition=tp.partition, error=repr(error))
                failed[tp] = error
        await asyncio.sleep(POLL_SECONDS)
        return Polled(records, failed)

    async def _fetch(self, *partitions: TopicPartition, milliseconds: int) -> Fetched:
        return await self._timed(self._consumer.getmany(*partitions, timeout_ms=milliseconds))
