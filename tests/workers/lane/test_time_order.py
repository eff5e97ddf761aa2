"""That the books do not depend on how fast each lane read: one history, many interleavings."""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from random import Random
from time import monotonic
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock
from uuid import UUID, uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError
from aiokafka.structs import ConsumerRecord

from infra.clock import EARLIEST, LATEST, from_milliseconds
from infra.kafka.clients import create_producer, reader
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, CATALOGUE, EXPIRY_TICKS, SEND_REQUESTS
from schemas.envelope import encode
from tests.whole import ALL
from tests.workers.lane.test_lane_ticks import _tick
from tests.workers.life import in_partition
from tests.workers.wire import eventually, prepare, promotion, send, working
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.job import Batch, Decision, Job
from workers.jobs.send import SendJob
from workers.lane import partition_bounds
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRows
from workers.lane.partition_bounds import PartitionBounds
from workers.lane.recovery import CommittedOffsetCheck
from workers.lane.time_order import Order, Received
from workers.lane.wait import Wait
from workers.ledger.plans import load_catalogue
from workers.telemetry.health import Health

RUNS = int(os.environ.get("ORDER_RUNS") or (3 if ALL else 2))
TOPICS = (BILLING_EVENTS, SEND_REQUESTS, EXPIRY_TICKS)
GROUPS = {row.topic: row.group or "" for row in CATALOGUE if row.group}
PLACES = [TopicPartition(topic, 0) for topic in TOPICS]

Offsets = dict[TopicPartition, int]
Books = dict[str, list[dict[str, Any]]]


class _Broker:
    """Notes what it is asked. Nobody leads some partitions: it fails to tell where they end, or does not answer."""

    def __init__(self, *leaderless: TopicPartition, answers: bool = True) -> None:
        self.asked: list[set[TopicPartition]] = []
        self._leaderless, self.answers = set(leaderless), asyncio.Event()
        if answers:
            self.answers.set()

    async def end_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked.append(set(places))
        await asyncio.sleep(0)
        if not self._leaderless.isdisjoint(places):
            await self.answers.wait()
            raise KafkaTimeoutError
        return dict.fromkeys(places, 0)


class _SlowOnce(_Broker):
    """Takes its time for the first answer, as brokers do that have just begun."""

    async def end_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        is_first = not self.asked
        ends = await super().end_offsets(places)
        if is_first:
            await asyncio.sleep(1.5)
        return ends


def _received(settings: Settings, number: int) -> Received:
    """A record that a send lane has received."""
    place = TopicPartition(SEND_REQUESTS, number)
    lane = Lane(GROUPS[SEND_REQUESTS], place, AsyncMock(), settings, Health(30).lane(place), CommittedOffsetCheck())
    return Received(lane, [ConsumerRecord(*place, 0, 1_700_000_000_000, 1, b"k", b"v", None, 1, 1, ())])


def _neighbours(number: int) -> set[TopicPartition]:
    return {TopicPartition(topic, number) for topic in (BILLING_EVENTS, EXPIRY_TICKS)}


async def test_a_turn_asks_once_for_all_its_lanes(unasked: Settings) -> None:
    """One question to Kafka and one to Postgres, however many lanes there are."""
    broker, pool = _Broker(), AsyncMock(fetch=AsyncMock(return_value=[]))
    order = Order(pool, broker, LaneRows(pool, GROUPS[SEND_REQUESTS], SEND_REQUESTS), 20)  # type: ignore[arg-type]
    received = [_received(unasked, number) for number in range(12)]
    decidable = await order.admit(received)

    assert [set().union(*map(_neighbours, range(12)))] == broker.asked
    assert 1 == pool.fetch.await_count
    assert {each.lane for each in received} == decidable.keys()


def test_lanes_that_wait_at_once_look_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is a question to Postgres, whether for one lane or for all."""
    waits = [Wait() for _ in range(3)]
    for wait, now in zip(waits, (100.0005, 100.002, 100.0035), strict=True):
        monkeypatch.setattr("workers.lane.wait.monotonic", lambda now=now: now)
        wait.begin([Mock(offset=1)])
        wait.postpone()

    assert 1 == len({wait.look_at for wait in waits})
    assert 100.0085 <= waits[0].look_at <= 100.0151


async def test_a_partition_that_tells_no_end_holds_only_the_lanes_that_wait_for_it(unasked: Settings) -> None:
    """Its silence keeps the first answer from all; after that each partition is asked for alone."""
    broker, order = _leaderless(BILLING_EVENTS)
    received = [_received(unasked, number) for number in range(4)]
    found = [await order.admit(received) for _ in range(2)]

    alone = [{TopicPartition(topic, number)} for number in range(4) for topic in (BILLING_EVENTS, EXPIRY_TICKS)]
    again = [each for each in alone if each != {TopicPartition(EXPIRY_TICKS, 2)}]  # that one has told its end
    assert [set().union(*alone), *alone, *again] == broker.asked
    assert [[0, 1, 3]] * 2 == [[lane.partition for lane in decidable] for decidable in found]
    assert "inmail-billing" == received[2].lane.health.waiting_for


async def test_brokers_that_were_slow_once_are_asked_for_all_partitions_together_again(unasked: Settings) -> None:
    """As soon as each partition alone has told its end: one question a turn, and not one a partition."""
    broker, pool = _SlowOnce(), AsyncMock(fetch=AsyncMock(return_value=[]))
    order = Order(pool, broker, LaneRows(pool, GROUPS[SEND_REQUESTS], SEND_REQUESTS), 20)  # type: ignore[arg-type]
    for _ in range(2):
        assert 2 == len(await order.admit([_received(unasked, number) for number in range(2)]))

    together, *alone, again = broker.asked
    assert (_neighbours(0) | _neighbours(1), together) == (together, again)
    assert [1] * 4 == [len(each) for each in alone]


@pytest.mark.parametrize(
    ("topic", "answers", "seconds", "unread"),
    [
        (EXPIRY_TICKS, True, 1, None),
        (BILLING_EVENTS, True, 21, GROUPS[BILLING_EVENTS]),
        (BILLING_EVENTS, False, 21, GROUPS[BILLING_EVENTS]),
    ],
)
async def test_a_partition_that_tells_no_end_is_waited_for_no_longer_than_a_lane(
    unasked: Settings, monkeypatch: pytest.MonkeyPatch, topic: str, seconds: float, unread: str | None, *, answers: bool
) -> None:
    """A moment where it is one of ticks. Whatever is decided then is ahead of it; a lane that waits so is not stuck."""
    monkeypatch.setattr(partition_bounds, "_ANSWER_SECONDS", 0.05)
    broker, order = _leaderless(topic, answers=answers)
    received = [_received(unasked, number) for number in range(4)]
    lane = received[2].lane
    assert [0, 1, 3] == [each.partition for each in await order.admit(received)]
    assert (GROUPS[topic], None) == (lane.health.waiting_for, lane.health.error)

    lane.wait.began -= seconds
    monkeypatch.setattr(partition_bounds, "_ANSWER_SECONDS", 30)
    began, decidable = monotonic(), await order.admit(received)

    assert (4, unread) == (len(decidable), decidable[lane].waited_for)
    assert [(GROUPS[topic], 0)] == list(decidable[lane].overtaken)
    if not answers:  # a question without an answer is waited for once
        assert monotonic() - began < 10
        assert 1 == broker.asked.count({TopicPartition(topic, 2)})
    broker.answers.set()
    await asyncio.sleep(0.01)


def _leaderless(topic: str, *, answers: bool = True) -> tuple[_Broker, Order]:
    """Return an order of sends of which nobody leads a topic's partition 2, whose lane is at work."""
    broker = _Broker(TopicPartition(topic, 2), answers=answers)
    row = (topic, 2, GROUPS[topic], 0, None, None, True, 1, None)
    pool = AsyncMock(fetch=AsyncMock(return_value=[row]), execute=AsyncMock(return_value="UPDATE 1"))
    return broker, Order(pool, broker, LaneRows(pool, GROUPS[SEND_REQUESTS], SEND_REQUESTS), 20)  # type: ignore[arg-type]


async def test_what_is_received_during_a_wait_is_not_judged_by_ends_asked_for_before(unasked: Settings) -> None:
    """A grant for it may have come to the other lane since: that lane stands at its old end, and not at the new one."""
    row = (BILLING_EVENTS, 0, GROUPS[BILLING_EVENTS], 0, None, None, False, 1, None)
    pool = AsyncMock(fetch=AsyncMock(return_value=[row]), execute=AsyncMock(return_value="UPDATE 1"))
    ends = SimpleNamespace(
        end_offsets=AsyncMock(side_effect=lambda places: {place: int(place == PLACES[0]) for place in places}),
        starts=AsyncMock(return_value={}),
    )
    order = Order(pool, ends, LaneRows(pool, GROUPS[SEND_REQUESTS], SEND_REQUESTS), 20)  # type: ignore[arg-type]
    received = _received(unasked, 0)
    assert not await order.admit([received])  # billing has not read its first record

    pool.fetch.return_value = [(*row[:3], 1, *row[4:])]
    later = received.records[0]
    both = [later, dataclasses.replace(later, offset=1, timestamp=later.timestamp + 1_000)]
    decidable = await order.admit([received._replace(records=both)])

    assert 1 == decidable[received.lane].records
    decidable = await order.admit([received._replace(records=both[1:])])
    assert 1 == decidable[received.lane].records
    assert 2 == ends.end_offsets.await_count


async def test_a_lane_tells_again_with_what_it_waits_until_that_is_written(unasked: Settings) -> None:
    """Somebody may keep its row locked."""
    order, billing = _beside_billing(offset=0, epoch=1)
    billing.end = 1
    received = _received(unasked, 0)
    written = AsyncMock(side_effect=[False, True])
    order._rows.announce_waiting = written  # type: ignore[method-assign]
    for _ in range(3):
        assert not await order.admit([received])

    assert 2 == written.await_count


async def test_with_what_a_lane_will_wait_is_told_with_the_batch_before_it(unasked: Settings) -> None:
    """The other lane goes on at that commit. A wait that lasts is announced, so that operators read for whom it is."""
    order, billing = _beside_billing(offset=0, epoch=1)
    received = _received(unasked, 0)
    lane, first = received.lane, received.records[0]
    last = dataclasses.replace(first, offset=1, timestamp=first.timestamp + 1_000)
    between = from_milliseconds(first.timestamp + 500)
    billing.row, billing.end = (*billing.row[:4], None, between, *billing.row[6:]), 1
    decidable = (await order.admit([received._replace(records=[first, last])]))[lane]
    assert (1, from_milliseconds(last.timestamp)) == (decidable.records, decidable.head)

    lane.told_head = decidable.head
    assert not await order.admit([received._replace(records=[last])])
    assert 0 == billing.pool.execute.await_count
    lane.wait.began -= 0.2
    assert not await order.admit([received._replace(records=[last])])
    assert 1 == billing.pool.execute.await_count

    billing.row = (*billing.row[:3], 1, *billing.row[4:])
    assert (await order.admit([received._replace(records=[last])]))[lane].head is None


async def test_where_a_lane_began_in_a_topic_says_nothing_of_the_next_topic(unasked: Settings) -> None:
    """Billing began at 5 since retention had taken what was before; the new topic's third record may be a grant."""
    order, billing = _beside_billing(offset=5, epoch=1)
    billing.end, billing.start = 10, 5
    received = _received(unasked, 0)
    assert not await order.admit([received])
    received.lane.wait.began -= 2
    assert not await order.admit([received])

    billing.row = (*PLACES[0], GROUPS[BILLING_EVENTS], 0, None, None, True, 2, None)
    billing.end, billing.start = 3, 0
    later = dataclasses.replace(received.records[0], offset=1, timestamp=received.records[0].timestamp + 1_000)
    assert not await order.admit([received._replace(records=[later])])
    received.lane.wait.began -= 2
    assert not await order.admit([received._replace(records=[later])])


async def test_what_a_lane_has_read_of_a_topic_is_nothing_of_the_one_created_after_it(unasked: Settings) -> None:
    """Its row stays at 5,000 until an operator decides. A tick may book what an unread cancel or grant would change."""
    old, new = uuid4(), uuid4()
    ids = {BILLING_EVENTS: old}
    order, billing = _beside_billing(ids, offset=5_000, epoch=1, topic_id=old)
    billing.end, billing.start = 5_000, 0
    received = _received(unasked, 0)
    assert received.lane in await order.admit([received])

    ids[BILLING_EVENTS], billing.end = new, 1
    assert not await order.admit([received])
    received.lane.wait.began -= 2
    assert not await order.admit([received])
    received.lane.wait.began -= 20
    assert GROUPS[BILLING_EVENTS] == (await order.admit([received]))[received.lane].waited_for

    tick = TopicPartition(EXPIRY_TICKS, 0)
    rows = LaneRows(billing.pool, GROUPS[EXPIRY_TICKS], EXPIRY_TICKS)
    lane = Lane(GROUPS[EXPIRY_TICKS], tick, AsyncMock(), unasked, Health(30).lane(tick), CommittedOffsetCheck())
    record = ConsumerRecord(*tick, 0, 1_700_000_000_000, 1, None, b"v", None, 1, 1, ())
    ticks = Order(billing.pool, billing, rows, 0, ids)  # type: ignore[arg-type]
    assert EARLIEST == (await ticks.admit([Received(lane, [record])]))[lane].read_to


async def test_a_lane_that_is_opened_again_and_again_is_waited_for_once(unasked: Settings) -> None:
    """As one that is halted is every 10 s: whoever waited again each time would decide one batch in 300 s."""
    order, billing = _beside_billing(offset=0, epoch=1)
    billing.end = 1
    received = _received(unasked, 0)
    lane, record = received.lane, received.records[0]

    def at(offset: int) -> Received:
        time = record.timestamp + 1_000 * offset
        return received._replace(records=[dataclasses.replace(record, offset=offset, timestamp=time)])

    assert not await order.admit([received])
    lane.wait.began -= 21
    assert GROUPS[BILLING_EVENTS] == (await order.admit([received]))[lane].waited_for

    billing.row = (*billing.row[:7], 2, billing.row[8])
    assert GROUPS[BILLING_EVENTS] == (await order.admit([at(1)]))[lane].waited_for
    billing.row, billing.end = (*billing.row[:3], 1, *billing.row[4:]), 2
    assert not await order.admit([at(2)])


async def test_ends_that_were_asked_for_before_a_lane_was_opened_again_say_nothing(unasked: Settings) -> None:
    """A grant may have come between: what is received later may be later than that."""
    told = asyncio.Event()

    async def end_offsets(places: Iterable[TopicPartition]) -> Offsets:
        await told.wait()
        return dict.fromkeys(places, 0)

    bounds = PartitionBounds(SimpleNamespace(end_offsets=end_offsets), {})  # type: ignore[arg-type]
    lane, records, _ = _received(unasked, 0)
    lane.wait.begin(records)
    asking = asyncio.create_task(bounds.ask_ends({lane: PLACES[:1]}))
    await asyncio.sleep(0)
    lane.close()
    lane.wait.begin(records)
    told.set()
    await asking

    assert {} == lane.wait.ends


async def test_where_lanes_begin_is_not_asked_a_second_time_beside_itself(
    unasked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn would wait a second for a coordinator that does not answer, and leave a question for 40 s."""
    monkeypatch.setattr(partition_bounds, "_ANSWER_SECONDS", 0.05)
    order, billing = _beside_billing(offset=0, epoch=1)
    billing.end = 1

    async def does_not_tell(_: object) -> Offsets:
        await asyncio.Event().wait()
        return {}

    starts = AsyncMock(side_effect=does_not_tell)
    billing.starts = starts  # type: ignore[method-assign]
    received = _received(unasked, 0)
    assert not await order.admit([received])
    received.lane.wait.began -= 2
    assert not await order.admit([received])
    monkeypatch.setattr(partition_bounds, "_ANSWER_SECONDS", 30)
    began = monotonic()
    assert not await order.admit([received])

    assert 1 == starts.await_count
    assert monotonic() - began < 10
    assert order._bounds._asking_starts is not None
    order._bounds._asking_starts.cancel()


async def test_an_answer_about_where_lanes_begin_that_comes_late_is_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was thrown away, and each turn asked anew, and waited."""
    monkeypatch.setattr(partition_bounds, "_ANSWER_SECONDS", 0.05)
    order, billing = _beside_billing(offset=0, epoch=1)
    billing.end, told = 1, asyncio.Event()

    async def tells_late(asked: Iterable[tuple[str, TopicPartition, int | None]]) -> Offsets:
        await told.wait()
        return {place: 1 for _, place, _ in asked}

    starts = AsyncMock(side_effect=tells_late)
    billing.starts = starts  # type: ignore[method-assign]
    received = _received(settings, 0)
    assert not await order.admit([received])
    received.lane.wait.began -= 2
    assert not await order.admit([received])
    told.set()
    await asyncio.sleep(0.01)

    assert received.lane in await order.admit([received])  # retention took what billing had not read
    assert 1 == starts.await_count


async def test_two_questions_for_an_end_at_once_take_one_answer(settings: Settings) -> None:
    """The first is of a turn that failed meanwhile. What it found missing ended the worker as a defect would."""
    told = asyncio.Event()

    async def end_offsets(places: Iterable[TopicPartition]) -> Offsets:
        await told.wait()
        return dict.fromkeys(places, 0)

    bounds = PartitionBounds(SimpleNamespace(end_offsets=end_offsets), {})  # type: ignore[arg-type]
    bounds._alone_until = monotonic() + 60
    received = [_received(settings, 0) for _ in range(2)]
    for lane, records, _ in received:
        lane.wait.begin(records)
    first = asyncio.create_task(bounds.ask_ends({received[0].lane: PLACES[:1]}))
    await asyncio.sleep(0.01)
    asked = bounds._asking[PLACES[0]].answer
    told.set()
    for _ in range(10):
        if not asked.done():
            await asyncio.sleep(0)
    await bounds.ask_ends({received[1].lane: PLACES[:1]})
    await first

    assert {PLACES[0]: 0} == received[1].lane.wait.ends


class _Billing:
    """A billing lane at work: its row, and what Kafka tells of its partition. Others have nothing."""

    def __init__(self, offset: int, epoch: int, topic_id: UUID | None) -> None:
        self.row = (*PLACES[0], GROUPS[BILLING_EVENTS], offset, None, None, True, epoch, topic_id)
        self.end, self.start = 0, 0
        self.pool = AsyncMock(
            fetch=AsyncMock(side_effect=lambda *_: [self.row]), execute=AsyncMock(return_value="UPDATE 1")
        )

    async def end_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {place: self.end if place == PLACES[0] else 0 for place in places}

    async def starts(self, asked: Iterable[tuple[str, TopicPartition, int | None]]) -> dict[TopicPartition, int]:
        return {place: self.start if place == PLACES[0] else 0 for _, place, _ in asked}


def _beside_billing(
    ids: dict[str, UUID] | None = None, *, offset: int, epoch: int, topic_id: UUID | None = None
) -> tuple[Order, _Billing]:
    """Return an order of sends, and the billing lane with the same number."""
    billing = _Billing(offset, epoch, topic_id)
    rows = LaneRows(billing.pool, GROUPS[SEND_REQUESTS], SEND_REQUESTS)
    return Order(billing.pool, billing, rows, 20, ids or {}), billing  # type: ignore[arg-type]


async def test_a_tick_is_told_how_far_the_lanes_that_may_give_credits_have_read(unasked: Settings) -> None:
    """One that never read anything has read nothing of what is there; one at the end of its partition has read all.

    Where retention has taken all that was there, nothing is unread, whether or not the lane has ever stored anything.
    """
    tick, health = TopicPartition(EXPIRY_TICKS, 0), Health(30)
    row = (BILLING_EVENTS, 0, GROUPS[BILLING_EVENTS], 2, None, None, True, 1, None)
    told = []
    for end, start, limit, stored in ((0, 0, 0, []), (3, 0, 0, []), (3, 3, 20, []), (3, 3, 0, [row])):
        pool = AsyncMock(fetch=AsyncMock(return_value=stored))
        rows = LaneRows(pool, GROUPS[EXPIRY_TICKS], EXPIRY_TICKS)
        ends = SimpleNamespace(
            end_offsets=AsyncMock(side_effect=lambda places, end=end: dict.fromkeys(places, end)),
            starts=AsyncMock(side_effect=lambda asked, start=start: {place: start for _, place, _ in asked}),
        )
        lane = Lane(GROUPS[EXPIRY_TICKS], tick, pool, unasked, health.lane(tick), CommittedOffsetCheck())
        record = ConsumerRecord(*tick, 0, 1_700_000_000_000, 1, None, b"v", None, 1, 1, ())
        decidable = await Order(pool, ends, rows, limit).admit([Received(lane, [record])])  # type: ignore[arg-type]
        told.append(decidable[lane].read_to)

    assert [LATEST, EARLIEST, LATEST, LATEST] == told


class _Slow:
    """A job that takes a while, another one each time."""

    def __init__(self, job: Job, dice: Random) -> None:
        self._job, self._dice = job, dice

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        await asyncio.sleep(self._dice.random() * 0.02)
        return await self._job.decide(connection, batch)


async def _ends(settings: Settings) -> Offsets:
    async with reader(settings) as consumer:
        return dict(await consumer.end_offsets(PLACES))


async def _history(settings: Settings, dice: Random) -> tuple[Offsets, Offsets]:
    """Publish grants, sends and ticks in turn, each a moment after the last; return where they begin and end."""
    accounts = [in_partition(settings, 0) for _ in range(3)]
    begin = await _ends(settings)
    async with create_producer(settings, "test") as producer:
        for _ in range(60):
            account = dice.choice(accounts)
            topic, event = dice.choice(
                [
                    (BILLING_EVENTS, promotion(account, 1)),
                    *[(SEND_REQUESTS, send(account))] * 2,
                    (EXPIRY_TICKS, _tick()),
                ]
            )
            key = None if topic == EXPIRY_TICKS else account.encode()
            await producer.send_and_wait(topic, encode(event), key, partition=0)
    return begin, await _ends(settings)


@asynccontextmanager
async def _books(settings: Settings, begin: Offsets) -> AsyncIterator[Connection]:
    """Open new books whose lanes are about to read a history, each waited for."""
    await prepare(settings)
    for place, offset in begin.items():
        async with reader(settings, GROUPS[place.topic]) as consumer:
            consumer.assign([place])
            await consumer.commit({place: offset})
    connection = await connect_database(settings)
    await connection.executemany(
        "update lanes set next_offset = $3, awaited = true where topic = $1 and partition = $2",
        [(*place, offset) for place, offset in begin.items()],
    )
    yield connection
    await connection.close()


async def _read_to(connection: Connection, end: Offsets) -> None:
    async def there() -> bool:
        rows = await connection.fetch("select topic, next_offset from lanes where partition = 0")
        at = {row["topic"]: row["next_offset"] for row in rows}
        return all(at[place.topic] >= offset for place, offset in end.items())

    await eventually(there, "lanes at the end")


async def _together(settings: Settings, dice: Random, begin: Offsets, end: Offsets) -> tuple[Books, int]:
    """Decide a history in new books with all workers at once; return them, and how often a lane went ahead."""
    catalogue = load_catalogue()
    async with _books(settings, begin) as connection:
        jobs: list[Job] = [SendJob(catalogue), BillingJob(catalogue), ExpiryJob(catalogue, settings)]
        dice.shuffle(jobs)
        async with working(settings, *(_Slow(job, dice) for job in jobs)):  # type: ignore[arg-type]
            await _read_to(connection, end)
        # A tick gives nobody a credit: who is slow with one is waited for a moment only.
        ahead = "select count(*) from decided_ahead where 'inmail-expiry' not in (neighbour, consumer_group)"
        return await _dump(connection), await connection.fetchval(ahead)


async def _dump(connection: Connection) -> Books:
    """Return the books by account; its number depends on which lane saw it first."""
    found: Books = {}
    for table, order in (("journal", "sequence"), ("lots", "lot")):
        rows = await connection.fetch(
            f"select a.account_id, to_jsonb(t) - 'account' as line from {table} as t join accounts as a"  # noqa: S608
            f" using (account) order by a.account_id, t.{order}"
        )
        for row in rows:
            found.setdefault(f"{table} {row['account_id']}", []).append(row["line"])
    return found


@pytest.mark.timeout(240)
async def test_the_same_history_gives_the_same_books_however_the_lanes_run(
    cluster: Settings, other_books: Callable[[], Awaitable[Settings]]
) -> None:
    """With lanes of random speed and batches, and with each of the workers first. ORDER_RUNS says how often."""
    dice = Random(7)  # noqa: S311 - a workload
    begin, end = await _history(cluster, dice)

    found = []
    for number in range(RUNS):
        changes = {"batch_records": dice.choice([1, 3, 100]), "order_seconds": 20, "tick_grace_seconds": 0}
        own = (await other_books()).model_copy(update=changes)
        found.append(await _together(own, Random(number), begin, end))  # noqa: S311 - a workload

    assert [0] * RUNS == [ahead for _, ahead in found]
    assert all(books == found[0][0] for books, _ in found)


@pytest.mark.parametrize(("seconds", "noted"), [(0.2, True), (0, False)])
async def test_a_lane_that_nobody_works_is_waited_for_a_while_and_what_is_decided_without_it_is_noted(
    cluster: Settings, other_books: Callable[[], Awaitable[Settings]], *, seconds: float, noted: bool
) -> None:
    """Its process died, so it still counts as at work. All in all the wait is one limit, and none where it is off."""
    begin, end = await _history(cluster, Random(3))  # noqa: S311 - a workload
    sends, grants = (TopicPartition(topic, 0) for topic in (SEND_REQUESTS, BILLING_EVENTS))
    own = (await other_books()).model_copy(update={"batch_records": 1, "order_seconds": seconds})
    catalogue = load_catalogue()

    async with _books(own, begin) as connection:
        async with working(own, SendJob(catalogue)):
            await _read_to(connection, {sends: end[sends]})
        async with working(own, BillingJob(catalogue)):
            await _read_to(connection, {sends: end[sends], grants: end[grants]})
        rows = await connection.fetch(
            "select neighbour, neighbour_offset, first_offset, next_offset from decided_ahead"
            " where consumer_group = 'inmail-send' and neighbour = 'inmail-billing'"
        )
        late = await connection.fetchval(
            "select count(*) from decided_ahead where consumer_group = 'inmail-billing' and neighbour = 'inmail-send'"
        )
        charged = await connection.fetchval("select count(*) from journal where code = 'charged'")

    assert 0 == charged  # each send was decided before any grant
    assert noted == bool(late)
    assert noted == (("inmail-billing", begin[grants]) in [(row[0], row[1]) for row in rows])
    assert all(begin[sends] <= row[2] < row[3] <= end[sends] for row in rows)
