"""Workers as processes that come and go under load: nothing is lost, nothing said twice, and nobody waits for long."""

import asyncio
import json
import os
import signal
from collections import Counter
from itertools import pairwise
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import create_producer, partitions_of, reader
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import Event, encode
from tests.workers.life import feeding, in_partition
from tests.workers.processes import Process, ask, processes
from tests.workers.wire import ends, eventually, publish, records_to_end, send
from workers.jobs.send import SendJob

BACKLOG = int(os.environ.get("BACKLOG", "100000"))  # which would be more than the limit, were it held
MEGABYTE = 1024 * 1024

Offsets = dict[TopicPartition, int]


def _accounts(settings: Settings) -> list[str]:
    """Return an account of each partition."""
    return [in_partition(settings, number) for number in range(settings.topic_partitions)]


def _ids(results: list[ConsumerRecord]) -> "Counter[str]":
    return Counter(json.loads(record.value)["data"]["request_id"] for record in results)


def _longest_pause(results: list[ConsumerRecord]) -> float:
    """Return the longest time, in seconds by the broker's clock, in which a partition got no result."""
    times: dict[int, list[int]] = {}
    for record in results:
        times.setdefault(record.partition, []).append(record.timestamp)
    return max(after - before for each in times.values() for before, after in pairwise(each)) / 1000


async def _read_to_the_end(settings: Settings) -> None:
    places = partitions_of(SEND_REQUESTS, settings.topic_partitions)
    async with reader(settings, SendJob.group) as consumer:

        async def done() -> bool:
            end = await consumer.end_offsets(places)
            return all([await consumer.committed(place) == end[place] for place in places])

        await eventually(done, "everything answered")


@pytest.mark.whole
async def test_a_rolling_restart_of_three_workers_repeats_nothing_and_pauses_briefly(cluster: Settings) -> None:
    """Each is replaced in turn under load: ends with code 0, nothing is lost or said twice, no partition waits long."""
    start = await ends(cluster, SEND_RESULTS)
    with processes(cluster) as workers:
        running = [workers.start() for _ in range(3)]
        for each in running:
            await each.ready()
        async with feeding(cluster, _accounts(cluster)) as sent:
            codes = []
            for old in running:
                code, seconds = await old.drained()
                codes.append(code)
                assert seconds < cluster.drain_seconds
                await workers.start().ready()
        await _read_to_the_end(cluster)
        results = await records_to_end(cluster, start)

    pause = _longest_pause(results)
    print(f"rolling restart: {len(sent)} requests, longest pause of a partition {pause:.2f} s")
    assert [0, 0, 0] == codes
    assert Counter(sent) == _ids(results)
    assert pause < 10


# Once some requests are answered, whoever answers more waits for whoever has an advisory lock.
_HOLD_IN_THE_MIDDLE = """
create function hold() returns trigger language plpgsql as $$
begin
    if (select count(*) from journal) >= 500 then perform pg_advisory_xact_lock_shared(8000); end if;
    return null;
end $$;
create trigger hold before insert on journal for each statement execute function hold();
select pg_advisory_lock(8000);
"""


async def test_sigterm_in_the_middle_of_a_backlog_leaves_nothing_stored_and_unpublished(
    cluster: Settings, database: Connection
) -> None:
    """It ends in time; what it decided is out; the next worker goes on exactly there."""
    own = cluster.model_copy(update={"batch_records": 200})  # a few of its turns are not all of the backlog
    accounts = _accounts(own)
    requests: list[Event] = [send(accounts[n % len(accounts)]) for n in range(4_000)]
    start = await ends(own, SEND_RESULTS)
    await publish(own, SEND_REQUESTS, requests)
    await database.execute(_HOLD_IN_THE_MIDDLE)
    with processes(own) as workers:
        worker = workers.start()
        await eventually(lambda: _waits(database), "a worker in the middle of it")
        draining = asyncio.create_task(worker.drained())
        await eventually(lambda: _drains(worker), "a worker that drains")
        await database.execute("select pg_advisory_unlock(8000)")
        code, seconds = await draining
        stored = {
            row["partition"]: row["next_offset"]
            for row in await database.fetch("select * from lanes where topic = $1", SEND_REQUESTS)
        }
        async with reader(own, SendJob.group) as consumer:
            published = {number: await consumer.committed(TopicPartition(SEND_REQUESTS, number)) for number in stored}
        answered = _ids(await records_to_end(own, start))
        workers.start()
        await _read_to_the_end(own)
    results = _ids(await records_to_end(own, start))

    print(f"SIGTERM: {answered.total()} of {len(requests)} answered, drained in {seconds:.2f} s")
    assert 0 == code
    assert seconds < own.drain_seconds
    assert 500 <= answered.total() < len(requests)
    assert stored == published
    assert Counter(str(event.id) for event in requests) == results


async def _waits(database: Connection) -> bool:
    return await database.fetchval("select exists (select from pg_locks where objid = 8000 and not granted)")


async def _drains(worker: Process) -> bool:
    _, body = await ask(worker.port, "/readyz")
    return "draining" in body.get("reasons", ())


@pytest.mark.whole
async def test_a_frozen_worker_loses_its_partitions_and_wakes_up_to_no_harm(cluster: Settings) -> None:
    """It held lanes and a batch; the other one has taken over: what it still wanted to say is fenced."""
    own = cluster.model_copy(update={"session_seconds": 6.0, "transaction_seconds": 4.0})
    start = await ends(own, SEND_RESULTS)
    with processes(own) as workers:
        frozen, other = workers.start(), workers.start()
        await frozen.ready()
        await other.ready()
        async with feeding(own, _accounts(own)) as sent:
            await eventually(lambda: _at_least(sent, 200), "some load")
            os.kill(frozen.popen.pid, signal.SIGSTOP)
            before = len(sent)

            async def moved() -> bool:
                results = _ids(await records_to_end(own, start))
                return all(results[each] for each in sent[before : before + 40])

            await eventually(moved, "everything answered by the other one")
            os.kill(frozen.popen.pid, signal.SIGCONT)
            await frozen.ready()
            woken = len(sent)
            await eventually(lambda: _at_least(sent, woken + 40), "some more load")
        await _read_to_the_end(own)
        results = await records_to_end(own, start)
        codes = [(await each.drained())[0] for each in (frozen, other)]

    pause = _longest_pause(results)
    print(f"frozen worker: {len(sent)} requests, longest pause of a partition {pause:.2f} s")
    assert [0, 0] == codes
    assert Counter(sent) == _ids(results)
    assert own.session_seconds / 2 < pause < own.session_seconds + 10


async def _at_least(sent: list[str], number: int) -> bool:
    return len(sent) >= number


@pytest.mark.whole
@pytest.mark.timeout(1200)
async def test_memory_is_bounded_however_long_the_backlog_is(cluster: Settings) -> None:
    """What a worker holds does not depend on what waits for it: a backlog adds less than 64 MB to it."""
    accounts = [in_partition(cluster, n % cluster.topic_partitions) for n in range(100)]
    example = send(accounts[0])
    template, id_ = encode(example), str(example.id).encode()
    with processes(cluster) as workers:
        worker = workers.start()
        await worker.ready()
        idle = worker.memory
        peak = idle
        async with create_producer(cluster, "test") as producer:
            os.kill(worker.popen.pid, signal.SIGSTOP)
            for number in range(BACKLOG):
                account = accounts[number % len(accounts)].encode()
                value = template.replace(accounts[0].encode(), account).replace(id_, str(uuid4()).encode())
                await producer.send(SEND_REQUESTS, value, account)
            await producer.flush()
            os.kill(worker.popen.pid, signal.SIGCONT)
        places = partitions_of(SEND_REQUESTS, cluster.topic_partitions)
        async with reader(cluster, SendJob.group) as consumer:
            end = await consumer.end_offsets(places)
            while any([await consumer.committed(place) != end[place] for place in places]):
                peak = max(peak, worker.memory)

    print(f"memory: {BACKLOG} records, {idle / MEGABYTE:.0f} MB idle, {peak / MEGABYTE:.0f} MB at most")
    assert peak - idle < 64 * MEGABYTE
