"""What a send costs at so many partitions and workers: `python -m tests.bench.sizing`, about 20 minutes for all cells.

Each cell starts so many workers of each kind and the ticker, lets them stand idle, then decides sends at three rates,
one billing event to fifty sends; at last as many workers work off a backlog: of sends alone, and of both as if they had
come over a while, which the lanes read in one order. CPU is counted by process, since it is steadier than wall time.
`python -m tests.bench.sizing_page` renders docs/sizing.md from the file it writes.
"""

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from time import perf_counter, time
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from infra.clock import utc_now
from infra.kafka.clients import admin_client, committed_offsets, create_producer, partitions_of, reader
from infra.local.stack import LocalStack
from infra.postgres import connect_database
from infra.settings import RecordTime, Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import AccountEvent, encode
from schemas.sends import SendRequested
from tests.bench.books import PARTITIONS, Databases, gift, sends, stack_settings
from tests.bench.cpu import CpuMeter
from tests.bench.draining import Form, Offsets, running, set_offsets
from tests.bench.latency import receive
from workers.ops.topics.plan import apply_topics, plan_topics
from workers.topology import GROUP_OF, WORKER_OF

__all__ = ["FILE", "PARTITION_COUNTS", "RATES", "WORKER_COUNTS"]

FILE: Final = Path(__file__).parents[2] / "build" / "sizing.json"
PARTITION_COUNTS: Final = (4, 12, 48)
WORKER_COUNTS: Final = (1, 2, 3, 4)
RATES: Final = (250, 1_000, 3_000)  # sends a second

KINDS: Final = {topic: str(worker) for topic, worker in WORKER_OF.items()}
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
    parser.add_argument("--seconds", type=int, default=10, help="of each rate, after 5 that are not counted")
    parser.add_argument("--backlog", type=int, default=50_000, help="sends that are worked off at full pace")
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
            requests: list[AccountEvent] = [*sends(given.backlog, seed=given.backlog)]
            gifts: list[AccountEvent] = [gift(each.subject) for each in requests[::_SENDS_A_BILLING_EVENT]]
            async with databases.one() as books, _by_producers_time(books) as timed:
                cell["drain"] = await _drained(stack, timed, workers, {SEND_REQUESTS: requests})
            async with databases.one() as books, _by_producers_time(books) as timed:
                cell["both"] = await _drained(stack, timed, workers, {SEND_REQUESTS: requests, BILLING_EVENTS: gifts})
            _report(f"{PARTITIONS} partitions, {workers} of each worker: {json.dumps(cell)}")
            yield cell


@asynccontextmanager
async def _by_producers_time(books: Settings) -> AsyncIterator[Settings]:
    """Let records have their producers' times meanwhile: a backlog is one of a while, and is published at once."""
    timed = books.model_copy(update={"topic_record_time": RecordTime.CREATE})
    await apply_topics(timed, await plan_topics(timed))
    yield timed
    await apply_topics(books, await plan_topics(books))


async def _steadily(stack: LocalStack, books: Settings, workers: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return the CPU of standing idle, and of a send and its latency at each rate."""
    await _pass_over(books)
    found: dict[str, Any] = {"rates": {}}
    async with _workers(books, workers, [*KINDS.values(), "ticker"]) as processes:
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
        await set_offsets(books, group, await _ends(books, topic))


@asynccontextmanager
async def _workers(books: Settings, count: int, kinds: Sequence[str]) -> AsyncIterator[dict[str, int]]:
    """Run so many workers of each kind, but one ticker."""
    names = [(kind, number) for kind in kinds for number in range(1 if kind == "ticker" else count)]
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
            await receive(consumer, due, waits, warm)
            meter = CpuMeter(trees)
            began = len(waits)
            await receive(consumer, due, waits, len(requests))
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
            await _publish(producer, BILLING_EVENTS, gift(request.subject))
    await producer.flush()


async def _publish(producer: AIOKafkaProducer, topic: str, event: AccountEvent) -> None:
    await producer.send(topic, encode(event), event.subject.encode())


async def _drained(
    stack: LocalStack, books: Settings, workers: int, topics: Mapping[str, list[AccountEvent]]
) -> dict[str, Any]:
    """Return pace, CPU and bytes a send of so many workers of each topic that work off what is in it.

    A millisecond lies between two sends, and billing events lie evenly among them, by the times of the records.
    """
    begins = {topic: await _ends(books, topic) for topic in topics}
    count = len(topics[SEND_REQUESTS])
    await _pass_over(books)
    await _publish_backlog(books, topics)
    connection = await connect_database(books)
    async with AsyncExitStack() as opened:
        admin = await opened.enter_async_context(admin_client(books))

        async def until(wanted: int) -> int:
            begin = begins[SEND_REQUESTS]
            async with asyncio.timeout(_LATE_SECONDS + count / 100):
                while True:
                    committed = await committed_offsets(admin, GROUP_OF[SEND_REQUESTS], list(begin))
                    done = sum((committed[place] or 0) - begin[place] for place in begin)
                    if done >= wanted:
                        return done
                    await asyncio.sleep(_POLL_SECONDS)

        processes = await opened.enter_async_context(_workers(books, workers, [KINDS[topic] for topic in topics]))
        before, size_before = await until(count // 10), await connection.fetchrow(_DISK)
        meter = CpuMeter(processes | {"postgres": stack.postgres_pid, "kafka": stack.kafka_pid})
        began = perf_counter()
        if (done := await until(count) - before) == 0:
            raise RuntimeError(f"a backlog of {count} is worked off before it can be measured: take a larger one")
        seconds, cpu = perf_counter() - began, _by_kind(meter.microseconds_each(done))
        size_after = await connection.fetchrow(_DISK)
    await connection.close()
    disk, wal = (round((after - first) / done) for first, after in zip(size_before, size_after, strict=True))
    return {"rate": round(done / seconds), "cpu_us": cpu, "database_bytes": disk, "wal_bytes": wal}


async def _ends(books: Settings, topic: str) -> Offsets:
    async with reader(books) as consumer:
        return dict(await consumer.end_offsets(partitions_of(topic, PARTITIONS)))


async def _publish_backlog(books: Settings, topics: Mapping[str, list[AccountEvent]]) -> None:
    first = round(time() * 1000) - len(topics[SEND_REQUESTS])
    async with create_producer(books, "sizing") as producer:
        for topic, events in topics.items():
            step = len(topics[SEND_REQUESTS]) / len(events)
            for number, event in enumerate(events):
                at = first + round(number * step)
                await producer.send(topic, encode(event), event.subject.encode(), timestamp_ms=at)
        await producer.flush()


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
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    if list(given.partitions) == [PARTITIONS]:
        asyncio.run(_one(given))
        return
    for count in given.partitions:
        command = [sys.executable, "-m", "tests.bench.sizing", *sys.argv[1:], "--partitions", str(count)]
        subprocess.run(command, env=os.environ | {"BENCH_PARTITIONS": str(count)}, check=True)


if __name__ == "__main__":
    main()
