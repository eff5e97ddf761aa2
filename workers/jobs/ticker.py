"""The ticker: asks each partition's expiry lane, every few seconds, to book lots that have ended.

No decision depends on ticks: a lot is unavailable from its `expires_at` on, whether a tick has booked that or not. A
repeated, missing or late tick changes only when the expiry is booked.
"""

import asyncio
from typing import NoReturn
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from infra.clock import utc_now
from infra.first_of import run_until_first
from infra.kafka.clients import create_producer, stop_producer
from infra.kafka.permanent_errors import operator_hint
from infra.kafka.records import partition_counts
from infra.probes import serve_probes
from infra.settings import Settings
from schemas.catalogue import EXPIRY_TICKS
from schemas.envelope import EVENT_HEADERS, encode
from schemas.ticks import ExpiryTick, ExpiryTickData
from workers.telemetry.collectors import metrics_page, register_tick_interval
from workers.telemetry.health import Health
from workers.telemetry.server_wait import reach_server
from workers.telemetry.watchdog import watch_progress
from workers.telemetry.worker_metrics import WorkerMetrics

__all__ = ["run_ticker"]

UnderWay = dict[int, asyncio.Future[object]]  # the tick that a partition has not taken yet

_STOP_SECONDS = 2.0
_ROUND_SECONDS = 5.0  # for which a round waits for the partitions that take their tick late


async def run_ticker(settings: Settings, stop: asyncio.Event) -> None:
    """Publish a tick to every partition each `tick_seconds` until `stop` is set. Started without a broker, it waits.

    A stop does not wait for the tick being sent, which could wait for a broker without limit.

    Raises:
        NotSetUpError: when the topic of ticks does not exist.
        SettingsError: when the port for probes is not available.
        StuckError: when the ticker makes no progress for too long.
        KafkaError: when the brokers refuse the ticker's requests.

    """
    health = Health(settings.stuck_seconds + settings.tick_seconds, kept=WorkerMetrics("ticker"))
    register_tick_interval(health, settings.tick_seconds)
    answers, pages = {"/livez": health.livez, "/readyz": health.readyz}, {"/metrics": metrics_page(health)}
    async with serve_probes(settings, answers, pages):
        await run_until_first(
            _publish_ticks(settings, health), watch_progress(health), stop.wait(), cancel_seconds=2 * _STOP_SECONDS
        )


async def _publish_ticks(settings: Settings, health: Health) -> NoReturn:
    log = structlog.get_logger("inmail.ticker")

    async def reach_kafka() -> AIOKafkaProducer:
        health.polls()
        await partition_counts(settings, [EXPIRY_TICKS])  # aiokafka would wait for the topic for 40 s
        return await _start_producer(settings)

    producer: AIOKafkaProducer | None = await reach_server("Kafka", reach_kafka, health, log)
    under_way = UnderWay()
    health.joined()
    try:
        log.info("ticker_started", seconds=settings.tick_seconds)
        while True:
            health.polls()
            try:
                producer = producer or await _start_producer(settings)
                late = await _tick(producer, under_way)
            except KafkaError as error:
                if operator_hint(error) is not None:
                    raise
                health.serves("Kafka", repr(error))
                log.warning("tick_failed", error=repr(error), again_in_seconds=settings.tick_seconds)
                _forget(under_way)
                await stop_producer(producer, _STOP_SECONDS)
                producer = None  # an aiokafka producer may be unusable after an error
            else:
                # It is not given up for these: it sends them for as long as it takes, and so would the next one.
                health.serves("Kafka", f"partitions {late} of {EXPIRY_TICKS} take no tick" if late else None)
                if late:
                    log.warning("ticks_late", partitions=late, again_in_seconds=settings.tick_seconds)
            await asyncio.sleep(settings.tick_seconds)
    finally:
        _forget(under_way)
        await stop_producer(producer, _STOP_SECONDS)


async def _start_producer(settings: Settings) -> AIOKafkaProducer:
    producer = create_producer(settings, "inmail-ticker")
    try:
        await producer.start()
    except BaseException:
        await stop_producer(producer, _STOP_SECONDS)
        raise
    return producer


async def _tick(producer: AIOKafkaProducer, under_way: UnderWay) -> list[int]:
    """Send a tick to each partition that has taken its last one; return those that have not taken theirs in time.

    A partition that nobody leads, or that lacks replicas, keeps none of the others waiting.
    """
    now = utc_now()
    tick = ExpiryTick.create(id=uuid4(), source="/inmail-ticker", time=now, data=ExpiryTickData(as_of=now))
    value, headers = encode(tick), list(EVENT_HEADERS)
    for each in await producer.partitions_for(EXPIRY_TICKS) - under_way.keys():
        sending = producer.send_and_wait(EXPIRY_TICKS, value, partition=each, headers=headers)
        under_way[each] = asyncio.ensure_future(sending)
    sent, _ = await asyncio.wait(under_way.values(), timeout=_ROUND_SECONDS)
    for partition, sending in list(under_way.items()):
        if sending in sent:
            del under_way[partition]
    errors = [error for sending in sent if (error := sending.exception()) is not None]
    if errors:
        raise errors[0]
    return sorted(under_way)


def _forget(under_way: UnderWay) -> None:
    """Give up the ticks that are under way: their producer is."""
    for sending in under_way.values():
        sending.cancel()
    under_way.clear()
