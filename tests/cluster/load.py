"""Sends at a steady rate to accounts of every partition, and billing events beside them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle

from aiokafka import AIOKafkaProducer

from infra.kafka.clients import create_producer
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from schemas.envelope import Event, encode
from tests.workers.life import in_partition
from tests.workers.wire import promotion, send

__all__ = ["Published", "load"]

_ACCOUNTS = 20  # of each partition: the catalogue limits one account's paid sends in 24 hours
_CREDITS = 1_000_000
_SENDS_A_PROMOTION = 50


@dataclass(slots=True)
class Published:
    """The ids of the events that were published, by topic, and what they grant to whom."""

    sends: list[str] = field(default_factory=list)
    billing: list[str] = field(default_factory=list)
    accounts: int = 0
    credits: int = 0  # of all billing events


@asynccontextmanager
async def load(settings: Settings, rate: float) -> AsyncIterator[Published]:
    """Publish `rate` sends a second until left, all of them acknowledged then; yield what was published so far.

    One producer, which waits for all replicas and repeats nothing: what it does while a broker is away is what any
    client of Kafka does.
    """
    numbers = range(settings.topic_partitions)
    accounts = [in_partition(settings, number) for _ in range(_ACCOUNTS) for number in numbers]
    published, stop = Published(accounts=len(accounts)), asyncio.Event()

    async def run() -> None:
        deliveries: list[asyncio.Future[object]] = []
        async with create_producer(settings, "cluster-load") as producer:
            deliveries += [await _grant(producer, account, _CREDITS, published) for account in accounts]
            clock = asyncio.get_running_loop().time
            due = clock()
            for number, account in enumerate(cycle(accounts)):
                deliveries.append(await _publish(producer, SEND_REQUESTS, send(account), published))
                if number % _SENDS_A_PROMOTION == 0:
                    deliveries.append(await _grant(producer, account, 1, published))
                due += 1 / rate
                if stop.is_set():
                    break
                await asyncio.wait([asyncio.create_task(asyncio.sleep(max(0.0, due - clock())))])
            await asyncio.gather(*deliveries)

    running = asyncio.create_task(run())
    try:
        yield published
    finally:
        stop.set()
        await running


async def _grant(
    producer: AIOKafkaProducer, account: str, credits_: int, published: Published
) -> "asyncio.Future[object]":
    published.credits += credits_
    return await _publish(producer, BILLING_EVENTS, promotion(account, credits_), published)


async def _publish(
    producer: AIOKafkaProducer, topic: str, event: Event, published: Published
) -> "asyncio.Future[object]":
    ids = published.sends if topic == SEND_REQUESTS else published.billing
    ids.append(str(event.id))
    delivery: asyncio.Future[object] = await producer.send(topic, encode(event), event.subject.encode())
    return delivery
