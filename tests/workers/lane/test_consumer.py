"""aiokafka's consumer, watched: its tasks may end of an error that they did not expect, and nobody would tell."""

import asyncio
import socket
from contextlib import aclosing, suppress
from functools import partial
from operator import attrgetter
from time import monotonic
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import CloseReason, collect_hosts
from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError, UnknownError
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import ConsumerRecord

from infra.kafka import aiokafka_fixes, connecting
from infra.kafka.aiokafka_fixes import Consumer, ConsumerLostError
from infra.kafka.clients import create_consumer, reader
from infra.kafka.connecting import protect_bootstrap
from infra.kafka.end_offsets import EndOffsets
from infra.kafka.fetch_pace import GATHERING, WAITING
from infra.kafka.poller import Polled
from infra.retry import is_retriable
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from tests.workers.life import living
from tests.workers.wire import ends, eventually, publish, read, send
from workers.errors import WorkerError
from workers.jobs.send import SendJob
from workers.lane import worker
from workers.lane.clients import Clients
from workers.lane.inbox import Taken
from workers.lane.membership import Membership
from workers.lane.work import Work
from workers.lane.worker import run_worker
from workers.ledger.plans import load_catalogue
from workers.telemetry.health import Health
from workers.telemetry.tracing import NO_TRACES

PLACE = TopicPartition(SEND_REQUESTS, 0)


@pytest.mark.parametrize("task", ["_fetcher._fetch_task", "_client._sync_task"])
async def test_a_consumer_whose_tasks_have_ended_says_so(cluster: Settings, task: str) -> None:
    """A poll would return nothing for ever."""
    async with reader(cluster) as consumer:
        consumer.assign([TopicPartition(SEND_REQUESTS, 0)])
        assert {} == await consumer.getmany(timeout_ms=0)
        attrgetter(task)(consumer).cancel()
        await asyncio.wait([attrgetter(task)(consumer)])

        with pytest.raises(ConsumerLostError, match="has ended"):
            await consumer.getmany(timeout_ms=0)


async def test_a_member_whose_heartbeat_has_ended_is_told_so_though_it_polls_nothing(cluster: Settings) -> None:
    """The group would go on without it. What it has not polled for a day counts from the last check."""
    consumer = create_consumer(cluster, f"group-{uuid4().hex[:8]}", 10)
    consumer.subscribe([SEND_REQUESTS])
    async with consumer:

        async def is_member() -> bool:
            return consumer._coordinator._heartbeat_task is not None

        await eventually(is_member, "a member")
        consumer._subscription._last_fetch_ended = monotonic() - 100
        consumer.check()
        idle = consumer._subscription.fetcher_idle_time
        consumer._coordinator._heartbeat_task.cancel()
        consumer._coordinator._heartbeat_task = asyncio.create_task(_fails(RuntimeError("handler is closed")))
        await asyncio.wait([consumer._coordinator._heartbeat_task])

        with pytest.raises(ConsumerLostError, match="handler is closed"):
            consumer.check()

    assert idle < 1


async def test_a_member_whose_coordination_failed_is_lost(cluster: Settings) -> None:
    """Each look would find the same error of Kafka's, which looks as if it may pass: a standby would stand for ever."""
    consumer = create_consumer(cluster, f"group-{uuid4().hex[:8]}", 10)
    consumer.subscribe([SEND_REQUESTS])
    async with consumer:
        whole, coordinator = consumer._coordinator._coordination_task, consumer._coordinator
        coordinator._coordination_task = asyncio.create_task(_fails(KafkaError("Unexpected error")))
        await asyncio.wait([coordinator._coordination_task])

        with pytest.raises(ConsumerLostError, match="Unexpected error"):
            consumer.check()
        coordinator._coordination_task = whole


async def test_ends_are_asked_of_another_client_once_one_is_lost(cluster: Settings) -> None:
    """Each question to the lost one would take 40 s, and fail."""
    place = TopicPartition(SEND_REQUESTS, 0)
    async with aclosing(EndOffsets(cluster)) as ends:
        found = await ends.end_offsets([place])
        ends._consumer._client._sync_task.cancel()
        await asyncio.wait([ends._consumer._client._sync_task])

        with pytest.raises(KafkaConnectionError, match="has ended") as lost:
            await ends.end_offsets([place])
        assert is_retriable(lost.value)  # the worker's own consumer is well
        assert found == await ends.end_offsets([place])


async def test_the_loss_of_a_reader_is_no_loss_of_the_worker_s_consumer(cluster: Settings) -> None:
    """Such as one that looks for answers as lanes are opened: the worker joined its group anew, twice."""

    async def lose() -> None:
        async with reader(cluster) as consumer:
            consumer._client._sync_task.cancel()
            await asyncio.wait([consumer._client._sync_task])
            await consumer.end_offsets([TopicPartition(SEND_REQUESTS, 0)])

    with pytest.raises(KafkaConnectionError, match="has ended") as lost:
        await lose()

    assert is_retriable(lost.value)


async def test_each_of_many_addresses_has_time_to_answer(cluster: Settings) -> None:
    """A fortieth of it is a second: a broker under load would be passed over, and all in turn."""
    hosts = [cluster.kafka_bootstrap_servers] * 40
    client = AIOKafkaClient(bootstrap_servers=hosts, request_timeout_ms=40_000)
    bootstrap, seconds = client.bootstrap, []

    async def note() -> None:
        seconds.append(client._request_timeout_ms / 1000)
        await bootstrap()

    client.bootstrap = note
    protect_bootstrap(client)
    await client.bootstrap()
    await client.close()

    assert [5.0] == seconds
    assert 40_000 == client._request_timeout_ms


async def test_a_silent_broker_does_not_keep_a_client_from_the_others(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aiokafka asks one after the other, in random order, and waits for each as long as for an answer."""
    monkeypatch.setattr(connecting, "_LEAST_MILLISECONDS", 1_000)
    monkeypatch.setattr("aiokafka.client.collect_hosts", partial(collect_hosts, randomize=False))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _, port = silent.getsockname()
        hosts = [f"127.0.0.1:{port}", cluster.kafka_bootstrap_servers]
        client = AIOKafkaClient(bootstrap_servers=hosts, request_timeout_ms=3_000)
        protect_bootstrap(client)
        began = monotonic()
        await client.bootstrap()
        seconds = monotonic() - began
        await client.close()

    assert 1.4 < seconds < 3  # half of the time, for one of two
    assert 3_000 == client._request_timeout_ms


async def test_who_asks_a_silent_broker_for_offsets_is_told_soon_and_so_is_who_connects_to_it(
    unasked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lanes that were being opened waited 40 s for the old leader of one of them, though it had another by then."""

    async def silent(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(aiokafka_fixes, "_SILENT_SECONDS", 0.05)
    monkeypatch.setattr(AIOKafkaClient, "_get_conn", silent)
    monkeypatch.setattr(AIOKafkaClient, "send", silent)
    consumer = create_consumer(unasked, "a-group", 1)
    client, connection = consumer._client, Mock()
    client.force_metadata_update = Mock()
    client._conns[1, ConnectionGroup.DEFAULT] = connection
    client.cluster._brokers = {1: Mock(), 2: Mock()}
    async with asyncio.timeout(5):
        with pytest.raises(RequestTimedOutError):
            await client.send(1, OffsetRequest(-1, 0, []))
        assert await client._get_conn(1) is None
    consumer._closed = True  # else aiokafka warns of it

    connection.close.assert_called_once_with(CloseReason.CONNECTION_TIMEOUT)
    client.force_metadata_update.assert_called_once_with()


async def test_a_member_whose_task_aiokafka_cancelled_is_lost_and_nobody_is_cancelled(cluster: Settings) -> None:
    """A question that meets the end of such a task would end the worker as if it were told to stop."""
    consumer = create_consumer(cluster, f"group-{uuid4().hex[:8]}", 10)
    consumer.subscribe([SEND_REQUESTS])
    async with consumer:
        place = next(iter(consumer.assignment()))
        consumer._coordinator._coordination_task.cancel()
        await asyncio.wait([consumer._coordinator._coordination_task])
        consumer._subscription.subscription.assignment.state_value(place).await_reset("earliest")

        with pytest.raises(ConsumerLostError, match="has ended"):
            consumer.check()
        with pytest.raises(ConsumerLostError, match="nobody had stopped it"):
            await consumer.position(place)


async def _fails(error: Exception) -> None:
    raise error


async def test_a_consumer_s_fetches_can_be_made_to_wait_otherwise(cluster: Settings) -> None:
    """What is changed is what aiokafka took from its options and sends with each fetch."""
    consumer = create_consumer(cluster, f"group-{uuid4().hex[:8]}", 10)
    consumer.subscribe([SEND_REQUESTS])
    async with consumer:
        fetcher = consumer._fetcher
        assert (fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms) == GATHERING
        consumer.change_fetch_wait(WAITING)
        assert (fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms) == WAITING


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_consumer_that_stops_loses_no_cancellation_of_its_caller(
    unasked: Settings, monkeypatch: pytest.MonkeyPatch, *, is_cancelled: bool
) -> None:
    """What aiokafka awaits is a task that it has cancelled itself: it suppresses both cancellations, or raises that."""

    async def stop(_: AIOKafkaConsumer) -> None:
        if not is_cancelled:
            raise asyncio.CancelledError
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    monkeypatch.setattr(AIOKafkaConsumer, "stop", stop)
    consumer = create_consumer(unasked, "a-group", 1)
    consumer._client.close = AsyncMock()
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.sleep(0)
    if is_cancelled:
        stopping.cancel()
    await asyncio.wait([stopping])

    assert is_cancelled is stopping.cancelled()
    consumer._closed = True  # else aiokafka warns of it


async def test_an_error_of_uvloop_s_is_a_consumer_that_is_lost(cluster: Settings, monkeypatch: Any) -> None:
    """Of a write to a connection that has just been lost. No error of Kafka's is one, though aiokafka derives it so."""
    async with reader(cluster) as consumer:
        consumer.assign([TopicPartition(SEND_REQUESTS, 0)])
        for error, kind in (
            (RuntimeError("handler is closed"), ConsumerLostError),
            (asyncio.CancelledError(), ConsumerLostError),  # the poll would end as if the worker were told to stop
            (UnknownError(), UnknownError),
        ):
            monkeypatch.setattr(consumer._fetcher, "fetched_records", AsyncMock(side_effect=error))
            with pytest.raises(kind):
                await consumer.getmany(timeout_ms=0)


def _membership(settings: Settings, consumer: Any) -> Membership:
    clients = Clients(consumer, *[AsyncMock()] * 3, Health(30), AsyncMock(), NO_TRACES, AsyncMock(), {})
    return Membership(Work(SendJob(load_catalogue()), settings, clients))


async def test_a_consumer_that_does_not_start_is_replaced(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The broker went away after the worker's first client had reached it. A process that ends is no answer to that."""
    whole, failures = Consumer.start, iter(range(3))

    async def start(consumer: Consumer) -> None:
        if consumer._group_id == SendJob.group and next(failures, None) is not None:
            raise KafkaConnectionError("Unable to bootstrap")
        await whole(consumer)

    begin, request = await ends(cluster, SEND_RESULTS), send(account)
    await publish(cluster, SEND_REQUESTS, [request])
    monkeypatch.setattr(Consumer, "start", start)
    async with living(cluster):
        (answer,) = await read(cluster, begin, 1)

    assert str(request.id) == answer["request_id"]
    assert "the consumer did not start" in capsys.readouterr().out


async def test_a_database_that_goes_away_while_a_worker_starts_does_not_end_it(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for a warning's sake is asked once, after the pool was opened."""
    lost = AsyncMock(side_effect=asyncpg.ConnectionDoesNotExistError())
    monkeypatch.setattr(worker, "find_weak_settings", lost)
    begin, stop = await ends(cluster, SEND_RESULTS), asyncio.Event()
    await publish(cluster, SEND_REQUESTS, [send(account)])
    running = asyncio.create_task(run_worker(SendJob(load_catalogue()), cluster, stop))
    try:
        await read(cluster, begin, 1)
    finally:
        stop.set()
        await running

    lost.assert_awaited()


async def test_a_lane_that_comes_back_is_asked_about_no_more_often(settings: Settings) -> None:
    """A member that looks for what it has published may lose its lanes meanwhile, again and again."""
    consumer = SimpleNamespace(check=Mock(), change_fetch_wait=Mock())
    membership = _membership(settings, consumer)
    checks = []
    for _ in range(2):
        await membership.on_partitions_assigned([PLACE])
        checks.append(membership.lanes[PLACE].check)
        await membership.on_partitions_revoked([PLACE])
    await membership._owners.stop()
    assert checks[0] is checks[1]


async def test_a_lane_that_begins_again_during_a_poll_is_not_given_what_was_polled_before(settings: Settings) -> None:
    """Polled one by one, others are waited for meanwhile: records 20 to 29 would be decided before 8 to 19."""
    position = 30
    consumer = SimpleNamespace(change_fetch_wait=Mock(), position=AsyncMock(side_effect=lambda _: position))
    membership = _membership(settings, consumer)
    await membership.on_partitions_assigned([PLACE])
    lane = membership.lanes[PLACE]
    lane.open(20)
    polled = Polled({PLACE: [_record(offset) for offset in range(20, 30)]}, {})

    lane.close()
    lane.open(position := 8)
    await membership._deliver([PLACE], polled)
    assert 0 == lane.inbox.records

    position = 30
    lane.open(20)
    lane.inbox.put_back(Taken([_record(19, bytes(1_000_000))], 20))  # it needs no more: what was fetched is taken
    await membership._deliver([PLACE], polled)
    assert 11 == lane.inbox.records
    await membership.on_partitions_revoked([PLACE])
    await membership._owners.stop()


def _record(offset: int, value: bytes = b"") -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord(*PLACE, offset, 0, 0, None, value, 0, 0, 0, ())


async def test_a_member_without_partitions_ends_with_its_consumer(settings: Settings) -> None:
    """And not of an error that may pass: the group is joined again."""
    looks = iter([UnknownError(), None, ConsumerLostError("the heartbeat has ended")])

    def check() -> None:
        if (error := next(looks)) is not None:
            raise error

    membership = _membership(settings, SimpleNamespace(check=check, change_fetch_wait=Mock()))
    started = asyncio.create_task(asyncio.sleep(0))

    with pytest.raises(KafkaError, match="the heartbeat has ended"):
        await asyncio.wait_for(membership._pump(started, asyncio.Event()), 5)
    await membership._owners.stop()


async def test_a_worker_whose_poll_was_cancelled_by_nobody_says_so(settings: Settings, monkeypatch: Any) -> None:
    """Its end would look like one in order: code 0, and not a word."""
    consumer = SimpleNamespace(
        subscribe=Mock(), start=AsyncMock(), stop=AsyncMock(), membership=None, change_fetch_wait=Mock()
    )
    membership = _membership(settings, consumer)
    monkeypatch.setattr(membership, "_pump", AsyncMock(side_effect=asyncio.CancelledError()))

    with pytest.raises(WorkerError, match="nobody had stopped it"):
        await asyncio.wait_for(membership.run(asyncio.Event()), 5)


@pytest.mark.parametrize("is_told_to_stop", [True, False])
async def test_a_worker_that_loses_its_consumer_as_it_ends_says_what_did_not_end(
    settings: Settings, monkeypatch: Any, *, is_told_to_stop: bool
) -> None:
    """Its code was 0, as nobody replaces the consumer of a worker that is to stop. One that goes on replaces it."""
    consumer = SimpleNamespace(subscribe=Mock(), start=AsyncMock(), change_fetch_wait=Mock())
    membership = _membership(settings, consumer)
    stop = asyncio.Event()

    async def pump(*_: object) -> None:
        if is_told_to_stop:
            stop.set()
        raise ConsumerLostError("planted")

    monkeypatch.setattr(membership, "_pump", pump)
    monkeypatch.setattr(membership, "_end", AsyncMock(return_value="not drained"))
    error, message = (WorkerError, "not drained") if is_told_to_stop else (ConsumerLostError, "planted")
    with pytest.raises(error, match=message):
        await asyncio.wait_for(membership.run(stop), 5)


async def test_a_consumer_that_is_lost_is_replaced_and_the_worker_goes_on(cluster: Settings, account: str) -> None:
    """Aiokafka's tasks end for good at an error that they did not expect. The process need not."""
    start = await ends(cluster, SEND_RESULTS)
    async with living(cluster) as life:
        await life.ready()
        lost = life.worker.membership
        assert lost is not None
        task = lost._consumer._fetcher._fetch_task
        task.cancel()
        await publish(cluster, SEND_REQUESTS, [request := send(account)])
        (answer,) = await read(cluster, start, 1)

        assert str(request.id) == answer["request_id"]
        assert life.worker.membership is not lost
        assert not life.task.done()
        await life.ready()


async def test_a_membership_that_lost_its_consumer_leaves_no_lanes_behind(settings: Settings, monkeypatch: Any) -> None:
    """The next consumer may get other partitions: the process would wait for lanes of others, and end as stuck."""
    consumer = SimpleNamespace(
        subscribe=Mock(), start=AsyncMock(), stop=AsyncMock(), membership=None, change_fetch_wait=Mock()
    )
    membership = _membership(settings, consumer)
    health = membership._health
    places = [PLACE, TopicPartition(SEND_REQUESTS, 1)]

    async def pump(*_: object) -> None:
        await membership.on_partitions_assigned(places)
        health.polls()
        raise ConsumerLostError("planted")

    end, told = membership._end, []

    async def end_after_a_look(*arguments: Any) -> str | None:
        told.extend(reason for reason in health.not_ready() if not reason.startswith("lane "))
        return await end(*arguments)

    monkeypatch.setattr(membership, "_pump", pump)
    monkeypatch.setattr(membership, "_end", end_after_a_look)
    with pytest.raises(ConsumerLostError, match="planted"):
        await asyncio.wait_for(membership.run(asyncio.Event()), 5)

    assert ({}, ["joining"]) == (health.lanes, told)
    health.clock = lambda: monotonic() + health.stuck_seconds + 1
    assert health.dead() is not None
