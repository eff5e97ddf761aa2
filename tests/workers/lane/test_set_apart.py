"""A lane that keeps the others of its worker from their turns is set apart: they go on, and so does it once it can."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import AsyncMock, Mock

import asyncpg
import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from infra.clock import utc_now
from infra.kafka import transactions
from infra.kafka.clients import create_producer
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from schemas.catalogue import CREDIT_EVENTS, EXPIRY_TICKS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import encode
from tests.ledger.book import DAY, Book
from tests.workers.lane.test_lane_ticks import _tick
from tests.workers.life import at_the_end, in_partition, living, once_each
from tests.workers.wire import ends, eventually, publish, read, send, settled
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.lane.circuit_breaker import CircuitBreaker
from workers.lane.deciding import Decided, Decider, LaneBatch
from workers.lane.inbox import Taken
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRows
from workers.lane.recovery import CommittedOffsetCheck
from workers.lane.time_order import Decidable
from workers.ledger.plans import load_catalogue
from workers.telemetry.health import Health
from workers.telemetry.tracing import NO_TRACES

pytestmark = pytest.mark.usefixtures("soon_over_it")


async def _is_set_apart(logs: Sequence[Mapping[str, Any]]) -> bool:
    return any(log["event"] == "lanes_set_apart" for log in logs)


async def test_an_account_that_somebody_keeps_locked_holds_up_its_own_partition_only(
    cluster: Settings, database: Connection
) -> None:
    """Whoever decided it with the others would wait with it. Afterwards all lanes have one owner again."""
    start = await ends(cluster, SEND_RESULTS)
    locked = in_partition(cluster, 2)
    known, requests = send(locked), [send(in_partition(cluster, number % 4)) for number in range(40)]
    holder = await connect_database(cluster)
    with capture_logs() as logs:
        async with living(cluster) as life:
            await publish(cluster, SEND_REQUESTS, [known])
            await at_the_end(cluster, 2)
            async with holder.transaction():
                await holder.execute("select from accounts where account_id = $1 for update", locked)
                late = send(locked)
                await publish(cluster, SEND_REQUESTS, [late, *requests])
                await at_the_end(cluster, 0, 1, 3)
                await life.not_ready(f"lane {SEND_REQUESTS}/2")
                await eventually(lambda: _is_set_apart(logs), "set apart")
            await at_the_end(cluster, 2)
            await life.ready()
            await settled(cluster)
            answers = await read(cluster, start, 42)
            owners = await database.fetch("select distinct owner from lanes where topic = $1", SEND_REQUESTS)
    await holder.close()

    assert once_each([known, late, *requests], answers)
    assert [[2]] == [log["partitions"] for log in logs if log["event"] == "lanes_set_apart"]
    assert 2 >= len(owners)


async def test_an_account_that_somebody_keeps_locked_holds_up_the_ticks_of_its_own_partition_only(
    cluster: Settings, database: Connection
) -> None:
    """A tick's steps are transactions of their own, one lane after the other."""
    start, locked, book = await ends(cluster, CREDIT_EVENTS), in_partition(cluster, 2), Book(database)
    book.now = utc_now() - 91 * DAY
    await book.decide(book.promotion(1, locked))
    holder = await connect_database(cluster)
    with capture_logs() as logs:
        async with living(cluster, ExpiryJob(load_catalogue(), cluster)) as life:
            await life.ready()
            async with holder.transaction():
                await holder.execute("select from accounts where account_id = $1 for update", locked)
                async with create_producer(cluster, "test") as producer:
                    for number in (2, 0, 1, 3):
                        await producer.send_and_wait(EXPIRY_TICKS, encode(_tick()), partition=number)
                await at_the_end(cluster, 0, 1, 3, topic=EXPIRY_TICKS)
                await life.not_ready(f"lane {EXPIRY_TICKS}/2")
            await at_the_end(cluster, 2, topic=EXPIRY_TICKS)
            await life.ready()
            answers = await read(cluster, start, 6)
    await holder.close()

    assert {"booked": 4, "expired": 1, "exhausted": 1} == Counter(answer["code"] for answer in answers)
    assert "lanes_begin_again" not in {log["event"] for log in logs}


async def test_a_database_that_takes_no_step_is_not_asked_for_a_step_of_each_lane(unasked: Settings) -> None:
    """Each question waits as long as for a lock. The trouble is of all lanes then."""
    pool = AsyncMock()
    pool.acquire = Mock(side_effect=asyncpg.LockNotAvailableError("planted"))
    rows, job = LaneRows(pool, ExpiryJob.group, EXPIRY_TICKS), ExpiryJob(load_catalogue(), unasked)
    decider = Decider(job, rows, CircuitBreaker(unasked), health := Health(30), NO_TRACES)
    places = [TopicPartition(EXPIRY_TICKS, number) for number in range(12)]
    lanes = [Lane(ExpiryJob.group, each, pool, unasked, health.lane(each), CommittedOffsetCheck()) for each in places]

    with pytest.raises(asyncpg.LockNotAvailableError):
        await decider.finish_steps([LaneBatch(lane, Taken([], 0), Decidable(0)) for lane in lanes])

    assert 3 == pool.acquire.call_count


@pytest.mark.parametrize("steps", [True, False])
async def test_lanes_that_are_locked_before_the_others_hold_up_one_turn_only(
    unasked: Settings, monkeypatch: pytest.MonkeyPatch, *, steps: bool
) -> None:
    """As many as count as the database's trouble: the next turn comes to the others first."""
    decider = Decider(Mock(), Mock(), Mock(), health := Health(30), NO_TRACES)
    places = [TopicPartition(SEND_REQUESTS, number) for number in range(6)]
    lanes = [Lane(SendJob.group, each, Mock(), unasked, health.lane(each), CommittedOffsetCheck()) for each in places]
    batches = [LaneBatch(lane, Taken([], 0), Decidable(0)) for lane in lanes]
    for lane in lanes:
        lane.open(0)

    def fails_if_locked(of: Sequence[LaneBatch]) -> None:
        if any(each.lane in lanes[:3] for each in of):
            raise asyncpg.LockNotAvailableError("planted")

    async def decide(of: Sequence[LaneBatch]) -> Decided:
        fails_if_locked(of)
        return Decided(dict.fromkeys([each.lane for each in of], 1), [])

    async def finish_step(batch: LaneBatch) -> bool:
        fails_if_locked([batch])
        return True

    async def work() -> set[Lane]:
        ready = sorted(batches, key=lambda each: (each.lane.received_at, each.lane.partition))  # as a turn takes them
        if steps:
            return {each.lane for each in await decider.finish_steps(ready)}
        return {lane for decided in await decider.decide(ready) for lane in decided.next_offsets}

    monkeypatch.setattr(decider, "_decide", decide)
    monkeypatch.setattr(decider, "_finish_step", finish_step)
    with pytest.raises(asyncpg.LockNotAvailableError):
        await work()

    assert set(lanes[3:]) == await work()
    assert all(isinstance(lane.inbox.error, asyncpg.LockNotAvailableError) for lane in lanes[:3])


async def test_accounts_that_somebody_keeps_locked_in_three_partitions_hold_up_no_other_one(cluster: Settings) -> None:
    """All of them come before the one that is free, in each turn that begins with the first."""
    start = await ends(cluster, SEND_RESULTS)
    locked = [in_partition(cluster, number) for number in (0, 1, 2)]
    known, late = [send(each) for each in locked], [send(each) for each in locked]
    free = [send(in_partition(cluster, 3)) for _ in range(5)]
    holder = await connect_database(cluster)
    async with living(cluster) as life:
        await publish(cluster, SEND_REQUESTS, known)
        await at_the_end(cluster, 0, 1, 2)
        async with holder.transaction():
            await holder.execute("select from accounts where account_id = any($1) for update", locked)
            await publish(cluster, SEND_REQUESTS, [*late, *free])
            await at_the_end(cluster, 3)
        await at_the_end(cluster, 0, 1, 2)
        await life.ready()
        await settled(cluster)
        answers = await read(cluster, start, 11)
    await holder.close()

    assert once_each([*known, *late, *free], answers)


async def test_a_database_that_does_not_answer_in_time_is_no_lock(unasked: Settings) -> None:
    """A wait for a lock ends by an error of its own, much sooner. Each lane alone would wait as long once more."""
    pool = AsyncMock()
    pool.acquire = Mock(side_effect=TimeoutError)
    rows, job = LaneRows(pool, SendJob.group, SEND_REQUESTS), SendJob(load_catalogue())
    decider = Decider(job, rows, CircuitBreaker(unasked), health := Health(30), NO_TRACES)
    places = [TopicPartition(SEND_REQUESTS, number) for number in range(3)]
    lanes = [Lane(SendJob.group, each, pool, unasked, health.lane(each), CommittedOffsetCheck()) for each in places]

    with pytest.raises(TimeoutError):
        await decider.decide([LaneBatch(lane, Taken([], 0), Decidable(0)) for lane in lanes])

    assert 1 == pool.acquire.call_count


async def test_a_partition_whose_results_nobody_takes_holds_up_its_own_only(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that no broker leads: the transaction of all fails, and is done again without it."""
    start = await ends(cluster, SEND_RESULTS)
    requests = [send(in_partition(cluster, number % 4)) for number in range(40)]
    own = cluster.model_copy(update={"transaction_seconds": 3})
    may_be_taken, hand_over = asyncio.Event(), transactions._hand_over

    async def hands_over(producer: Any, batch: Any, place: TopicPartition, origins: frozenset[int]) -> Any:
        delivery = await hand_over(producer, batch, place, origins)
        if place.partition == 2 and not may_be_taken.is_set():
            return delivery._replace(future=asyncio.get_running_loop().create_future())
        return delivery

    monkeypatch.setattr(transactions, "_hand_over", hands_over)
    with capture_logs() as logs:
        async with living(own) as life:
            await life.ready()
            await publish(own, SEND_REQUESTS, requests)
            await at_the_end(own, 0, 1, 3)
            await life.not_ready(f"lane {SEND_REQUESTS}/2")
            may_be_taken.set()
            await at_the_end(own, 2)
            await life.ready()
            await settled(own)
            answers = await read(own, start, 40)

    assert once_each(requests, answers)
    assert [2] in [log["partitions"] for log in logs if log["event"] == "lanes_set_apart"]
