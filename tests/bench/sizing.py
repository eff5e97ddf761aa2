"""What a send costs at so many partitions and workers: `python -m tests.bench.sizing`, about 20 minutes for all cells.

Each cell starts so many workers of each kind and the ticker, lets them stand idle, then decides sends at two rates, one
billing event to fifty sends; and at last lets as many send workers work off a backlog. CPU is counted by process, since
it is steadier than wall time. `python -m tests.bench.sizing_page` renders docs/sizing.md from the file it writes.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any, Final
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from infra.clock import utc_now
from infra.kafka.clients import admin_client, committed_offsets, create_producer, partitions_of, reader
from infra.local.stack import LocalStack
from infra.postgres import connect_database
from infra.settings import Settings
from schemas.billing import PromotionGranted
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import AccountEvent, encode
from schemas.sends import SendRequested
from tests.bench.books import PARTITIONS, Databases, sends, stack_settings
from tests.bench.cpu import CpuMeter
from tests.bench.draining import INPUT, OURS, Form, input_ends, publish, running, set_offsets
from workers.ops.topics.plan import apply_topics, plan_topics
from workers.topology import GROUP_OF

__all__ = ["FILE", "PARTITION_COUNTS", "RATES", "WORKER_COUNTS"]

FILE: Final = Path(__file__).parents[2] / "build" / "sizing.json"
PARTITION_COUNTS: Final = (4, 12, 48)
WORKER_COUNTS: Final = (1, 2, 3, 4)
RATES: Final = (250, 1_000)  # sends a second

_KINDS: Final = ("send", "billing", "expiry")
_SENDS_A_BILLING_EVENT: Final = 50
_OUTPUT: Final = partitions_of(SEND_RESULTS, PARTITIONS)
_LATE_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.05
_DISK: Final = "select pg_database_size(current_database()), pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sizing", description=__doc__)
    parser.add_argument("--partitions", type=int, nargs="+", default=PARTITION_COUNTS)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKER_COUNTS, help="of each kind")
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="sends a second")
    parser.add_argument("--seconds", type=int, default=15, help="of each rate, after 5 that are not counted")
    parser.add_argument("--backlog", type=int, default=100_000, help="sends that are worked off at full pace")
    parser.add_argument(
        "--to", type=Path, default=FILE, help="the file to write; cells that are not run now stay in it"
    )
    return parser.parse_args()


def _report(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)


async def _cells(given: argparse.Namespace) -> AsyncIterator[dict[str, Any]]:
    """Measure a cell for each number of workers, on one stack: its topics have the partitions of this process."""
    with LocalStack(report=_report) as stack:
        databases = Databases(stack)
        await databases.prepare()
        settings = stack_settings(stack, "postgres")
        await apply_topics(settings, await plan_topics(settings))
        for workers in given.workers:
            cell: dict[str, Any] = {"partitions": PARTITIONS, "workers": workers, "at": utc_now().isoformat()}
            async with databases.one() as books:
                cell |= await _steadily(stack, books, workers, given)
            async with databases.one() as books:
                cell["drain"] = await _drained(stack, books, workers, given.backlog)
            _report(f"{PARTITIONS} partitions, {workers} of each worker: {json.dumps(cell)}")
            yield cell


async def _steadily(stack: LocalStack, books: Settings, workers: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return the CPU of standing idle, and of a send and its latency at each rate."""
    await _pass_over(books)
    found: dict[str, Any] = {"rates": {}}
    async with _workers(books, workers) as processes:
        trees = {**processes, "postgres": stack.postgres_pid, "kafka": stack.kafka_pid}
        await _decide(trees, books, 100, 5)  # the groups have formed, caches are filled
        meter, began = CpuMeter(trees), perf_counter()
        await asyncio.sleep(given.seconds)
        idle = _by_kind(meter.microseconds_each(1))
        found["idle_percent"] = {name: round(each / 1e4 / (perf_counter() - began), 1) for name, each in idle.items()}
        for rate in given.rates:
            found["rates"][str(rate)] = await _decide(trees, books, rate, given.seconds + 5)
    return found


async def _pass_over(books: Settings) -> None:
    """Move the groups to the ends of their topics, and these books with them."""
    for topic, group in GROUP_OF.items():
        async with reader(books) as consumer:
            ends = dict(await consumer.end_offsets(partitions_of(topic, PARTITIONS)))
        await set_offsets(books, group, ends)


@asynccontextmanager
async def _workers(books: Settings, count: int) -> AsyncIterator[dict[str, int]]:
    """Run so many workers of each kind, and the ticker."""
    names = [(kind, number) for kind in _KINDS for number in range(count)] + [("ticker", 0)]
    async with AsyncExitStack() as processes:
        yield {
            f"{kind}-{number}": (await processes.enter_async_context(running(_form(kind), books))).pid
            for kind, number in names
        }


def _form(kind: str) -> Form:
    return Form(f"inmail-{kind}", ["-m", "workers.cli", "worker", kind, "--stop-with-parent"])


def _by_kind(figures: Mapping[str, float]) -> dict[str, float]:
    """Add up what the workers of a kind used."""
    found: dict[str, float] = {}
    for name, figure in figures.items():
        kind = name.partition("-")[0]
        found[kind] = round(found.get(kind, 0.0) + figure, 1)
    return found


async def _decide(trees: Mapping[str, int], books: Settings, rate: int, seconds: int) -> dict[str, Any]:
    """Send at a rate; return CPU and latency of what was answered after the first 5 s."""
    requests = sends(rate * seconds, seed=rate + seconds)
    due: dict[str, float] = {}
    waits: dict[str, float] = {}
    warm = rate * min(5, seconds // 2)
    async with reader(books) as consumer, create_producer(books, "sizing") as producer:
        consumer.assign(_OUTPUT)
        await consumer.seek_to_end(*_OUTPUT)
        for place in _OUTPUT:
            await consumer.position(place)  # the end is found before anything is sent
        sending = asyncio.create_task(_send(producer, requests, rate, due))
        async with asyncio.timeout(seconds + _LATE_SECONDS):
            await _receive(consumer, due, waits, warm)
            meter = CpuMeter(trees)
            began = len(waits)
            await _receive(consumer, due, waits, len(requests))
        await sending
    shares = quantiles([waits[str(each.id)] for each in requests[warm:]], n=100)
    cpu = _by_kind(meter.microseconds_each(max(1, len(requests) - began)))
    return {"cpu_us": cpu, "p50_ms": round(shares[49], 1), "p99_ms": round(shares[98], 1)}


async def _send(producer: AIOKafkaProducer, requests: list[SendRequested], rate: int, due: dict[str, float]) -> None:
    began = perf_counter()
    for number, request in enumerate(requests):
        at = began + number / rate
        if (ahead := at - perf_counter()) > 0:
            await asyncio.sleep(ahead)
        due[str(request.id)] = at
        await _publish(producer, SEND_REQUESTS, request)
        if number % _SENDS_A_BILLING_EVENT == 0:
            data = {"promotion_id": "bench", "credits": 1}
            gift = PromotionGranted.create(
                id=uuid4(), source="/bench", subject=request.subject, time=utc_now(), data=data
            )
            await _publish(producer, BILLING_EVENTS, gift)
    await producer.flush()


async def _publish(producer: AIOKafkaProducer, topic: str, event: AccountEvent) -> None:
    await producer.send(topic, encode(event), event.subject.encode())


async def _receive(consumer: AIOKafkaConsumer, due: dict[str, float], waits: dict[str, float], count: int) -> None:
    """Receive results until so many requests have one."""
    name = b'"request_id":"'
    while len(waits) < count:
        fetched = await consumer.getmany(timeout_ms=500)
        now = perf_counter()
        for record in (record for records in fetched.values() for record in records):
            at = record.value.index(name) + len(name)
            request_id = record.value[at : at + 36].decode()
            if request_id in due:
                waits.setdefault(request_id, (now - due[request_id]) * 1000)


async def _drained(stack: LocalStack, books: Settings, workers: int, backlog: int) -> dict[str, Any]:
    """Return pace, CPU and bytes a send of so many send workers that work off a backlog."""
    begin = await input_ends(books)
    await publish(books, sends(backlog, seed=backlog))
    await set_offsets(books, OURS.group, begin)
    connection = await connect_database(books)
    async with AsyncExitStack() as opened:
        admin = await opened.enter_async_context(admin_client(books))

        async def until(count: int) -> int:
            async with asyncio.timeout(_LATE_SECONDS + backlog / 500):
                while True:
                    committed = await committed_offsets(admin, OURS.group, INPUT)
                    done = sum((committed[place] or 0) - begin[place] for place in INPUT)
                    if done >= count:
                        return done
                    await asyncio.sleep(_POLL_SECONDS)

        processes = [await opened.enter_async_context(running(OURS, books)) for _ in range(workers)]
        trees = {f"send-{number}": process.pid for number, process in enumerate(processes)}
        before, size_before = await until(backlog // 10), await connection.fetchrow(_DISK)
        meter = CpuMeter(trees | {"postgres": stack.postgres_pid, "kafka": stack.kafka_pid})
        began = perf_counter()
        done = await until(backlog) - before
        seconds, cpu = perf_counter() - began, _by_kind(meter.microseconds_each(done))
        size_after = await connection.fetchrow(_DISK)
    await connection.close()
    disk, wal = (round((after - first) / done) for first, after in zip(size_before, size_after, strict=True))
    return {"rate": round(done / seconds), "cpu_us": cpu, "database_bytes": disk, "wal_bytes": wal}


async def _one(given: argparse.Namespace) -> None:
    async for cell in _cells(given):
        known = json.loads(given.to.read_text()) if given.to.exists() else []
        place = (cell["partitions"], cell["workers"])
        kept = [each for each in known if (each["partitions"], each["workers"]) != place]
        ordered = sorted([*kept, cell], key=lambda each: (each["partitions"], each["workers"]))
        given.to.parent.mkdir(exist_ok=True)
        await asyncio.to_thread(given.to.write_text, json.dumps(ordered, indent=1) + "\n")


def main() -> None:
    """Measure the cells; each number of partitions in a process and on a stack of its own."""
    given = _arguments()
    if list(given.partitions) == [PARTITIONS]:
        asyncio.run(_one(given))
        return
    for count in given.partitions:
        command = [sys.executable, "-m", "tests.bench.sizing", *sys.argv[1:], "--partitions", str(count)]
        subprocess.run(command, env=os.environ | {"BENCH_PARTITIONS": str(count)}, check=True)


if __name__ == "__main__":
    main()
