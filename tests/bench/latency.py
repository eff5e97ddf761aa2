"""`latency_at_1000`: from a producer's send to a read_committed reader's receipt, at a steady 1,000 requests a second.

As a user runs it: the default number of partitions, all three workers and the ticker up, and billing events at 20 a
second beside the sends. Each process is one of its own; the producer and the consumer of the results share this one,
so that one clock measures both ends. The producer waits for all replicas, as it should, and sends each request as it
comes. The baseline is `relay.py`: one transaction for all partitions as ours, and nothing decided. Afterwards the same
processes stand idle for a while, and what that costs is told in percent of a core.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from infra.kafka.clients import create_producer, partitions_of, reader
from infra.local.stack import LocalStack
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import encode
from schemas.sends import SendRequested
from tests.bench.books import PARTITIONS, Databases, gift, sends, stack_settings
from tests.bench.cpu import CpuMeter
from tests.bench.draining import Form, input_ends, running, set_offsets
from tests.bench.figures import Figure, of_rounds, order_of
from tests.bench.relay import GROUP as RELAY_GROUP
from workers.local.processes import WorkerProcesses
from workers.ops.topics.plan import apply_topics, plan_topics
from workers.topology import GROUP_OF

__all__ = [
    "A_SECOND",
    "SECONDS",
    "START_REQUESTS",
    "WARM_SECONDS",
    "Measured",
    "all_workers",
    "measure",
    "measure_all",
    "pass_over",
    "receive",
    "run",
    "send_evenly",
    "share",
    "wait_for_answers",
]

A_SECOND = int(os.environ.get("BENCH_A_SECOND", "1000"))  # requests; fewer where a machine has no room for so many
BILLING_A_SECOND = 20
ROUNDS = 3
SECONDS = 20  # of a round
WARM_SECONDS = 5  # of them, not counted: caches fill
START_REQUESTS = 200  # some in each partition, that a program answers before a round begins
START_SECONDS = 60.0  # for them, at most
IDLE_SECONDS = 10
LATE_SECONDS = 30.0  # after the last request, at most

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
_RELAY = Form(RELAY_GROUP, ["-m", "tests.bench.relay"])
_OUTPUT = partitions_of(SEND_RESULTS, PARTITIONS)


class Measured(NamedTuple):
    """What a round took: each request's wait in milliseconds, CPU a send by process, and CPU of standing idle."""

    waits: list[float]
    cpu: dict[str, float]  # microseconds a send
    idle: float  # percent of a core


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return latencies, CPU a send and CPU of an idle system."""
    settings = stack_settings(stack, "postgres")
    await apply_topics(settings, await plan_topics(settings))
    ours: list[Measured] = []
    relayed: list[Measured] = []
    for number in range(1, ROUNDS + 1):
        report(f"latency_at_1000: round {number} of {ROUNDS}, {A_SECOND:,} requests a second for {SECONDS} s, twice")
        requests = sends(A_SECOND * SECONDS, seed=2_000 + number)
        for is_ours, found in order_of(number, ((False, relayed), (True, ours))):
            async with databases.one() as books:
                await set_offsets(books, RELAY_GROUP, await input_ends(books))
                await pass_over(books)
                program = all_workers(books) if is_ours else _relay(books)
                found.append(await measure_all(stack, books, program, requests))
    details: dict[str, object] = {"requests": len(ours[0].waits), "partitions": PARTITIONS}
    latencies = [
        of_rounds(
            f"latency_at_1000, {name} (relay)",
            "ms",
            [share(each.waits, at) for each in ours],
            [share(each.waits, at) for each in relayed],
            details,
        )
        for name, at in _SHARES.items()
    ]
    cpu = [[sum(each.cpu.values()) for each in form] for form in (ours, relayed)]
    by_process: dict[str, object] = {"cpu_us": [each.cpu for each in ours], "relay_us": [each.cpu for each in relayed]}
    idle = [[each.idle for each in form] for form in (ours, relayed)]
    return [
        *latencies,
        of_rounds("latency_at_1000, CPU (relay)", "us/send", *cpu, by_process),
        of_rounds("idle, CPU (relay)", "% of a core", *idle, {}),
    ]


def share(waits: Sequence[float], at: float) -> float:
    """Return the quantile of waits at a share of them, in thousandths."""
    return quantiles(waits, n=1000)[round(at * 1000) - 1]


async def pass_over(books: Settings) -> None:
    """Move the workers' groups to the ends of their topics, and these books with them."""
    for topic in (SEND_REQUESTS, BILLING_EVENTS, EXPIRY_TICKS):
        places = partitions_of(topic, PARTITIONS)
        async with reader(books) as consumer:
            ends = dict(await consumer.end_offsets(places))
        await set_offsets(books, GROUP_OF[topic], ends)


@asynccontextmanager
async def _relay(books: Settings) -> AsyncIterator[dict[str, int]]:
    async with running(_RELAY, books) as process:
        yield {"relay": process.pid}


@asynccontextmanager
async def all_workers(books: Settings) -> AsyncIterator[dict[str, int]]:
    """Run all workers and the ticker as processes of their own; give the id of each."""
    with TemporaryDirectory() as folder:
        workers = WorkerProcesses(books, Path(folder))
        workers.start()
        try:
            yield {name: process.pid for name, process in workers.running.items()}
        finally:
            await asyncio.to_thread(workers.stop)


async def measure(books: Settings, form: Form, requests: list[SendRequested]) -> list[float]:
    """Return how long each request took with one program alone, in milliseconds and in their order."""
    sent: dict[str, float] = {}
    waits: dict[str, float] = {}
    async with AsyncExitStack() as clients:
        consumer = await clients.enter_async_context(reader(books))
        consumer.assign(_OUTPUT)
        await consumer.seek_to_end(*_OUTPUT)
        producer = await clients.enter_async_context(create_producer(books, "bench"))
        async with running(form, books):
            await wait_for_answers(producer, consumer, sends(START_REQUESTS, seed=1))
            sending = asyncio.create_task(send_evenly(producer, requests, sent))
            async with asyncio.timeout(SECONDS + LATE_SECONDS):
                await receive(consumer, sent, waits, len(requests))
            await sending
    return [waits[str(request.id)] for request in requests]


async def measure_all(
    stack: LocalStack,
    books: Settings,
    program: AbstractAsyncContextManager[dict[str, int]],
    requests: list[SendRequested],
    idle_seconds: float = IDLE_SECONDS,
) -> Measured:
    """Return what requests took beside billing events with a program that decides, and its time of standing idle."""
    sent: dict[str, float] = {}
    waits: dict[str, float] = {}
    async with AsyncExitStack() as clients:
        consumer = await clients.enter_async_context(reader(books))
        consumer.assign(_OUTPUT)
        await consumer.seek_to_end(*_OUTPUT)
        producer = await clients.enter_async_context(create_producer(books, "bench"))
        async with program as processes:
            # A request waits for gifts before it: its answer shows that the billing worker has joined its group too.
            first = sends(START_REQUESTS, seed=1)
            for request in first:
                await _give(producer, request)
            await wait_for_answers(producer, consumer, first)
            trees = {**processes, "postgres": stack.postgres_pid, "kafka": stack.kafka_pid}
            warm = A_SECOND * WARM_SECONDS
            sending = asyncio.create_task(send_evenly(producer, requests, sent))
            billing = asyncio.create_task(_bill(producer, requests))
            async with asyncio.timeout(SECONDS + LATE_SECONDS):
                await receive(consumer, sent, waits, warm)
                meter = CpuMeter(trees)
                await receive(consumer, sent, waits, len(requests))
            await asyncio.gather(sending, billing)
            cpu = meter.microseconds_each(len(requests) - warm)
            idle = await _idle(trees, idle_seconds) if idle_seconds else 0.0
    return Measured([waits[str(request.id)] for request in requests[warm:]], cpu, idle)


async def _idle(trees: dict[str, int], seconds: float) -> float:
    await asyncio.sleep(1)  # until the last commits are written
    meter, began = CpuMeter(trees), perf_counter()
    await asyncio.sleep(seconds)
    return sum(meter.microseconds_each(1).values()) / 1e4 / (perf_counter() - began)


async def wait_for_answers(
    producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, requests: list[SendRequested]
) -> None:
    """Wait until a program answers in all partitions: what came while it started would wait, and hold up what follows.

    Raises:
        TimeoutError: it does not.

    """
    sent: dict[str, float] = {}
    for request in requests:
        sent[str(request.id)] = perf_counter()
        await producer.send(SEND_REQUESTS, encode(request), request.subject.encode())
    async with asyncio.timeout(START_SECONDS):
        await receive(consumer, sent, {}, len(requests))


async def send_evenly(
    producer: AIOKafkaProducer, requests: Sequence[SendRequested], sent: dict[str, float], a_second: int = A_SECOND
) -> None:
    """Send requests evenly; note when each was due, so that a sender that falls behind hides nothing."""
    began = perf_counter()
    for number, request in enumerate(requests):
        due = began + number / a_second
        if (ahead := due - perf_counter()) > 0:
            await asyncio.sleep(ahead)
        sent[str(request.id)] = due
        await producer.send(SEND_REQUESTS, encode(request), request.subject.encode())
    await producer.flush()


async def _bill(producer: AIOKafkaProducer, requests: Sequence[SendRequested]) -> None:
    """Give credits to accounts of the requests, evenly."""
    for request in requests[:: A_SECOND // BILLING_A_SECOND]:
        await _give(producer, request)
        await asyncio.sleep(1 / BILLING_A_SECOND)


async def _give(producer: AIOKafkaProducer, request: SendRequested) -> None:
    """Give a credit to the account of a request."""
    given = gift(request.subject)
    await producer.send(BILLING_EVENTS, encode(given), given.subject.encode())


async def receive(consumer: AIOKafkaConsumer, sent: dict[str, float], waits: dict[str, float], count: int) -> None:
    """Receive results until so many requests have one."""
    name = b'"request_id":"'
    while len(waits) < count:
        fetched = await consumer.getmany(timeout_ms=1000)
        now = perf_counter()
        for records in fetched.values():
            for record in records:
                at = record.value.index(name) + len(name)
                request_id = record.value[at : at + 36].decode()
                if request_id in sent:
                    waits.setdefault(request_id, (now - sent[request_id]) * 1000)
