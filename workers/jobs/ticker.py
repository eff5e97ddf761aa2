"""The ticker: asks each partition's expiry lane, every few seconds, to book what has ended.

Nothing depends on it being on time, or on there being one: availability is a predicate, and a tick repeated, missed
or late changes nothing that matters.
"""

import asyncio
from typing import NoReturn
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from infra.clock import utc_now
from infra.kafka.clients import create_producer, remedy
from infra.kafka.records import partition_counts
from infra.probes import probes
from infra.settings import Settings
from schemas.catalogue import EXPIRY_TICKS
from schemas.envelope import encode
from schemas.ticks import ExpiryTick, ExpiryTickData
from workers.telemetry.collectors import page
from workers.telemetry.health import Health
from workers.telemetry.watchdog import watch_progress
from workers.telemetry.worker_metrics import WorkerMetrics

__all__ = ["run_ticker"]

_STOP_SECONDS = 2.0


async def run_ticker(settings: Settings, stop: asyncio.Event) -> None:
    """Publish a tick to every partition each `tick_seconds` until `stop` is set.

    A tick under way when it is has no claim to be finished: without a broker it would wait for one.

    Raises:
        NotSetUpError: when there is no topic of ticks.
        SettingsError: when its port for probes cannot be had.
        StuckError: when it does not come round for too long.
        KafkaError: when no broker can be reached at the start, or they refuse for good.

    """
    health = Health(settings.stuck_seconds + settings.tick_seconds, kept=WorkerMetrics("ticker"))
    answers, pages = {"/livez": health.livez, "/readyz": health.readyz}, {"/metrics": page(health)}
    async with probes(settings, answers, pages):
        ticking = asyncio.create_task(_tick_on(settings, health))
        watch = asyncio.create_task(watch_progress(health))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([ticking, watch, stopped], return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in (ticking, watch) if task.done()]
        for task in (ticking, watch, stopped):
            task.cancel()
        await asyncio.wait([ticking], timeout=2 * _STOP_SECONDS)
    for task in ended:
        task.result()


async def _tick_on(settings: Settings, health: Health) -> NoReturn:
    log = structlog.get_logger("inmail.ticker")
    await partition_counts(settings, [EXPIRY_TICKS])  # aiokafka would look for it for 40 s
    producer = await _started(settings)
    health.joined()
    try:
        log.info("ticker_started", seconds=settings.tick_seconds)
        while True:
            health.polls()
            try:
                producer = producer or await _started(settings)
                partitions = await _tick(producer)
            except KafkaError as error:
                if remedy(error) is not None:
                    raise
                health.serves("Kafka", repr(error))
                log.warning("tick_failed", error=repr(error), again_in_seconds=settings.tick_seconds)
                await _stop(producer)
                producer = None  # aiokafka's may be of no more use for good
            else:
                health.serves("Kafka", None)
                log.debug("ticked", partitions=partitions)
            await asyncio.sleep(settings.tick_seconds)
    finally:
        await _stop(producer)


async def _started(settings: Settings) -> AIOKafkaProducer:
    producer = create_producer(settings, "inmail-ticker")
    await producer.start()
    return producer


async def _stop(producer: AIOKafkaProducer | None) -> None:
    """Stop. Bounded: it would wait for a broker to take what is on its way."""
    if producer is not None:
        await asyncio.wait([asyncio.create_task(producer.stop())], timeout=_STOP_SECONDS)


async def _tick(producer: AIOKafkaProducer) -> int:
    now = utc_now()
    tick = ExpiryTick.create(id=uuid4(), source="/inmail-ticker", time=now, data=ExpiryTickData(as_of=now))
    partitions = await producer.partitions_for(EXPIRY_TICKS)
    for partition in partitions:
        await producer.send_and_wait(EXPIRY_TICKS, encode(tick), partition=partition)
    return len(partitions)
