"""A worker as a process, watched while it drains what is in Kafka: its pace, its CPU time, its memory, its results."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import psutil
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from infra.kafka.clients import admin_client, create_producer, partitions_of, reader
from infra.local.stack import LocalStack
from infra.postgres import connect_database
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import encode
from schemas.sends import SendRequested
from tests.bench.books import PARTITIONS
from tests.bench.cpu import CpuMeter
from workers.jobs.send import SendJob
from workers.local.processes import environment
from workers.ops.books.audit import audit

__all__ = ["INPUT", "OURS", "Drained", "Form", "Offsets", "drain", "input_ends", "publish", "running", "set_offsets"]

LOG = Path(__file__).parents[2] / "build" / "bench-worker.log"  # of the process that ran last
LIMIT_SECONDS = 300.0

_POLL_SECONDS = 0.05
INPUT = partitions_of(SEND_REQUESTS, PARTITIONS)
_OUTPUT = partitions_of(SEND_RESULTS, PARTITIONS)

Offsets = Mapping[TopicPartition, int]


class Form(NamedTuple):
    """A program that decides sends, and its consumer group."""

    group: str
    arguments: list[str]  # of Python
    ends_by_itself: bool = False  # once it has decided what it was asked to


OURS = Form(SendJob.group, ["-m", "workers.cli", "worker", "send", "--stop-with-parent"])


class Drained(NamedTuple):
    """What was measured of one run."""

    rate: float  # sends a second
    cpu: dict[str, float]  # microseconds a send, by process
    megabytes: float  # the most that was resident


async def publish(settings: Settings, events: Iterable[SendRequested]) -> None:
    """Append requests to their topic."""
    async with create_producer(settings, "bench") as producer:
        for event in events:
            await producer.send(SEND_REQUESTS, encode(event), event.subject.encode())
        await producer.flush()


async def input_ends(settings: Settings) -> Offsets:
    """Return where the topic of requests ends."""
    async with reader(settings) as consumer:
        return dict(await consumer.end_offsets(INPUT))


async def drain(stack: LocalStack, books: Settings, form: Form, begin: Offsets, count: int) -> Drained:
    """Let a form decide so many requests from the offsets given, and see that each got one result.

    Counted from the moment the process starts to read, which the first offset committed shows, so that neither form
    pays for Python's start.
    """
    async with AsyncExitStack() as clients:
        await set_offsets(books, form.group, begin)
        admin = await clients.enter_async_context(admin_client(books))
        stable = await clients.enter_async_context(reader(books))
        ends = await clients.enter_async_context(reader(books, isolation_level="read_uncommitted"))
        results_from = await ends.end_offsets(_OUTPUT)
        async with running(form, books) as process:
            watch = _Watch(admin, form, process, begin)
            done_before = await watch.until(lambda done: done > 0)
            trees = {"worker": process.pid, "postgres": stack.postgres_pid, "kafka": stack.kafka_pid}
            began, meter = perf_counter(), CpuMeter(trees)
            done = await watch.until(lambda done: done >= count)
            # The offset came with the results' transaction; its markers may reach their partitions a little later.
            async with asyncio.timeout(LIMIT_SECONDS):
                while await ends.end_offsets(_OUTPUT) != await stable.end_offsets(_OUTPUT):  # noqa: ASYNC110 - Kafka's
                    await asyncio.sleep(_POLL_SECONDS)
            seconds, cpu = perf_counter() - began, meter.microseconds_each(done - done_before)
    await _check(books, results_from, count)
    return Drained((done - done_before) / seconds, cpu, watch.megabytes)


@asynccontextmanager
async def running(form: Form, books: Settings) -> "AsyncIterator[subprocess.Popen[bytes]]":
    """Run a form as a process of its own; it ends in order afterwards, or by force where something is wrong."""
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, *form.arguments],
            env=environment(books),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.to_thread(process.wait, 60) == 0
    finally:
        process.kill()


async def set_offsets(books: Settings, group: str, offsets: Offsets) -> None:
    """Put a group without members at these offsets, and books that are new: what is before is not theirs.

    A lane whose row said that it had read beyond its topic's end would be halted, and waited for by nobody.
    """
    async with reader(books, group) as consumer:
        consumer.assign(list(offsets))
        await consumer.commit(dict(offsets))
    connection = await connect_database(books)
    await connection.executemany(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset, owner_epoch)"
        " values ($1, $2, $3, 1, $4, 1)"
        " on conflict (consumer_group, topic, partition)"
        " do update set next_offset = excluded.next_offset, published = null",
        [(group, tp.topic, tp.partition, offset) for tp, offset in offsets.items()],
    )
    await connection.close()


class _Watch:
    """Looks at a process and its group's offsets from time to time."""

    def __init__(
        self, admin: AIOKafkaAdminClient, form: Form, process: "subprocess.Popen[bytes]", begin: Offsets
    ) -> None:
        self.megabytes = 0.0
        self._admin, self._form, self._process, self._begin = admin, form, process, begin

    async def until(self, enough: Callable[[int], bool]) -> int:
        """Wait until the committed offsets have moved so far; return how far."""
        deadline = perf_counter() + LIMIT_SECONDS
        while True:
            committed = await self._admin.list_consumer_group_offsets(self._form.group)
            done = sum(committed[tp].offset - self._begin[tp] for tp in INPUT)
            ended = self._process.poll()
            if ended is None:
                self.megabytes = max(self.megabytes, psutil.Process(self._process.pid).memory_info().rss / 1e6)
            if enough(done):
                return done
            if perf_counter() > deadline or not (ended is None or (self._form.ends_by_itself and ended == 0)):
                raise RuntimeError(f"{done} requests in {LIMIT_SECONDS:.0f} s, exit code {ended}: see {LOG}")
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
                answers.update(record.value.partition(b',"source"')[0] for record in records)  # a relay's has none
    assert (count, count) == (answers.total(), len(answers)), (answers.total(), len(answers))
    found = await audit(books)
    # The baseline keeps no row of how far it has read.
    assert {"row_was_read"} >= {finding.name for finding in found.failures()}, list(found.failures())
