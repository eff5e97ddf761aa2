"""Polls the partitions of one consumer, so that an error of one partition does not affect the others."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from infra.kafka.fetch_pace import FetchPace
from infra.retry import describe_error

__all__ = ["POLL_SECONDS", "Fetched", "Polled", "Poller"]

POLL_SECONDS = 0.02
_QUIET_SECONDS = 0.2
_ALONE_SECONDS = 60.0  # partitions are polled one by one for this time after a failed poll

Fetched = Mapping[TopicPartition, Sequence[ConsumerRecord]]


class Polled(NamedTuple):
    """The result of a poll: the records of partitions that have any, and the partitions that failed."""

    records: Fetched
    failed: Mapping[TopicPartition, KafkaError]


class Poller:
    """Polls partitions together; for 60 s after a failed poll, one by one.

    A failed poll loses the records that it had fetched from other partitions, so all partitions have to seek again.
    Polled one by one, only the partitions that fail have to.
    """

    def __init__(self, consumer: AIOKafkaConsumer, timed: Callable[[Awaitable[Fetched]], Awaitable[Fetched]]) -> None:
        """Create a poller of a consumer; `timed` awaits each fetch and counts its time."""
        self._consumer = consumer
        self._timed = timed
        self._alone_until = 0.0
        self._pace = FetchPace(consumer.change_fetch_wait)

    async def poll(self, partitions: Sequence[TopicPartition], *, are_all: bool = True) -> Polled:
        """Wait for records of partitions: up to `POLL_SECONDS`, ten times as long if they are all and little comes.

        Never cancel a poll: aiokafka's consumer may lose records then.
        """
        seconds = _QUIET_SECONDS if are_all and self._pace.is_waiting else POLL_SECONDS
        alone = monotonic() < self._alone_until
        polled = await (self._poll_each(partitions) if alone else self._poll_together(partitions, seconds))
        if polled.failed:
            self._alone_until = monotonic() + _ALONE_SECONDS
        else:
            self._pace.count(sum(map(len, polled.records.values())))
        return polled

    def expect_records(self) -> None:
        """Answer the next polls soon, whatever came before."""
        self._pace.gather()

    async def _poll_together(self, partitions: Sequence[TopicPartition], seconds: float) -> Polled:
        try:
            return Polled(await self._fetch(*partitions, milliseconds=round(seconds * 1000)), {})
        except KafkaError as error:
            topics = sorted({place.topic for place in partitions})
            structlog.get_logger("inmail.worker").warning("poll_failed", topics=topics, error=describe_error(error))
            return Polled({}, dict.fromkeys(partitions, error))

    async def _poll_each(self, partitions: Sequence[TopicPartition]) -> Polled:
        records: dict[TopicPartition, Sequence[ConsumerRecord]] = {}
        failed: dict[TopicPartition, KafkaError] = {}
        for tp in partitions:
            try:
                records.update(await self._fetch(tp, milliseconds=0))
            except KafkaError as error:
                structlog.get_logger("inmail.worker").warning(
                    "poll_failed", topic=tp.topic, partition=tp.partition, error=describe_error(error)
                )
                failed[tp] = error
        await asyncio.sleep(POLL_SECONDS)
        return Polled(records, failed)

    async def _fetch(self, *partitions: TopicPartition, milliseconds: int) -> Fetched:
        return await self._timed(self._consumer.getmany(*partitions, timeout_ms=milliseconds))
