"""What machines may do to a lane: partitions that cannot be read, coordinators that load, clocks, crashes, ends."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition, codec
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetFetchRequest, OffsetFetchResponse_v3
from structlog.testing import capture_logs

from infra.kafka import admin_client, committed_offsets, create_producer, partition_of, partitions_of, reader
from infra.local.stack import LocalStack
from infra.postgres import Connection, connect_database, create_pool, is_transient
from infra.settings import Settings
from schemas.catalogue import (
    CREDIT_EVENTS,
    EXPIRY_TICKS,
    SEND_REQUESTS,
    SEND_RESULTS,
    fingerprint,
)
from schemas.envelope import Event, encode
from schemas.results import TickDecided
from schemas.ticks import ExpiryTick
from tests.ledger.book import DAY, Book, pick
from tests.workers.wire import ends, eventually, pass_over, prepare, publish, read, send, settled, working
from workers import expiry
from workers import worker as worker_module
from workers.expiry import ExpiryJob
from workers.job import Batch, Decision
from workers.lane import LaneError
from workers.ledger.model import Request, Tick
from workers.ledger.plans import load_catalogue
from workers.ops.topics import plan_topics
from workers.send import SendJob
from workers.worker import Worker, WorkerError, run_worker

LOADING = 14  # Kafka's error code of a coordinator that is


async def _set_offset(settings: Settings, group: str, place: TopicPartition, offset: int) -> None:
    async with reader(settings, group) as consumer:
        consumer.assign([place])
        await consumer.commit({place: offset})


def _in_partition(settings: Settings, number: int) -> str:
    """Return a new account of a partition."""
    while partition_of((account := f"a-{uuid4().hex[:12]}").encode(), settings.topic_partitions) != number:
        pass
    return account


def _job() -> SendJob:
    return SendJob(load_catalogue())


@asynccontextmanager
async def _worker(settings: Settings) -> AsyncIterator[Worker]:
    """Make a send worker to look inside."""
    async with create_pool(settings) as pool, admin_client(settings) as admin:
        yield Worker(_job(), settings, pool, admin)


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[Worker]:
    stop = asyncio.Event()
    async with _worker(settings) as worker:
        task = asyncio.create_task(worker.run(stop))
        try:
            yield worker
        finally:
            stop.set()
            await task


async def _at_the_end(settings: Settings, *numbers: int) -> None:
    """Wait until the send group has read so many partitions to their ends."""
    places = [TopicPartition(SEND_REQUESTS, number) for number in numbers]
    async with reader(settings, SendJob.group) as consumer:

        async def done() -> bool:
            end = await consumer.end_offsets(places)
            return all([await consumer.committed(place) == end[place] for place in places])

        await eventually(done, f"the group at the ends of {numbers}")


# -- partitions -------------------------------------------------------------------------------------------------------


async def test_an_offset_beyond_the_end_of_its_partition_is_named(cluster: Settings) -> None:
    """A topic made anew, or records lost: the lane cannot know where to go on, and says so."""
    end = (await ends(cluster, SEND_REQUESTS))[TopicPartition(SEND_REQUESTS, 2)]
    await _set_offset(cluster, SendJob.group, TopicPartition(SEND_REQUESTS, 2), end + 1_000)

    with pytest.raises(LaneError, match=rf"send-requests/2 is {end + 1_000}, but the partition ends at {end}"):
        await asyncio.wait_for(run_worker(_job(), cluster, asyncio.Event()), 20)


class _Held(SendJob):
    """Decides nothing before it may."""

    def __init__(self) -> None:
        super().__init__(load_catalogue())
        self.asked, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        self.asked.set()
        await self.may_go_on.wait()
        return await super().decide(connection, batch)


async def test_a_lane_that_retention_overtakes_says_what_is_lost(cluster: Settings) -> None:
    """Records are deleted that the lane has not fetched yet: its poll fails, and it does not try for ever."""
    place = TopicPartition(SEND_REQUESTS, 1)
    request = send(_in_partition(cluster, place.partition))
    job, stop = _Held(), asyncio.Event()
    async with create_pool(cluster) as pool, admin_client(cluster) as admin:
        worker = Worker(job, cluster, pool, admin)
        task = asyncio.create_task(worker.run(stop))
        try:
            await publish(cluster, SEND_REQUESTS, [request])
            await asyncio.wait_for(job.asked.wait(), 20)
            for held in [(1, False), (2, False), (2, True)]:
                await publish(cluster, SEND_REQUESTS, [request])
                await eventually(lambda held=held: _holds(worker, place, held), f"records where they wait: {held}")
            await publish(cluster, SEND_REQUESTS, [request])
            end = (await ends(cluster, SEND_REQUESTS))[place]
            await admin.delete_records({place: RecordsToDelete(before_offset=end)})
            job.may_go_on.set()

            with pytest.raises(LaneError, match=f"retention removed {SEND_REQUESTS}/1 up to offset {end}"):
                await asyncio.wait_for(task, 10)
        finally:
            job.may_go_on.set()
            stop.set()
            await asyncio.wait([task])


async def _holds(worker: Worker, place: TopicPartition, held: tuple[int, bool]) -> bool:
    """Tell whether so many chunks are in a lane's inbox, and one more in the consumer's hands."""
    return held == (len(worker._lanes[place][0].inbox._chunks), place in worker._consumer._fetcher._records)


async def test_a_partition_that_cannot_be_read_costs_no_other_one_a_record(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lane tries again at leisure; the others answer everything; once it can be read it is answered too."""
    unreadable = send(_in_partition(cluster, 3))
    requests = [send(_in_partition(cluster, n % 3)) for n in range(60)]
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
                await _at_the_end(cluster, 0, 1, 2)
            seconds = monotonic() - began
        await settled(cluster)
        answers = await read(cluster, start, 0)
        monkeypatch.undo()
        await _at_the_end(cluster, 3)
        await settled(cluster)
        late = await read(cluster, start, 0)

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
    requests = [send(_in_partition(cluster, number)) for number in range(4)]
    await publish(cluster, SEND_REQUESTS, requests)
    loading[0] = 6
    async with working(cluster, _job()):
        answers = await read(cluster, start, len(requests))

    assert 0 == loading[0]
    assert {str(event.id) for event in requests} == {answer["request_id"] for answer in answers}


async def test_empty_books_of_a_group_that_has_published_are_refused(cluster: Settings, database: Connection) -> None:
    """They are the wrong database, or one lost: every account would have lost its credits."""
    await publish(cluster, SEND_REQUESTS, [send(_in_partition(cluster, number)) for number in range(4)])
    await pass_over(cluster)
    await database.execute("delete from lanes")

    with pytest.raises(LaneError, match=r"books end at 0: is INMAIL_DATABASE_URL the right.*set next_offset"):
        await asyncio.wait_for(run_worker(_job(), cluster, asyncio.Event()), 20)


# -- Postgres ---------------------------------------------------------------------------------------------------------


async def test_a_lost_client_keeps_its_locks_for_seconds_and_not_for_hours(cluster: Settings) -> None:
    """The server looks whether a client is there, and ends a transaction that nobody goes on with."""
    names = (
        "idle_in_transaction_session_timeout",
        "client_connection_check_interval",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_keepalives_count",
        "tcp_user_timeout",
    )
    async with create_pool(cluster) as pool, pool.acquire() as connection:
        shown = [await connection.fetchval(f"show {name}") for name in names]
    alone = await connect_database(cluster)
    shown_alone = [await alone.fetchval(f"show {name}") for name in names]
    await alone.close()

    assert ["10s", "5s", "5", "2", "3", "10000"] == shown
    assert shown == shown_alone


async def test_a_connection_that_the_server_has_just_ended_may_be_tried_again(
    cluster: Settings, database: Connection
) -> None:
    """Whenever a call finds it out: before the end is read, between its two parts, or after."""
    errors = set()
    for turns in range(60):
        async with create_pool(cluster) as pool, pool.acquire() as connection:
            await database.fetchval("select pg_terminate_backend($1)", connection.get_server_pid())
            for _ in range(turns % 12):
                await asyncio.sleep(0)
            try:
                async with connection.transaction():
                    pass
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                errors.add((type(error).__name__, is_transient(error)))

    assert errors
    assert {True} == {passes for _, passes in errors}, errors


# -- expiry -----------------------------------------------------------------------------------------------------------


async def _lots(database: Connection, count: int, ended: timedelta) -> None:
    """Open lots of one credit in partition 0, for an account each, that ended so long ago."""
    book = Book(database)
    book.now = datetime.now(UTC) - 90 * DAY - ended
    await book.decide(*(book.promotion(1, f"a-{uuid4().hex[:12]}") for _ in range(count)))


def _tick() -> ExpiryTick:
    now = datetime.now(UTC)
    return ExpiryTick.create(id=uuid4(), source="/test", time=now, data={"as_of": now})


async def _book(settings: Settings, database: Connection, tick: ExpiryTick) -> bytes:
    """Decide a tick of partition 0 without a lane; return its answer."""
    request = Request(tick, "", tick.id, fingerprint(tick), tick.time, 0)
    batch = Batch(EXPIRY_TICKS, 0, [request])
    async with reader(settings, None, "read_uncommitted") as asked:
        job = ExpiryJob(asked, load_catalogue(), settings)
        while await job.step(database, batch):
            pass
        return (await job.decide(database, batch)).messages[-1].value


@pytest.mark.parametrize(("grace", "booked"), [(60, 0), (0, 1)])
async def test_a_lot_is_booked_a_grace_after_its_end(
    cluster: Settings, database: Connection, grace: float, booked: int
) -> None:
    """Another broker's clock may be behind: a send may yet come that the lot's credit was good for."""
    await _lots(database, 1, ended=timedelta(seconds=30))

    value = await _book(cluster.model_copy(update={"tick_grace_seconds": grace}), database, _tick())

    assert booked == TickDecided.model_validate_json(value).data["lots"]


async def test_the_horizon_of_a_neighbour_that_never_read_is_one_that_an_answer_can_carry(
    cluster: Settings, database: Connection
) -> None:
    """Nothing is booked, and the answer is one that its readers accept."""
    await publish(cluster, SEND_REQUESTS, [send(_in_partition(cluster, 0))])
    await database.execute("delete from lanes where topic = $1", SEND_REQUESTS)
    await _lots(database, 1, ended=DAY)

    event = TickDecided.model_validate_json(await _book(cluster, database, _tick()))

    assert (0, datetime(2000, 1, 1, tzinfo=UTC)) == pick(event.data, "lots", "horizon")


class _Steps:
    """Watches the steps of a tick, and does something at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._step = expiry.expire_step
        self._decide = ExpiryJob.decide
        self.seen: list[tuple[int, int]] = []  # at the start of each: the lane's epoch, the lines that were there
        monkeypatch.setattr(expiry, "expire_step", self.step)

        async def decide(job: ExpiryJob, connection: Connection, batch: Batch) -> Decision:
            return await self.decide(job, connection, batch)

        monkeypatch.setattr(ExpiryJob, "decide", decide)

    async def step(self, connection: Connection, *rest: Any) -> Tick:
        row = await connection.fetchrow(
            "select (select epoch from lanes where topic = $1 and partition = 0),"
            " (select count(*) from journal where worker = 'expiry')",
            EXPIRY_TICKS,
        )
        self.seen.append(tuple(row or ()))
        tick = await self._step(connection, *rest)
        await self.after(len(self.seen))
        return tick

    async def after(self, number: int) -> None:
        """Nothing happens."""

    async def decide(self, job: ExpiryJob, connection: Connection, batch: Batch) -> Decision:
        return await self._decide(job, connection, batch)


async def _expire(settings: Settings, database: Connection, *events: Event) -> list[dict[str, Any]]:
    """Book 10 lots, 2 a step, with an expiry worker; return the lines and the answer."""
    await _lots(database, 10, ended=DAY)
    start = await ends(settings, CREDIT_EVENTS)
    settings = settings.model_copy(update={"tick_step_lots": 2})
    async with create_producer(settings, "test") as producer:
        for event in events:
            await producer.send_and_wait(EXPIRY_TICKS, encode(event), partition=0)
    async with (
        reader(settings, None, "read_uncommitted") as asked,
        working(settings, ExpiryJob(asked, load_catalogue(), settings)),
    ):
        return await read(settings, start, 20 + len(events))


def _judge(found: list[dict[str, Any]]) -> None:
    """Ten lines that credits are gone, ten that none are left, each once, and then whole counts."""
    kinds = Counter(each["code"] for each in found)
    assert len(found) == len({each["id"] for each in found})
    assert {"expired": 10, "exhausted": 10, "booked": kinds["booked"]} == kinds
    assert [(10, 10, True)] + [(0, 0, True)] * (kinds["booked"] - 1) == [
        pick(each, "lots", "credits", "complete") for each in found if each["code"] == "booked"
    ]


async def test_a_tick_is_booked_in_steps_that_are_committed_one_by_one_and_answered_once(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that sends of the same accounts never wait for more than a step. A second tick finds nothing left."""
    steps = _Steps(monkeypatch)

    found = await _expire(cluster, database, _tick(), _tick())

    _judge(found)
    assert [0, 4, 8, 12, 16, 20, 20] == [lines for _, lines in steps.seen]
    assert 5 == await database.fetchval("select count(distinct xmin::text) from journal where worker = 'expiry'")


async def test_a_tick_that_crashes_between_its_steps_goes_on_where_it_was(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third step fails, and so does the answer after the last: every line is published, and once."""
    crashed = []

    class Crashing(_Steps):
        async def after(self, number: int) -> None:
            if number == 3:
                crashed.append("step")
                raise asyncpg.DeadlockDetectedError("planted")

        async def decide(self, job: ExpiryJob, connection: Connection, batch: Batch) -> Decision:
            decision = await super().decide(job, connection, batch)
            if "answer" not in crashed:
                crashed.append("answer")
                raise asyncpg.SerializationError("planted")
            return decision

    steps = Crashing(monkeypatch)

    found = await _expire(cluster, database, _tick())

    _judge(found)
    assert ["step", "answer"] == crashed
    assert [0, 4, 8, 8, 12, 16, 20] == [lines for _, lines in steps.seen]


async def test_an_older_owner_cannot_commit_a_step(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successor raises the epoch between two steps: the second one is refused before it does anything."""
    raising: list[asyncio.Task[Any]] = []

    class Succeeded(_Steps):
        async def after(self, number: int) -> None:
            if number != 2:
                return
            raising.append(asyncio.create_task(self.succeed()))
            await eventually(self.waits, "a successor that waits for the step at hand")

        async def succeed(self) -> str:
            other = await connect_database(cluster)
            try:
                return await other.execute("update lanes set epoch = epoch + 10 where topic = $1", EXPIRY_TICKS)
            finally:
                await other.close()

        async def waits(self) -> bool:
            return await database.fetchval(
                "select exists (select from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock')"
            )

    steps = Succeeded(monkeypatch)

    found = await _expire(cluster, database, _tick())

    _judge(found)
    first = steps.seen[0][0]
    assert [(first, 0), (first, 4)] + [(first + 11, lines) for lines in (8, 12, 16, 20)] == steps.seen
    assert ["UPDATE 4"] == await asyncio.gather(*raising)


# -- ends -------------------------------------------------------------------------------------------------------------


class _Slow(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member that takes its time to give partitions up."""

    def __init__(self) -> None:
        self.asked, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        if revoked:
            self.asked.set()
            await self.may_go_on.wait()

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        """Begin nothing."""


async def test_a_worker_that_waits_for_a_slow_group_ends_in_time(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A join may take as long as the slowest member's drain; SIGTERM does not wait for it."""
    slow = _Slow()
    member = AIOKafkaConsumer(
        bootstrap_servers=cluster.kafka_bootstrap_servers,
        group_id=SendJob.group,
        rebalance_timeout_ms=60_000,
        heartbeat_interval_ms=100,
        enable_auto_commit=False,
    )

    async def release() -> None:
        slow.may_go_on.set()
        await member.stop()

    own = cluster.model_copy(update={"drain_seconds": 1})
    stop = asyncio.Event()
    async with _ending(monkeypatch, release), _worker(own) as worker:
        member.subscribe([SEND_REQUESTS], listener=slow)
        await member.start()
        task = asyncio.create_task(worker.run(stop))
        await asyncio.wait_for(slow.asked.wait(), 20)
        seconds = await _seconds_to_end(task, stop)

    assert seconds < 5


async def test_no_lane_is_opened_once_a_worker_is_stopping(cluster: Settings) -> None:
    """A rebalance that ends during the drain assigns partitions to nobody."""
    async with _running(cluster) as worker:
        await eventually(lambda: _has_lanes(worker), "an assignment")
    before = dict(worker._lanes)
    tasks = asyncio.all_tasks()

    await worker.on_partitions_assigned([TopicPartition(SEND_REQUESTS, 0)])

    assert before == worker._lanes
    assert set() == asyncio.all_tasks() - tasks


async def _has_lanes(worker: Worker) -> bool:
    return bool(worker._lanes)


@pytest.fixture(scope="module")
def frozen() -> Iterator[LocalStack]:
    """A broker to freeze, beside the one of the other tests."""
    with LocalStack(postgres=False) as stack:
        yield stack


@pytest.mark.parametrize("moment", ["joining", "working"])
async def test_a_worker_whose_broker_does_not_answer_ends_in_time(
    settings: Settings, frozen: LocalStack, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither joining a group nor leaving it may keep it: what is not done in its time is left."""
    changes = {"kafka_bootstrap_servers": frozen.kafka_bootstrap_servers, "drain_seconds": 1, "topic_partitions": 2}
    own = settings.model_copy(update=changes)
    await prepare(own)

    async def release() -> None:
        os.kill(frozen.kafka_pid, signal.SIGCONT)

    stop = asyncio.Event()
    async with _ending(monkeypatch, release), _worker(own) as worker:
        if moment == "joining":
            os.kill(frozen.kafka_pid, signal.SIGSTOP)
        task = asyncio.create_task(worker.run(stop))
        if moment == "working":
            await eventually(lambda: _has_lanes(worker), "an assignment")
            os.kill(frozen.kafka_pid, signal.SIGSTOP)
        seconds = await _seconds_to_end(task, stop)

    assert seconds < 5


async def test_a_worker_that_cannot_connect_ends_in_time(
    settings: Settings, frozen: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that answers to nobody does not keep a worker that is told to stop before it had begun."""
    own = settings.model_copy(update={"kafka_bootstrap_servers": frozen.kafka_bootstrap_servers, "drain_seconds": 1})

    async def release() -> None:
        os.kill(frozen.kafka_pid, signal.SIGCONT)

    stop = asyncio.Event()
    async with _ending(monkeypatch, release):
        os.kill(frozen.kafka_pid, signal.SIGSTOP)
        task = asyncio.create_task(run_worker(SendJob(load_catalogue()), own, stop))
        done, _ = await asyncio.wait([task], timeout=0.5)
        seconds = await _seconds_to_end(task, stop)

    assert set() == done
    assert seconds < 5


@asynccontextmanager
async def _ending(
    monkeypatch: pytest.MonkeyPatch, release: Callable[[], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """Allow an end one second beyond the drain; afterwards release what kept it, and let what it left behind finish."""
    monkeypatch.setattr(worker_module, "_STOP_SECONDS", 1.0)
    before = asyncio.all_tasks()
    try:
        yield
    finally:
        await release()
        if left := asyncio.all_tasks() - before:
            await asyncio.wait(left, timeout=20)


async def _seconds_to_end(task: asyncio.Task[None], stop: asyncio.Event) -> float:
    """Stop a worker and return how long it took. It may say that it could not leave its group."""
    began = monotonic()
    stop.set()
    await asyncio.wait([task], timeout=10)
    seconds = monotonic() - began
    with suppress(WorkerError):
        await task
    return seconds
