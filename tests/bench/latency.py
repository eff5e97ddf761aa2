"""`latency_at_1000`: from a producer's send to a read_committed reader's receipt, at a steady 1,000 requests a second.

The worker is a process of its own; the producer and the consumer of the results share this one, so that one clock
measures both ends. The producer waits for all replicas, as it should, and sends each request as it comes. The baseline
is `relay.py`: a transaction a batch and a partition as ours, and nothing decided.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from statistics import quantiles
from time import perf_counter

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from infra.kafka.clients import create_producer, partitions_of, reader
from infra.local.stack import LocalStack
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import encode
from schemas.sends import SendRequested
from tests.bench.books import PARTITIONS, Databases, sends, stack_settings
from tests.bench.draining import OURS, Form, input_ends, running, set_offsets
from tests.bench.figures import Figure, of_rounds
from tests.bench.relay import GROUP as RELAY_GROUP
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["A_SECOND", "measure", "run"]

A_SECOND = 1_000
ROUNDS = 3
SECONDS = 20  # of a round
WARM_SECONDS = 5  # of them, not counted: the worker joins its group, and caches fill
LATE_SECONDS = 30.0  # after the last request, at most

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
_RELAY = Form(RELAY_GROUP, ["-m", "tests.bench.relay"])
_OUTPUT = partitions_of(SEND_RESULTS, PARTITIONS)


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return the median and the 99th percentile."""
    settings = stack_settings(stack, "postgres")
    await apply_topics(settings, await plan_topics(settings))
    ours: list[list[float]] = []
    relayed: list[list[float]] = []
    for number in range(1, ROUNDS + 1):
        report(f"latency_at_1000: round {number} of {ROUNDS}, {A_SECOND:,} requests a second for {SECONDS} s, twice")
        requests = sends(A_SECOND * SECONDS, seed=2_000 + number)
        for form, waits in ((_RELAY, relayed), (OURS, ours)):
            async with databases.one() as books:
                await set_offsets(books, form.group, await input_ends(books))
                waits.append((await measure(books, form, requests))[A_SECOND * WARM_SECONDS :])
    return [
        of_rounds(
            f"latency_at_1000, {name} (relay)",
            "ms",
            [_share(waits, at) for waits in ours],
            [_share(waits, at) for waits in relayed],
            {"requests": len(ours[0])},
        )
        for name, at in _SHARES.items()
    ]


def _share(waits: Sequence[float], at: float) -> float:
    return quantiles(waits, n=1000)[round(at * 1000) - 1]


async def measure(books: Settings, form: Form, requests: list[SendRequested]) -> list[float]:
    """Return how long each request took, in milliseconds and in their order."""
    sent: dict[str, float] = {}
    waits: dict[str, float] = {}
    async with AsyncExitStack() as clients:
        consumer = await clients.enter_async_context(reader(books))
        consumer.assign(_OUTPUT)
        await consumer.seek_to_end(*_OUTPUT)
        producer = await clients.enter_async_context(create_producer(books, "bench"))
        async with running(form, books):
            sending = asyncio.create_task(_send(producer, requests, sent))
            async with asyncio.timeout(SECONDS + LATE_SECONDS):
                await _receive(consumer, sent, waits, len(requests))
            await sending
    return [waits[str(request.id)] for request in requests]


async def _send(producer: AIOKafkaProducer, requests: list[SendRequested], sent: dict[str, float]) -> None:
    """Send requests evenly; note when each was due, so that a sender that falls behind hides nothing."""
    began = perf_counter()
    for number, request in enumerate(requests):
        due = began + number / A_SECOND
        if (ahead := due - perf_counter()) > 0:
            await asyncio.sleep(ahead)
        sent[str(request.id)] = due
        await producer.send(SEND_REQUESTS, encode(request), request.subject.encode())
    await producer.flush()


async def _receive(consumer: AIOKafkaConsumer, sent: dict[str, float], waits: dict[str, float], count: int) -> None:
    """Receive results until each request has one."""
    name = b'"request_id":"'
    while len(waits) < count:
        fetched = await consumer.getmany(timeout_ms=1000)
        now = perf_counter()
        for records in fetched.values():
            for record in records:
                at = record.value.index(name) + len(name)
                request_id = record.value[at : at + 36].decode()
                waits.setdefault(request_id, (now - sent[request_id]) * 1000)
