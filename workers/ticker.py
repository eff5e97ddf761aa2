"""The ticker: asks each partition's expiry lane, every few seconds, to book what has ended.

Nothing depends on it being on time, or on there being one: availability is a predicate, and a tick repeated, missed
or late changes nothing that matters.
"""

import asyncio
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from infra.clock import utc_now
from infra.kafka import create_producer
from infra.settings import Settings
from schemas.catalogue import EXPIRY_TICKS
from schemas.envelope import encode
from schemas.ticks import ExpiryTick, ExpiryTickData

__all__ = ["run_ticker"]


async def run_ticker(settings: Settings, stop: asyncio.Event) -> None:
    """Publish a tick to every partition each `tick_seconds` until `stop` is set."""
    log = structlog.get_logger("inmail.ticker")
    async with create_producer(settings, "inmail-ticker") as producer:
        log.info("ticker_started", seconds=settings.tick_seconds)
        while not stop.is_set():
            try:
                partitions = await _tick(producer)
                log.debug("ticked", partitions=partitions)
            except KafkaError as error:
                log.warning("tick_failed", error=repr(error), again_in_seconds=settings.tick_seconds)
            try:
                await asyncio.wait_for(stop.wait(), settings.tick_seconds)
            except TimeoutError:
                continue


async def _tick(producer: AIOKafkaProducer) -> int:
    now = utc_now()
    tick = ExpiryTick.create(id=uuid4(), source="/inmail-ticker", time=now, data=ExpiryTickData(as_of=now))
    partitions = await producer.partitions_for(EXPIRY_TICKS)
    for partition in partitions:
        await producer.send_and_wait(EXPIRY_TICKS, encode(tick), partition=partition)
    return len(partitions)
