"""`drain_end_to_end`: requests that are already in Kafka, until the last result can be read.

Ours is the send worker as a user runs it; the baseline is `naive.py` as a process of its own. Both start on a copy of
the same books and at the beginning of the same topic; every result is counted afterwards.
"""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from time import perf_counter

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from infra.kafka import admin_client, create_producer, partitions_of, reader
from infra.local.stack import LocalStack
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import encode
from tests.bench.books import PARTITIONS, Databases, sends, stack_settings
from tests.bench.cpu import CpuMeter
from tests.bench.figures import Figure, of_rounds
from tests.bench.naive import GROUP as NAIVE_GROUP
from workers.local.processes import environment
from workers.ops.audit import audit
from workers.ops.topics import apply_topics, plan_topics
from workers.send import SendJob

__all__ = ["run"]

ROUNDS = 3
REQUESTS = 200_000
NAIVE_REQUESTS = 2_000
LIMIT_SECONDS = 300.0

_POLL_SECONDS = 0.05
_INPUT = partitions_of(SEND_REQUESTS, PARTITIONS)
_OUTPUT = partitions_of(SEND_RESULTS, PARTITIONS)

Offsets = Mapping[TopicPartition, int]


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return sends a second, and the CPU time of a send by process."""
    settings = stack_settings(stack, "postgres")
    await apply_topics(settings, await plan_topics(settings))
    report(f"drain_end_to_end: publishing {REQUESTS:,} requests")
    await _publish(settings)
    ours, naive, ours_cpu, naive_cpu = [], [], [], []
    for number in range(1, ROUNDS + 1):
        report(f"drain_end_to_end: round {number} of {ROUNDS}")
        async with databases.one() as books:
            rate, cpu = await _drain(stack, books, NAIVE_GROUP, ["-m", "tests.bench.naive", f"{NAIVE_REQUESTS}"], None)
            naive.append(rate)
            naive_cpu.append(cpu)
        async with databases.one() as books:
            command = ["-m", "workers.cli", "worker", "send", "--stop-with-parent"]
            rate, cpu = await _drain(stack, books, SendJob.group, command, REQUESTS)
            ours.append(rate)
            ours_cpu.append(cpu)
    details = {"requests": REQUESTS, "cpu_us": ours_cpu, "baseline_cpu_us": naive_cpu}
    mine, theirs = ([sum(cpu.values()) for cpu in each] for each in (ours_cpu, naive_cpu))
    return [
        of_rounds("drain_end_to_end", "sends/s", ours, naive, details),
        of_rounds("drain_end_to_end, CPU", "us/send", mine, theirs, {"processes": "worker, postgres, kafka"}),
        *(
            of_rounds(f"  {name}", "us/send", [cpu[name] for cpu in ours_cpu], [cpu[name] for cpu in naive_cpu], {})
            for name in ours_cpu[0]
        ),
    ]


async def _publish(settings: Settings) -> None:
    async with create_producer(settings, "bench") as producer:
        for event in sends(REQUESTS, seed=1):
            await producer.send(SEND_REQUESTS, encode(event), event.subject.encode())
        await producer.flush()


async def _drain(
    stack: LocalStack, books: Settings, group: str, command: list[str], count: int | None
) -> tuple[float, dict[str, float]]:
    """Run a worker from the first request on; return the sends a second and their CPU time by process.

    Counted from the moment the process starts to read, which the first offset committed shows, so that neither form
    pays for Python's start. Without a count the process ends by itself.
    """
    begin = await _rewind(books, group)
    async with AsyncExitStack() as clients:
        admin = await clients.enter_async_context(admin_client(books))
        stable = await clients.enter_async_context(reader(books))
        ends = await clients.enter_async_context(reader(books, isolation_level="read_uncommitted"))
        results_from = await ends.end_offsets(_OUTPUT)
        with ExitStack() as at_exit:
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [sys.executable, *command],
                env=environment(books),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            at_exit.callback(process.kill)
            trees = {"worker": process.pid, "postgres": stack.postgres_pid, "kafka": stack.kafka_pid}
            done_before = await _until(admin, group, process, lambda done: done > 0, begin)
            began, meter = perf_counter(), CpuMeter(trees)
            target = NAIVE_REQUESTS if count is None else count
            done = await _until(admin, group, process, lambda done: done >= target, begin)
            # The offset came with the results' transaction; its markers may reach their partitions a little later.
            while await ends.end_offsets(_OUTPUT) != await stable.end_offsets(_OUTPUT):  # noqa: ASYNC110 - Kafka's
                await asyncio.sleep(_POLL_SECONDS)
            seconds, cpu = perf_counter() - began, meter.microseconds_each(done - done_before)
            assert process.stdin is not None
            process.stdin.close()
            assert await asyncio.to_thread(process.wait, 60) == 0
    await _check(books, results_from, target)
    return (done - done_before) / seconds, cpu


async def _rewind(books: Settings, group: str) -> Offsets:
    """Put a group without members at the beginning of the requests."""
    async with reader(books, group) as consumer:
        consumer.assign(_INPUT)
        begin = dict(await consumer.beginning_offsets(_INPUT))
        await consumer.commit(begin)
    return begin


async def _until(
    admin: AIOKafkaAdminClient,
    group: str,
    process: "subprocess.Popen[bytes]",
    enough: Callable[[int], bool],
    begin: Offsets,
) -> int:
    """Wait until a group's committed offsets have moved so far; return how far."""
    deadline = perf_counter() + LIMIT_SECONDS
    while True:
        committed = await admin.list_consumer_group_offsets(group)
        done = sum(committed[tp].offset - begin[tp] for tp in _INPUT)
        if enough(done):
            return done
        if perf_counter() > deadline or process.poll() not in (None, 0):
            raise RuntimeError(f"{done} requests in {LIMIT_SECONDS:.0f} s, exit code {process.poll()}")
        await asyncio.sleep(_POLL_SECONDS)


async def _check(books: Settings, results_from: Offsets, count: int) -> None:
    """Count the results: one for each request, and books that balance."""
    answers: Counter[bytes] = Counter()
    async with reader(books) as consumer:
        consumer.assign(_OUTPUT)
        ends = await consumer.end_offsets(_OUTPUT)
        for tp in _OUTPUT:
            consumer.seek(tp, results_from[tp])
        while any([await consumer.position(tp) < ends[tp] for tp in _OUTPUT]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                answers.update(record.value[: record.value.index(b',"source"')] for record in records)
    assert (count, count) == (answers.total(), len(answers)), (answers.total(), len(answers))
    found = await audit(books)
    # The baseline keeps no row of how far it has read.
    assert {"row_was_read"} >= {finding.name for finding in found.failures()}, list(found.failures())
