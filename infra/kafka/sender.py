"""Sends records in their order. A record that the broker refuses does not hold up the records behind it."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import BrokerResponseError, KafkaTimeoutError
from aiokafka.structs import RecordMetadata

from infra.kafka.clients import create_producer, stop_producer
from infra.settings import Settings
from infra.waiting import waiting_for

__all__ = ["Outgoing", "Sender"]

_ANSWER_SECONDS = 60.0
_STOP_SECONDS = 5.0

_Delivery = asyncio.Future[RecordMetadata]


class Outgoing(NamedTuple):
    """One record to send. Without a key and a partition, the producer chooses any partition."""

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp: int | None = None  # milliseconds; None: now
    headers: tuple[tuple[str, bytes | None], ...] = ()
    to_every_partition: bool = False  # whether the caller is to send one such record to each partition
    partition: int | None = None  # None: the key chooses


class _Pending(NamedTuple):
    """A record that was given to the producer and is not yet reported."""

    number: int
    outgoing: Outgoing
    delivery: _Delivery


class Sender:
    """Sends as fast as the broker acknowledges, and reports each record as sent or refused.

    The broker refuses a batch for one record in it, and then all later batches of the partition, because the producer
    continues counting behind the refused batch. So after a refusal nothing new is sent until each record that failed
    has been sent again, in order, alone and by a new producer: then only the record at fault is refused.
    """

    def __init__(  # noqa: PLR0913 - one parameter a setting
        self,
        settings: Settings,
        client_id: str,
        on_sent: Callable[[int, Outgoing, RecordMetadata], None],
        on_refused: Callable[[int, BrokerResponseError], None],
        *,
        stop: asyncio.Event | None = None,
        large: bool = False,
    ) -> None:
        """Create a sender; the producer starts with the first record.

        Args:
            settings: where Kafka is.
            client_id: the producer's.
            on_sent: called with a record's number, the record and its metadata when the broker has acknowledged it.
            on_refused: called with a record's number and the error when the broker or the producer has refused it.
            stop: shortens the wait for acknowledgements to 5 s once it is set.
            large: allow records beyond the usual limit, as `create_producer` does.

        """
        self._settings = settings
        self._client_id = client_id
        self._on_sent = on_sent
        self._on_refused = on_refused
        self._stop = stop
        self._large = large
        self._producer: AIOKafkaProducer | None = None
        self._pending: deque[_Pending] = deque()
        self._failed = False

    async def start(self) -> None:
        """Start the producer, if there is none.

        Raises:
            KafkaError: when the cluster cannot be reached.

        """
        if self._producer is None:
            await self._renew()

    async def send(self, number: int, outgoing: Outgoing) -> None:
        """Give a record to the producer, under a number for the reports; return before the broker has acknowledged it.

        Raises:
            KafkaError: when the cluster cannot be reached, or an earlier record is not acknowledged.

        """
        if self._failed:
            await self.settle()
        try:
            delivery = await self._hand_over(outgoing)
        except BrokerResponseError as error:  # larger than the producer allows
            if not _is_refusal(error):
                raise
            self._on_refused(number, error)
            return
        delivery.add_done_callback(self._note_failure)
        self._pending.append(_Pending(number, outgoing, delivery))
        while self._pending and _is_acknowledged(self._pending[0].delivery):
            self._report_sent(self._pending.popleft())

    async def settle(self) -> None:
        """Wait until each record was acknowledged, or refused by itself.

        Acknowledged records are reported also when this raises; every other record is in doubt then.

        Raises:
            KafkaError: when a record is not acknowledged within 60 s (5 s after a stop), or fails without a refusal.

        """
        unanswered = await self._wait_for_answers([each.delivery for each in self._pending])
        failed = []
        while self._pending:
            pending = self._pending.popleft()
            if _is_acknowledged(pending.delivery):
                self._report_sent(pending)
            else:
                failed.append(pending)
        if unanswered:
            raise _timeout(unanswered)
        for pending in failed:
            error = pending.delivery.exception()
            if error is not None and not _is_refusal(error):
                raise error
        if failed:
            await self._renew()
        for pending in failed:
            await self._send_alone(pending)
        self._failed = False

    async def close(self) -> None:
        """Stop the producer, within 5 s."""
        await stop_producer(self._producer, _STOP_SECONDS)

    async def _send_alone(self, pending: _Pending) -> None:
        try:
            delivery = await self._hand_over(pending.outgoing)
            if await self._wait_for_answers([delivery]):
                raise _timeout(1)
            self._report_sent(pending._replace(delivery=delivery))
        except BrokerResponseError as error:
            if not _is_refusal(error):
                raise
            self._on_refused(pending.number, error)
            await self._renew()

    async def _hand_over(self, outgoing: Outgoing) -> _Delivery:
        await self.start()
        assert self._producer is not None  # noqa: S101 - started
        delivery: _Delivery = await self._producer.send(
            outgoing.topic,
            outgoing.value,
            outgoing.key,
            partition=outgoing.partition,
            timestamp_ms=outgoing.timestamp,
            headers=list(outgoing.headers),
        )
        return delivery

    async def _wait_for_answers(self, deliveries: Sequence[_Delivery]) -> int:
        """Return how many deliveries were not answered in time: an idempotent producer would wait without end."""
        if any(not each.done() for each in deliveries):
            answered = asyncio.create_task(asyncio.wait(deliveries))
            stopped = asyncio.create_task((self._stop or asyncio.Event()).wait())
            try:
                with waiting_for(f"Kafka at {self._settings.kafka_bootstrap_servers}", "acknowledging records"):
                    await asyncio.wait(
                        [answered, stopped], timeout=_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                    if stopped.done():
                        await asyncio.wait([answered], timeout=_STOP_SECONDS)
            finally:
                answered.cancel()
                stopped.cancel()
        return sum(not each.done() or each.cancelled() for each in deliveries)

    async def _renew(self) -> None:
        await self.close()
        self._producer = create_producer(self._settings, self._client_id, large=self._large)
        await self._producer.start()

    def _report_sent(self, pending: _Pending) -> None:
        self._on_sent(pending.number, pending.outgoing, pending.delivery.result())

    def _note_failure(self, delivery: _Delivery) -> None:
        self._failed = self._failed or not _is_acknowledged(delivery)


def _timeout(unanswered: int) -> KafkaTimeoutError:
    return KafkaTimeoutError(f"{unanswered} of the messages were not acknowledged in time: run the same command again")


def _is_acknowledged(delivery: _Delivery) -> bool:
    return delivery.done() and not delivery.cancelled() and delivery.exception() is None


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, BrokerResponseError) and not error.retriable
