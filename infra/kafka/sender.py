"""Sending records in their order, where one that the broker refuses costs no other its place."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import BrokerResponseError, KafkaTimeoutError

from infra.kafka.clients import create_producer, stop_producer
from infra.settings import Settings

__all__ = ["Outgoing", "Sender"]

_FLUSH_SECONDS = 60.0
_STOP_SECONDS = 5.0


class Outgoing(NamedTuple):
    """One record to send. Without a key it goes to every partition if it is a tick, to any one otherwise."""

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp: int | None = None  # milliseconds; None: now
    headers: tuple[tuple[str, bytes | None], ...] = ()
    to_every_partition: bool = False


class _Handed(NamedTuple):
    """A record that the producer has, until it is settled."""

    number: int
    outgoing: Outgoing
    partition: int | None
    delivery: "asyncio.Future[Any]"


class Sender:
    """Sends as fast as the broker takes it; tells of each record, in order, that it was taken, or why not.

    The broker refuses a batch for one record in it, and after that whatever comes to the partition, because the
    producer goes on counting behind the batch. So at a refusal nothing new is sent until what failed has been sent
    again, in its order, one by one and by a new producer: then only the record that is at fault fails.
    """

    def __init__(
        self, settings: Settings, client_id: str, taken: Callable[[str], None], refused: Callable[[int, str], None]
    ) -> None:
        """Take a client id for the producer, and whom to tell of a topic's record or of a refused record's number."""
        self._settings = settings
        self._client_id = client_id
        self._taken = taken
        self._refused = refused
        self._producer: AIOKafkaProducer | None = None
        self._handed: deque[_Handed] = deque()
        self._failed = False

    async def send(self, number: int, outgoing: Outgoing, partition: int | None = None) -> None:
        """Send a record; a number to tell of it by. Returns before it has arrived.

        Raises:
            KafkaError: when the cluster cannot be reached, or refuses all.

        """
        if self._failed:
            await self.settle()
        try:
            delivery = await self._hand_over(outgoing, partition)
        except BrokerResponseError as error:  # larger than the producer lets out
            if error.retriable:
                raise
            self._refused(number, f"refused: {error}")
            return
        delivery.add_done_callback(self._look_at)
        self._handed.append(_Handed(number, outgoing, partition, delivery))
        while self._handed and _arrived(self._handed[0].delivery):
            self._taken(self._handed.popleft().outgoing.topic)

    async def settle(self) -> None:
        """Wait until each record was taken, or refused by itself.

        Raises:
            KafkaError: when that is not to be had in time.

        """
        pending = [each.delivery for each in self._handed if not each.delivery.done()]
        if pending:
            _, late = await asyncio.wait(pending, timeout=_FLUSH_SECONDS)
            if late:
                raise KafkaTimeoutError(f"the last records were not acknowledged within {_FLUSH_SECONDS:.0f} s")
        if self._failed:
            await self._renew()
        while self._handed:
            first = self._handed.popleft()
            if _arrived(first.delivery):
                self._taken(first.outgoing.topic)
            else:
                await self._alone(first)
        self._failed = False

    async def close(self) -> None:
        """Stop the producer, within 5 s."""
        await stop_producer(self._producer, _STOP_SECONDS)

    async def _alone(self, handed: _Handed) -> None:
        try:
            delivery = await self._hand_over(handed.outgoing, handed.partition)
            await asyncio.wait_for(delivery, _FLUSH_SECONDS)
        except BrokerResponseError as error:
            if error.retriable:
                raise
            self._refused(handed.number, f"refused: {error!r}")
            await self._renew()
        else:
            self._taken(handed.outgoing.topic)

    async def _hand_over(self, outgoing: Outgoing, partition: int | None) -> "asyncio.Future[Any]":
        if self._producer is None:
            await self._renew()
        assert self._producer is not None  # noqa: S101 - renewed
        delivery: asyncio.Future[Any] = await self._producer.send(
            outgoing.topic,
            outgoing.value,
            outgoing.key,
            partition=partition,
            timestamp_ms=outgoing.timestamp,
            headers=list(outgoing.headers),
        )
        return delivery

    async def _renew(self) -> None:
        await self.close()
        self._producer = create_producer(self._settings, self._client_id)
        await self._producer.start()

    def _look_at(self, delivery: "asyncio.Future[Any]") -> None:
        self._failed = self._failed or not _arrived(delivery)


def _arrived(delivery: "asyncio.Future[Any]") -> bool:
    return delivery.done() and not delivery.cancelled() and delivery.exception() is None
