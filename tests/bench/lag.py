"""`lag`: how long the observer looks at 2,000 partitions, in each of which a group has something unread that moves.

Beside it, what its questions cost when nothing is unread: an observer that is paid for by what is wrong.
"""

import asyncio
from collections.abc import Awaitable, Callable
from statistics import median
from time import monotonic, process_time

from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from prometheus_client import CollectorRegistry, generate_latest

from infra.kafka.clients import admin_client, create_producer, partitions_of, reader
from infra.kafka.cluster_queries import LATEST, open_cluster_queries
from infra.local.stack import LocalStack
from infra.settings import Settings
from tests.bench.books import Databases, stack_settings
from tests.bench.figures import Figure
from workers.ops.lag import LagObserver, observer
from workers.ops.lag.exposition import LagCollector

__all__ = ["run"]

TOPICS, PARTITIONS, RECORDS, LOOKS = 20, 100, 10, 5
_MADE_SECONDS = 120.0  # that the broker takes at most for 2,000 partitions

Places = list[TopicPartition]


async def run(stack: LocalStack, _: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return what a look takes, on the clock and of this process's CPU, and how long the first one with a past does."""
    settings = stack_settings(stack, "postgres")
    report(f"lag: making {TOPICS * PARTITIONS:,} partitions")
    places = await _prepare(settings)
    report("lag: looking")
    names = [f"bench-lag-{topic}" for topic in range(TOPICS)]
    async with observer(settings, names, books=False) as found:
        offset = 1
        await _commit(settings, places, offset)
        began = monotonic()
        await found.refresh()
        first = monotonic() - began
        report(f"lag: first look, with the past, {first:.1f} s")

        async def move() -> None:
            nonlocal offset
            offset += 1
            await _commit(settings, places, offset)

        moving = await _looks(found, move)
        assert sum(group.records for group in found.groups) == len(places) * (RECORDS - offset)
        scrape = _scrape(found)
        await _commit(settings, places, RECORDS)
        idle = await _looks(found, _nothing)
        assert sum(group.records for group in found.groups) == 0
    rate = len(places) * 60 / moving[0]
    details = {"partitions": len(places), "groups": TOPICS, "first_look_seconds": first, "scrape_cpu_seconds": scrape}
    return [
        Figure("lag, a look at moving partitions", moving[0], "s", idle[0], moving[0] / idle[0], details),
        Figure("lag, CPU of it", moving[1], "s", idle[1], moving[1] / idle[1], {}),
        Figure("lag, partitions a minute, looking all the time", rate, "1/min", None, None, {}),
        Figure("lag, CPU of a scrape of it", scrape, "s", None, None, {}),
        Figure("lag, the first look, with the past", first, "s", None, None, {}),
    ]


async def _looks(found: LagObserver, before: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Return the medians of what looks take, in seconds of the clock and of CPU."""
    clock, cpu = [], []
    for _ in range(LOOKS):
        await before()
        began, used = monotonic(), process_time()
        await found.refresh()
        clock.append(monotonic() - began)
        cpu.append(process_time() - used)
    return median(clock), median(cpu)


def _scrape(found: LagObserver) -> float:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LagCollector(found))
    used = process_time()
    generate_latest(registry)
    return process_time() - used


async def _nothing() -> None:
    """Leave everything as it is."""


async def _prepare(settings: Settings) -> Places:
    places = [place for topic in range(TOPICS) for place in partitions_of(f"bench-lag-{topic}", PARTITIONS)]
    async with admin_client(settings) as admin:
        for topic in range(TOPICS):
            await admin.create_topics([NewTopic(f"bench-lag-{topic}", PARTITIONS, 1)])
    async with open_cluster_queries(settings) as asked, asyncio.timeout(_MADE_SECONDS):
        while len(await asked.offsets(dict.fromkeys(places, LATEST))) < len(places):
            await asyncio.sleep(0.5)  # the broker makes their logs one by one
            await asked.refresh()
    async with create_producer(settings, "bench") as producer:
        sent = [
            await producer.send(place.topic, b"x" * 200, partition=place.partition)
            for place in places
            for _ in range(RECORDS)
        ]
        await asyncio.gather(*sent)
    return places


async def _commit(settings: Settings, places: Places, offset: int) -> None:
    for topic in range(TOPICS):
        mine = [place for place in places if place.topic == f"bench-lag-{topic}"]
        async with reader(settings, f"bench-lag-{topic}") as consumer:
            consumer.assign(mine)
            await consumer.commit(dict.fromkeys(mine, offset))
