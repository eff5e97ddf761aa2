"""Two owners of one lane at once: a process that was thought dead works on, while its successor begins."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from contextvars import ContextVar
from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import IllegalOperation, KafkaError, KafkaTimeoutError, ProducerFenced
from aiokafka.structs import ConsumerRecord

from infra import postgres
from infra.clock import utc_now
from infra.kafka.aiokafka_fixes import LaneProducer
from infra.kafka.clients import admin_client, create_consumer, partition_of, reader
from infra.kafka.end_offsets import EndOffsets
from infra.kafka.shard_assignor import ShardAssignor
from infra.kafka.transactions import TransactionPair
from infra.postgres import Connection, create_pool
from infra.retry import is_retriable
from infra.settings import Settings
from infra.shards import read_shard
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from tests.workers.wire import ends, eventually, publish, read, send
from workers.errors import FencedError, LaneError
from workers.jobs.send import SendJob
from workers.lane import lane as lane_module
from workers.lane import turn
from workers.lane.circuit_breaker import CircuitBreaker
from workers.lane.clients import Clients
from workers.lane.deciding import Decided
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRow, LaneRows, Progress
from workers.lane.recovery import CommittedOffsetCheck
from workers.lane.turn import LaneOwner
from workers.lane.work import Work
from workers.ledger.plans import load_catalogue
from workers.telemetry.health import Health
from workers.telemetry.tracing import NO_TRACES

_owner: ContextVar[str] = ContextVar("owner", default="")


@asynccontextmanager
async def _owning(settings: Settings, place: TopicPartition, name: str) -> AsyncIterator[tuple[LaneOwner, Lane]]:
    """An owner of one lane that runs, with clients of its own as in another process; it is stopped at the end."""
    async with AsyncExitStack() as stack:
        consumer = create_consumer(settings, SendJob.group, 10)
        consumer.assign([place])
        consumer.is_member = AsyncMock(return_value=True)  # each believes that it is
        await stack.enter_async_context(consumer)
        admin = await stack.enter_async_context(admin_client(settings))
        pool = await stack.enter_async_context(create_pool(settings))
        ends_ = EndOffsets(settings)
        stack.push_async_callback(ends_.aclose)
        health = Health(30)
        assignor = ShardAssignor(await read_shard(pool))
        clients = Clients(consumer, admin, pool, CircuitBreaker(settings), health, ends_, NO_TRACES, assignor, {})
        lane = Lane(SendJob.group, place, pool, settings, health.lane(place), CommittedOffsetCheck())
        reset = _owner.set(name)
        owner = LaneOwner(Work(SendJob(load_catalogue()), settings, clients), AsyncMock())
        owner.adopt([lane])
        running = asyncio.create_task(owner.run())
        _owner.reset(reset)
        try:
            yield owner, lane
        finally:
            owner.give_up([lane])
            owner.stop()
            await running


async def _feed(lane: Lane, records: Sequence[ConsumerRecord]) -> None:
    """Give a lane, once it is open, what it has not read of these."""

    async def is_open() -> bool:
        return lane.is_open

    await eventually(is_open, "the lane is open")
    rest = [record for record in records if record.offset >= (lane.inbox._position or 0)]
    lane.inbox.offer(rest, records[-1].offset + 1)


async def _publish(settings: Settings, account: str, count: int) -> tuple[TopicPartition, list[ConsumerRecord]]:
    """Publish requests of an account; return them as records, and where they are."""
    place = TopicPartition(SEND_REQUESTS, partition_of(account.encode(), settings.topic_partitions))
    start = (await ends(settings, SEND_REQUESTS))[place]
    await publish(settings, SEND_REQUESTS, [send(account, UUID(int=number + 1)) for number in range(count)])
    async with reader(settings) as consumer:
        consumer.assign([place])
        consumer.seek(place, start)
        return place, [await consumer.getone() for _ in range(count)]


async def test_an_owner_that_begins_again_while_its_successor_fences_it_commits_nothing_more(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor has fenced the owner's name when that begins again under another, and acquires the lane first.

    It stores a batch and stands at its commit in Kafka. The successor would publish what is stored, and the old owner
    the same again: so the successor has to see that the lane has another owner by now, and to fence that one as well.
    """
    results = await ends(cluster, SEND_RESULTS)
    place, records = await _publish(cluster, account, 2)
    fenced, may_acquire, at_commit, may_commit, succeeded = (asyncio.Event() for _ in range(5))
    commit, fence = TransactionPair._commit, turn.fence_producers

    async def fences(settings: Settings, names: set[str]) -> None:
        await fence(settings, names)
        if _owner.get() == "new" and not fenced.is_set():
            fenced.set()
            await may_acquire.wait()

    async def commits(self: TransactionPair, producer: AIOKafkaProducer) -> None:
        if _owner.get() == "old" and fenced.is_set():
            at_commit.set()
            await may_commit.wait()
        await commit(self, producer)
        if _owner.get() == "new":
            succeeded.set()

    monkeypatch.setattr(turn, "fence_producers", fences)
    monkeypatch.setattr(TransactionPair, "_commit", commits)
    async with asyncio.timeout(60), _owning(cluster, place, "old") as (_, old):
        await _feed(old, records[:1])
        await read(cluster, results, 1)
        async with _owning(cluster, place, "new") as (_, new):
            await fenced.wait()
            old.inbox.offer(records[1:], records[-1].offset + 1)  # which it cannot publish: it begins again
            while not at_commit.is_set():
                await _feed(old, records)
                await asyncio.wait([asyncio.ensure_future(at_commit.wait())], timeout=0.5)
            may_acquire.set()
            await _feed(new, records)
            await succeeded.wait()
            may_commit.set()

    answers = await read(cluster, results, 2)
    assert [UUID(int=1), UUID(int=2)] == [UUID(answer["request_id"]) for answer in answers]


async def test_an_owner_that_was_frozen_as_it_opened_a_lane_does_not_take_it_from_its_successor(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the lane acquired, opens it again, and asks its group first: it would fence a worker that works."""
    place, _ = await _publish(cluster, account, 1)
    fence = turn.fence_producers
    async with create_pool(cluster) as pool:
        rows, newer = LaneRows(pool, SendJob.group, SEND_REQUESTS), LaneRow(place.partition)

        async with _owning(cluster, place, "old") as (owner, _):
            is_member = owner._opening._consumer.is_member

            async def freezes(settings: Settings, names: set[str]) -> None:
                await fence(settings, names)
                if not newer.epoch:
                    is_member.return_value = False
                    await rows.read([newer])
                    await rows.acquire([newer], "inmail-send.newer")

            monkeypatch.setattr(turn, "fence_producers", freezes)

            async def has_asked() -> bool:  # once before it was frozen, and twice since, so it has obeyed an answer
                return is_member.await_count > 2 or not (newer.epoch == 0 or await rows.are_owned([newer]))

            await eventually(has_asked, "it asks again, or takes the lane")
            is_owned = await rows.are_owned([newer])

    assert is_owned


async def test_an_owner_that_was_frozen_before_it_read_a_lane_does_not_take_it_from_its_successor(
    cluster: Settings, account: str
) -> None:
    """What it reads then is its successor's row: it would fence a worker that works, and be refused by the group."""
    place, _ = await _publish(cluster, account, 1)
    async with create_pool(cluster) as pool:
        rows, newer = LaneRows(pool, SendJob.group, SEND_REQUESTS), LaneRow(place.partition)
        await rows.read([newer])
        await rows.acquire([newer], "inmail-send.newer")
        async with _owning(cluster, place, "old") as (owner, _):
            is_member = owner._opening._consumer.is_member
            is_member.return_value = False

            async def has_asked() -> bool:  # twice, so it has obeyed an answer
                return is_member.await_count > 1 or not await rows.are_owned([newer])

            await eventually(has_asked, "it asks again, or takes the lane")
            is_owned = await rows.are_owned([newer])

    assert is_owned


async def test_an_owner_of_before_asks_its_group_before_it_acquires_a_lane_again(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a lane that was halted, and has not failed: its worker may have been frozen, and counted out, meanwhile."""
    monkeypatch.setattr(lane_module, "_HALTED_SECONDS", 0.1)
    place, records = await _publish(cluster, account, 1)
    async with _owning(cluster, place, "old") as (owner, lane):
        await _feed(lane, records)
        is_member = owner._opening._consumer.is_member
        asked = is_member.await_count
        is_member.return_value = False
        lane.fail(LaneError("planted"))
        owner._changed.set()

        async def has_asked() -> bool:  # twice, so it has obeyed an answer
            return bool(is_member.await_count > asked + 1) or lane.is_open

        await eventually(has_asked, "it asks again, or opens the lane")
        is_open = lane.is_open

    assert not is_open


async def test_what_a_worker_knew_of_a_lane_is_nothing_once_another_has_had_it(settings: Settings) -> None:
    """How far answers are published may have gone back since: by a rewind, or with a topic that was created again."""
    async with create_pool(settings) as pool:
        rows, mine, other = LaneRows(pool, SendJob.group, SEND_REQUESTS), LaneRow(0), LaneRow(0)
        await rows.read([mine])
        await rows.acquire([mine], "inmail-send.mine")
        mine.published, mine.published_time = 790, utc_now()
        await rows.read([other])
        await rows.acquire([other], "inmail-send.other")
        await rows.read([mine])
        await rows.acquire([mine], "inmail-send.mine")

    assert (None, None) == (mine.published, mine.published_time)


async def test_a_lane_that_has_a_newer_owner_learns_so_when_it_tells_that_it_waits(settings: Settings) -> None:
    """Its word would not be written, and the lane that it waits for would wait for that word."""
    async with create_pool(settings) as pool:
        rows = LaneRows(pool, SendJob.group, SEND_REQUESTS)
        owned = LaneRow(0)
        await rows.read([owned])
        await rows.acquire([owned], "inmail-send.owner")
        await rows.announce_waiting([(owned, utc_now(), "inmail-billing")])
        newer = LaneRow(0)
        await rows.read([newer])
        await rows.acquire([newer], "inmail-send.newer")
        with pytest.raises(FencedError, match="has a newer owner"):
            await rows.announce_waiting([(owned, utc_now(), "inmail-billing")])


async def test_a_batch_tells_the_time_of_the_record_after_it_and_of_no_wait_before(
    settings: Settings, database: Connection
) -> None:
    """Nobody waits yet: a lane that is read at that moment would seem to wait for whom it waited last, since then."""
    async with create_pool(settings) as pool:
        rows, owned, head = LaneRows(pool, SendJob.group, SEND_REQUESTS), LaneRow(0), utc_now()
        await rows.read([owned])
        await rows.acquire([owned], "inmail-send.owner")
        await rows.announce_waiting([(owned, utc_now(), "inmail-billing")])
        said = []
        for step in (Progress(owned, 7), Progress(owned, 8, head=head), Progress(owned, 9)):
            async with rows.fenced([step]):
                pass
            said.append(await database.fetchrow("select head = $1, waits_for from lanes", head))

    assert [(False, "inmail-billing"), (True, None), (True, None)] == [tuple(each) for each in said if each]


async def test_a_lane_whose_row_somebody_keeps_locked_keeps_no_other_from_telling_that_it_waits(
    settings: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor from holding a record: both are told between the turns of all lanes, which began again after 2 s."""
    monkeypatch.setattr(postgres, "_LOCK_SECONDS", 15)  # a wait for the lock is none for a busy machine
    async with create_pool(settings) as pool:
        rows, lanes = LaneRows(pool, SendJob.group, SEND_REQUESTS), [LaneRow(number) for number in range(2)]
        await rows.read(lanes)
        await rows.acquire(lanes, "inmail-send.owner")
        waits = [(lane, utc_now(), "inmail-billing") for lane in lanes]
        async with asyncio.timeout(10), database.transaction():
            await database.execute("select from lanes where partition = 0 for update")
            told = [await rows.announce_waiting(waits), await rows.announce_waiting(waits[1:])]
            await rows.hold(lanes[0], "the clock", 7, utc_now())
        since = await database.fetchval("select waits_since from lanes where partition = 1")
        told.append(await rows.announce_waiting(waits))  # the other says it once more, of the same wait
        await rows.hold(lanes[0], "the clock", 8, utc_now())
        assert since == await database.fetchval("select waits_since from lanes where partition = 1")
        written = await database.fetch("select waits_for, held_offset from lanes order by partition")

    assert [False, True, True] == told
    assert [("inmail-billing", 8), ("inmail-billing", None)] == [tuple(row) for row in written]


async def test_an_epoch_that_is_given_again_after_a_restore_is_not_the_owner_s_of_before(
    settings: Settings, database: Connection
) -> None:
    """The books are an earlier backup: a worker that was frozen meanwhile knows the lane by the same number."""
    async with create_pool(settings) as pool:
        rows, before, after = LaneRows(pool, SendJob.group, SEND_REQUESTS), LaneRow(0), LaneRow(0)
        await rows.read([before])
        await rows.acquire([before], "inmail-send.frozen")
        await database.execute("delete from lanes")  # which the backup did not have yet
        await rows.read([after])
        await rows.acquire([after], "inmail-send.newer")

        assert before.epoch == after.epoch
        assert [False, True] == [await rows.are_owned([each]) for each in (before, after)]
        with pytest.raises(FencedError, match="has a newer owner"):
            async with rows.fenced([Progress(before, 7)]):
                pass
        with pytest.raises(FencedError, match="has a newer owner"):
            await rows.hold(before, "its time is far ahead", 7, utc_now())
        async with rows.fenced([Progress(after, 1)]):
            pass
        await rows.halt(before, "of before")
        await rows.release([before])
        row = await pool.fetchrow("select next_offset, halted, owner from lanes where topic = $1", SEND_REQUESTS)

    assert row is not None
    assert (1, None, "inmail-send.newer") == tuple(row)


@pytest.mark.parametrize(("found", "commits"), [(6, False), (None, False), (7, True), (8, True)])
async def test_an_owner_whose_row_has_lost_what_it_stored_commits_nothing_more(
    settings: Settings, database: Connection, found: int | None, *, commits: bool
) -> None:
    """A server took over that lacks the last commits. A row that is ahead is of a commit whose answer was lost."""
    async with create_pool(settings) as pool:
        rows, owned = LaneRows(pool, SendJob.group, SEND_REQUESTS), LaneRow(0)
        await rows.read([owned])
        await rows.acquire([owned], "inmail-send.owner")
        for step in (Progress(owned), Progress(owned, 7), Progress(owned, 3), Progress(owned)):
            async with rows.fenced([step]):
                pass
        await database.execute("update lanes set next_offset = $1 where topic = $2", found, SEND_REQUESTS)

        with nullcontext() if commits else pytest.raises(FencedError, match="lost what was stored"):
            async with rows.fenced([Progress(owned, 8)]):
                pass
        row = await pool.fetchval("select next_offset from lanes where topic = $1", SEND_REQUESTS)

    assert row == (8 if commits else found)


async def test_whoever_only_looks_at_a_lane_changes_nothing_of_it(settings: Settings) -> None:
    """One that could not start its producers, and leaves, must not speak for the owner."""
    async with create_pool(settings) as pool:
        owner, other = (LaneRows(pool, SendJob.group, SEND_REQUESTS) for _ in range(2))
        owned, seen = LaneRow(0, published=5), LaneRow(0)
        await owner.read([owned])
        assert [owned] == await owner.acquire([owned], "inmail-send.owner")
        await other.read([seen])
        await other.release([seen])
        row = await pool.fetchrow("select awaited, published, owner from lanes where topic = $1", SEND_REQUESTS)

    assert row is not None
    assert (True, 5, "inmail-send.owner") == tuple(row)
    assert "inmail-send.owner" == seen.last_owner


async def test_a_producer_that_finds_no_coordinator_is_given_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aiokafka asks for it without an end; the lane begins again, and says why."""
    monkeypatch.setattr(LaneProducer, "start", lambda _: asyncio.Event().wait())
    pair = TransactionPair(settings, "never")
    pair._seconds = 0.05

    with pytest.raises(KafkaTimeoutError, match="__transaction_state"):
        await asyncio.wait_for(pair.start(), 5)
    await pair.discard()


async def test_a_producer_to_which_the_brokers_list_no_broker_is_a_doubt(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that has just been started; aiokafka has an assertion there."""
    monkeypatch.setattr(LaneProducer, "start", AsyncMock(side_effect=AssertionError("no bootstrap?")))
    pair = TransactionPair(settings, "nobody")

    with pytest.raises(KafkaError, match="no broker yet") as caught:
        await pair.start()
    await pair.discard()
    assert is_retriable(caught.value)


async def test_a_producer_that_fails_to_stop_lets_its_connections_go(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails where its last question to the coordinator is answered with a fence, and closes nothing then."""
    pair = TransactionPair(cluster, f"test-{account}")
    await pair.start()
    stop = AIOKafkaProducer.stop
    monkeypatch.setattr(AIOKafkaProducer, "stop", AsyncMock(side_effect=ProducerFenced()))
    await pair.discard()
    left = [any(map(AIOKafkaConnection.connected, each.client._conns.values())) for each in pair._producers]
    monkeypatch.setattr(AIOKafkaProducer, "stop", stop)
    for each in pair._producers:
        await each.stop()

    assert [False, False] == left


@pytest.mark.parametrize("error", [IllegalOperation("Not in the middle of a transaction"), AssertionError()])
async def test_a_transaction_that_was_ended_under_its_lane_is_a_doubt(
    cluster: Settings, account: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aiokafka calls it an illegal operation. A loaded crash matrix met it once, and its worker ended."""
    illegal = AsyncMock(side_effect=error)
    monkeypatch.setattr(AIOKafkaProducer, "send_offsets_to_transaction", illegal)
    pair = TransactionPair(cluster, f"test-{account}")
    await pair.start()

    with pytest.raises(KafkaError, match="ended before its time") as caught:
        await pair.publish([], {TopicPartition(SEND_REQUESTS, 0): 1}, f"group-{account}")
    await pair.discard()
    assert is_retriable(caught.value)


async def test_an_owner_that_is_cancelled_lets_no_opening_seek_beside_its_successor_s(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn may be at a commit for long. What the consumer skips then, to where this one sought, would be lost."""
    pair = SimpleNamespace(start=AsyncMock(), discard=AsyncMock())
    monkeypatch.setattr(turn, "TransactionPair", lambda *_: pair)
    consumer, health, place = Mock(), Health(30), TopicPartition(SEND_REQUESTS, 0)
    clients = Clients(consumer, *[AsyncMock()] * 3, health, AsyncMock(), NO_TRACES, AsyncMock(), {})
    owner = LaneOwner(Work(SendJob(load_catalogue()), settings, clients), AsyncMock())
    lane = Lane(SendJob.group, place, AsyncMock(), settings, health.lane(place), CommittedOffsetCheck())
    opens, publishes, may_open, may_publish = (asyncio.Event() for _ in range(4))

    async def opening(_: object) -> None:
        opens.set()
        await may_open.wait()
        consumer.seek(place, 90)

    async def publish(_: object) -> None:
        publishes.set()
        await may_publish.wait()

    monkeypatch.setattr(owner, "_open", opening)
    owner.adopt([lane])
    await owner._turns.begin([], AsyncMock(return_value=[Decided({}, [])]), publish)
    running = asyncio.create_task(owner.run())
    await asyncio.gather(opens.wait(), publishes.wait())

    running.cancel()
    may_open.set()
    for _ in range(10):
        await asyncio.sleep(0)
    is_at_its_end = not running.done()
    may_publish.set()
    await asyncio.wait([running])

    assert is_at_its_end
    consumer.seek.assert_not_called()


async def test_nothing_is_published_by_producers_of_which_a_transaction_was_cancelled(settings: Settings) -> None:
    """As that of an opening which ends with its owner, while a turn waits to publish after it."""
    clients = Clients(*[AsyncMock()] * 4, Health(30), AsyncMock(), NO_TRACES, AsyncMock(), {})
    owner = LaneOwner(Work(SendJob(load_catalogue()), settings, clients), AsyncMock())

    async def publish(*_: object) -> None:
        await asyncio.Event().wait()

    owner._producers = AsyncMock(publish=AsyncMock(side_effect=publish))
    first, second = (asyncio.create_task(owner._transact([], {})) for _ in range(2))
    await asyncio.sleep(0)

    first.cancel()

    with pytest.raises(KafkaError, match="cancelled"):
        await asyncio.wait_for(second, 5)
    assert 1 == owner._producers.publish.await_count
