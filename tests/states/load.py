"""A steady, modest load: paid and free sends of a few accounts, and now and then credits for one of them."""

import asyncio
from collections import deque
from collections.abc import Iterator
from itertools import count
from random import Random

from aiokafka import AIOKafkaProducer

from infra.kafka.clients import create_producer
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from schemas.envelope import Event, encode
from tests.workers.wire import promotion, send

__all__ = ["Load"]

_ACCOUNTS = 200
_UNANSWERED = 100
_CREDITS_EACH = 20  # requests: so that the billing worker has something to read as well


class Load:
    """Publishes so many requests a second, until stopped; it can rest."""

    def __init__(self, settings: Settings, rate: float) -> None:
        self._settings = settings
        self._rate = rate
        self._dice = Random(7)  # noqa: S311 - a workload
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    def rest(self) -> None:
        """Publish nothing for now."""
        self._goes_on.clear()

    def go_on(self) -> None:
        """Publish again."""
        self._goes_on.set()

    async def run(self) -> None:
        """Publish until cancelled, no faster after a rest."""
        async with create_producer(self._settings, "states-load") as producer:
            for account in range(_ACCOUNTS):
                await _publish(producer, promotion(f"member-{account}", 1_000_000))
            await self._steadily(producer)

    async def _steadily(self, producer: AIOKafkaProducer) -> None:
        requests, clock = self._requests(), asyncio.get_running_loop().time
        due, sent = clock(), deque[asyncio.Future[object]](maxlen=_UNANSWERED)
        for number in count():
            await self._goes_on.wait()
            if len(sent) == _UNANSWERED:
                await sent[0]
            sent.append(await _sent(producer, next(requests)))
            if number % _CREDITS_EACH == 0:
                sent.append(await _sent(producer, promotion(self._account(), 1)))
            due = max(due + 1 / self._rate, clock() - 1)
            await asyncio.sleep(max(0.0, due - clock()))

    async def burst(self, records: int) -> None:
        """Publish so many requests at once."""
        requests = self._requests()
        async with create_producer(self._settings, "states-burst") as producer:
            for _ in range(records // 1000):
                await asyncio.gather(*[await _sent(producer, next(requests)) for _ in range(1000)])

    async def nonsense(self, records: int) -> None:
        """Publish so many records to the send worker that nobody can decode."""
        async with create_producer(self._settings, "states-nonsense") as producer:
            await asyncio.gather(
                *[await producer.send(SEND_REQUESTS, b"nonsense", f"member-{each}".encode()) for each in range(records)]
            )

    def _account(self) -> str:
        return f"member-{self._dice.randrange(_ACCOUNTS)}"

    def _requests(self) -> Iterator[Event]:
        for number in count():
            relationship = "none" if self._dice.random() < 0.8 else "connection"
            recipient = f"recipient-{self._dice.randrange(1_000_000)}-{number}"
            yield send(self._account(), recipient_id=recipient, relationship=relationship)


async def _sent(producer: AIOKafkaProducer, event: Event) -> "asyncio.Future[object]":
    topic = BILLING_EVENTS if event.type_name() == "inmail.promotion.granted.v1" else SEND_REQUESTS
    sent: asyncio.Future[object] = await producer.send(topic, encode(event), (event.subject or "").encode())
    return sent


async def _publish(producer: AIOKafkaProducer, event: Event) -> None:
    await (await _sent(producer, event))
