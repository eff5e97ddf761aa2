"""What machines may do to where a lane reads: partitions that cannot be read, offsets that are wrong or not known."""

import asyncio
import re
from collections import Counter
from time import monotonic
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition, codec
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetFetchRequest, OffsetFetchResponse_v3
from structlog.testing import capture_logs

from infra.kafka.clients import admin_client, committed_offsets, partitions_of, reader
from infra.postgres import Connection, create_pool
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import encode
from tests.workers.command import run
from tests.workers.lagging import QUICK, stands
from tests.workers.life import Held, at_the_end, in_partition, living
from tests.workers.wire import (
    ends,
    eventually,
    pass_over,
    publish,
    read,
    read_to_end,
    send,
    set_offset,
    settled,
    working,
)
from workers.commands.running import Exit
from workers.jobs.send import SendJob
from workers.lane import inbox, lane, opening, recovery
from workers.lane.worker import Worker
from workers.ledger.plans import load_catalogue
from workers.ops.lag import Status, observer
from workers.ops.topics.plan import plan_topics
from workers.telemetry.collectors import metrics_page

LOADING = 14  # Kafka's error code of a coordinator that is


def _job() -> SendJob:
    return SendJob(load_catalogue())


async def test_a_lane_that_cannot_go_on_is_halted_alone_and_goes_on_once_it_is_mended(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other lanes of its worker answer; probe, metric, lag and the lane's row say which one stands, and why.

    What it names to be done is done as it stands there, and the lane goes on without a restart.
    """
    monkeypatch.setattr(lane, "_HALTED_SECONDS", 0.2)
    place = TopicPartition(SEND_REQUESTS, 2)
    await publish(cluster, SEND_REQUESTS, [send(in_partition(cluster, 2)) for _ in range(5)])
    end, start = (await ends(cluster, SEND_REQUESTS))[place], await ends(cluster, SEND_RESULTS)
    await set_offset(cluster, SendJob.group, place, end)
    requests = [send(in_partition(cluster, number)) for number in range(4)]
    row = f"select halted from lanes where topic = '{SEND_REQUESTS}' and partition = 2"  # noqa: S608
    async with living(cluster) as life:
        await life.not_ready(f"lane {SEND_REQUESTS}/2 is halted: group inmail-send has published")
        await publish(cluster, SEND_REQUESTS, requests)
        await at_the_end(cluster, 0, 1, 3)
        await settled(cluster)
        before = await read(cluster, start, 3)
        scraped = metrics_page(life.health)()[0].decode()
        async with observer(cluster, limits=QUICK) as found:
            lag = await stands(found, SendJob.group, place, Status.BEYOND_BOOKS)
        halted, dead = await database.fetchval(row), life.health.dead()
        (skip,) = re.findall("`inmail (replay skip .*?)`", halted)
        done = await run(cluster, *skip.split(), "--because", "a trial", "--yes")
        await life.ready()
        await at_the_end(cluster, 2)
        await settled(cluster)
    after = await read(cluster, start, 4)

    assert {str(requests[number].id) for number in (0, 1, 3)} == {answer["request_id"] for answer in before}
    assert Counter(str(event.id) for event in requests) == Counter(answer["request_id"] for answer in after)
    assert f"run `inmail replay rewind send --to-offset {end - 5} --partition 2`; to go on without them, run" in halted
    assert {"0": "0.0", "1": "0.0", "2": "1.0", "3": "0.0"} == dict(
        re.findall(r'^inmail_halted_lanes\{partition="(\d)",.*\} (.*)$', scraped, re.MULTILINE)
    )
    assert (6, None, Exit.DONE) == (lag.records, dead, done.code)
    assert await database.fetchval(row) is None


async def test_an_offset_beyond_the_end_of_its_partition_is_named(cluster: Settings) -> None:
    """With the one that the books tell, and how to set it."""
    end = (await ends(cluster, SEND_REQUESTS))[TopicPartition(SEND_REQUESTS, 2)]
    await set_offset(cluster, SendJob.group, TopicPartition(SEND_REQUESTS, 2), end + 1_000)

    async with living(cluster) as life:
        await life.not_ready(f"for {SEND_REQUESTS}/2 is {end + 1_000}, but the partition ends at {end}")
        await life.not_ready(f"run `inmail replay rewind send --to-offset {end} --partition 2`")


async def test_a_lane_that_retention_overtakes_says_what_is_lost(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records are deleted that the lane has not fetched yet: its poll fails, and it does not try for ever."""
    monkeypatch.setattr(inbox, "_ENOUGH_BYTES", 1)  # one record fills it
    place = TopicPartition(SEND_REQUESTS, 1)
    request = send(in_partition(cluster, place.partition))
    job, stop = Held(), asyncio.Event()
    async with create_pool(cluster) as pool, admin_client(cluster) as admin:
        worker = Worker(job, cluster, pool, admin)
        task = asyncio.create_task(worker.run(stop))
        try:
            await publish(cluster, SEND_REQUESTS, [request])
            await asyncio.wait_for(job.asked.wait(), 20)
            for held in [(1, False), (1, True)]:
                await publish(cluster, SEND_REQUESTS, [request])
                await eventually(lambda held=held: _holds(worker, place, held), f"records where they wait: {held}")
            await publish(cluster, SEND_REQUESTS, [request])
            end = (await ends(cluster, SEND_REQUESTS))[place]
            await admin.delete_records({place: RecordsToDelete(before_offset=end)})
            job.may_go_on.set()

            await eventually(lambda: _says(worker, f"retention removed {SEND_REQUESTS}/1 up to offset {end}"), "why")
            assert not task.done()
        finally:
            job.may_go_on.set()
            stop.set()
            await task


async def _says(worker: Worker, words: str) -> bool:
    return any(words in reason for reason in worker.health.not_ready())


async def _holds(worker: Worker, place: TopicPartition, held: tuple[int, bool]) -> bool:
    """Tell whether so many chunks are in a lane's inbox, and one more in the consumer's hands."""
    return held == (
        len(worker.membership.lanes[place].inbox._chunks),
        place in worker.membership._consumer._fetcher._records,
    )


async def test_a_partition_that_cannot_be_read_costs_no_other_one_a_record(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lane tries again at leisure; the others answer everything; once it can be read it is answered too."""
    unreadable = send(in_partition(cluster, 3))
    requests = [send(in_partition(cluster, n % 3)) for n in range(60)]
    start = await ends(cluster, SEND_RESULTS)
    async with AIOKafkaProducer(bootstrap_servers=cluster.kafka_bootstrap_servers, compression_type="zstd") as producer:
        await producer.send_and_wait(SEND_REQUESTS, encode(unreadable), (unreadable.subject or "").encode())
    monkeypatch.setattr(codec, "has_zstd", lambda: False)  # as on a machine without the library

    async with working(cluster, _job()):
        with capture_logs() as logs:
            await eventually(lambda: _logged(logs, "poll_failed"), "a poll that fails")
            began = monotonic()
            for request in requests:
                await publish(cluster, SEND_REQUESTS, [request])
            async with asyncio.timeout(10):
                await at_the_end(cluster, 0, 1, 2)
            seconds = monotonic() - began
        answers = await read_to_end(cluster, start)
        monkeypatch.undo()
        await at_the_end(cluster, 3)
        late = await read_to_end(cluster, start)

    begun = Counter(log["partition"] for log in logs if log["event"] == "lane_begins_again")
    assert Counter(str(event.id) for event in requests) == Counter(answer["request_id"] for answer in answers)
    assert str(unreadable.id) in {answer["request_id"] for answer in late}
    assert begun[3] > max(begun[number] for number in range(3)) <= 1
    assert sum(log["event"] == "poll_failed" for log in logs) < 10 + 5 * seconds


async def _logged(logs: list[Any], event: str) -> bool:
    return any(log["event"] == event for log in logs)


# -- offsets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many more questions for offsets are answered as by a coordinator that is loading, which then knows none."""
    send_ = AIOKafkaAdminClient._send_request
    left = [0]

    async def answers(self: AIOKafkaAdminClient, request: Any, node_id: int | None = None) -> Any:
        if isinstance(request, OffsetFetchRequest) and left[0]:
            left[0] -= 1
            return OffsetFetchResponse_v3(0, [], LOADING)
        return await send_(self, request, node_id)

    monkeypatch.setattr(AIOKafkaAdminClient, "_send_request", answers)
    return left


async def test_a_coordinator_that_is_loading_has_not_said_that_there_is_no_offset(
    cluster: Settings, loading: list[int]
) -> None:
    """Asking for offsets fails; planning asks again; so does a lane that opens, and then it works."""
    places = partitions_of(SEND_REQUESTS, cluster.topic_partitions)
    async with admin_client(cluster) as admin:
        loading[0] = 1
        with pytest.raises(KafkaError, match="not known yet"):
            await committed_offsets(admin, SendJob.group, places)
        assert None not in (await committed_offsets(admin, SendJob.group, places)).values()
    loading[0] = 2
    assert [] == await plan_topics(cluster)

    start = await ends(cluster, SEND_RESULTS)
    requests = [send(in_partition(cluster, number)) for number in range(4)]
    await publish(cluster, SEND_REQUESTS, requests)
    loading[0] = 6
    async with working(cluster, _job()):
        answers = await read(cluster, start, len(requests))

    assert 0 == loading[0]
    assert {str(event.id) for event in requests} == {answer["request_id"] for answer in answers}


async def test_an_offset_older_than_what_a_lane_has_published_is_not_taken(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker may tell it for a while after a crash: the lane asks again, and no answer appears twice."""
    place = TopicPartition(SEND_REQUESTS, 0)
    requests = [send(in_partition(cluster, place.partition)) for _ in range(3)]
    start = await ends(cluster, SEND_RESULTS)
    begin = (await ends(cluster, SEND_REQUESTS))[place]
    for request in requests[:2]:
        await publish(cluster, SEND_REQUESTS, [request])
        async with working(cluster, _job()):
            await at_the_end(cluster, place.partition)
    await publish(cluster, SEND_REQUESTS, requests[2:])
    told = iter([None, begin, begin + 1])  # and keeps to it, were it asked again: the lane's row is believed then
    monkeypatch.setattr(recovery, "_ATTEMPTS", 2)
    asked = opening.committed_offsets

    async def loading(admin: AIOKafkaAdminClient, group: str, places: list[TopicPartition]) -> dict[Any, Any]:
        offsets = await asked(admin, group, places)
        return offsets | {place: next(told, offsets[place])} if place in places else offsets

    monkeypatch.setattr(opening, "committed_offsets", loading)
    with capture_logs() as logs:
        async with working(cluster, _job()):
            await at_the_end(cluster, place.partition)
    await settled(cluster)

    doubts = [log["error"] for log in logs if log["event"] == "lane_begins_again" and log["partition"] == 0]
    assert [f"told to be {told}, but answers up to {begin + 2}" for told in (None, begin)] == [
        doubt.split("offset is ")[1].split(" are published")[0] for doubt in doubts
    ]
    answers = await read(cluster, start, 3)
    assert [str(event.id) for event in requests] == [answer["request_id"] for answer in answers]
    row = "select published from lanes where consumer_group = $1 and topic = $2 and partition = 0"
    assert begin + 3 == await database.fetchval(row, SendJob.group, SEND_REQUESTS)


async def test_empty_books_of_a_group_that_has_published_are_refused(cluster: Settings, database: Connection) -> None:
    """They are the wrong database, or one lost: every account would have lost its credits."""
    await publish(cluster, SEND_REQUESTS, [send(in_partition(cluster, number)) for number in range(4)])
    await pass_over(cluster)
    await database.execute("delete from lanes")

    async with living(cluster) as life:
        await life.not_ready("but the books end at 0: is INMAIL_DATABASE_URL the right database")
        await life.not_ready(f"{SEND_REQUESTS}/3 is halted")
        (reason,) = {each for each in life.health.not_ready() if f"{SEND_REQUESTS}/3 is halted" in each}
    place = TopicPartition(SEND_REQUESTS, 3)
    end = (await ends(cluster, SEND_REQUESTS))[place]
    async with reader(cluster) as consumer:
        oldest = (await consumer.beginning_offsets([place]))[place]  # another test may have deleted records
    advice = f"skip send --to-offset {end} --partition 3" if oldest == 0 else f"rewind send --to-offset {oldest}"
    assert f"inmail replay {advice}" in reason


async def test_books_that_lose_what_was_published_while_a_worker_runs_are_refused(
    cluster: Settings, database: Connection
) -> None:
    """A replica took over without the last commits: past them, nobody would hear of what was answered and is gone."""
    account = in_partition(cluster, 3)
    async with living(cluster) as life:
        await publish(cluster, SEND_REQUESTS, [send(account) for _ in range(2)])
        await at_the_end(cluster, 3)
        start = await ends(cluster, SEND_RESULTS)
        lost = "update lanes set next_offset = next_offset - 1 where topic = $1 and partition = 3"
        await database.execute(lost, SEND_REQUESTS)
        await publish(cluster, SEND_REQUESTS, [send(account)])
        await life.not_ready("was it restored from a backup")
    assert start == await ends(cluster, SEND_RESULTS)
