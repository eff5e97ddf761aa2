"""A lane's clock: which times it takes, what it holds, what an operator makes of that, and the way back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import ConsumerRecord

from infra.clock import EPOCH, to_milliseconds, utc_now
from infra.kafka.clients import admin_client, reader
from infra.postgres import Connection
from infra.settings import RecordTime, Settings
from schemas.catalogue import BILLING_EVENTS, DEAD_LETTERS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import encode
from tests.workers.life import Life, at_the_end, in_partition, living
from tests.workers.noted_operations import list_operations
from tests.workers.wire import ends, eventually, promotion, publish, read, send, working
from workers.jobs.billing import BillingJob
from workers.jobs.record_times import TimePolicy
from workers.jobs.send import SendJob
from workers.lane import clock_guard
from workers.lane.deciding import LaneBatch, _decode
from workers.lane.inbox import Taken
from workers.lane.lane import Lane
from workers.lane.time_order import Decidable
from workers.ledger.model import WorkerName
from workers.ledger.plans import load_catalogue
from workers.ops.clock.decide import ClockDecision, decide_clock, plan_clock
from workers.ops.clock.set_back import plan_set_back, set_back
from workers.ops.clock.state import read_clocks
from workers.ops.lag import Status, observer
from workers.ops.operations import Operator, RefusedError
from workers.ops.replay.rewind import rewind
from workers.ops.replay.rewind_plan import RewindOptions, plan_rewind
from workers.ops.replay.rewind_target import RewindTarget, TargetKind

PLACE = TopicPartition(SEND_REQUESTS, 1)
ME = Operator("ann", "the broker's clock was wrong")
YEAR = timedelta(days=365)
AGAIN = RewindOptions(publish_again=True)
pytestmark = pytest.mark.usefixtures("no_far_times_left")


@asynccontextmanager
async def _producers_time(settings: Settings) -> AsyncIterator[None]:
    """Let the topic of sends take its producers' times for a while, as a cluster may that somebody altered."""
    far = {"message.timestamp.after.max.ms": str(2**63 - 1)}
    async with admin_client(settings) as admin:
        try:
            await _alter(admin, {"message.timestamp.type": "CreateTime"} | far)
            yield
        finally:
            await _alter(admin, {"message.timestamp.type": "LogAppendTime"})


async def _alter(admin: AIOKafkaAdminClient, config: dict[str, str]) -> None:
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, SEND_REQUESTS, configs=config)])


async def _credit(settings: Settings, account: str) -> None:
    """Give an account a credit."""
    await publish(settings, BILLING_EVENTS, [promotion(account, 1)])
    async with working(settings, BillingJob(load_catalogue())):
        end = await ends(settings, BILLING_EVENTS)

        async def decided() -> bool:
            return all(
                (each.next_offset or 0) >= end[TopicPartition(each.topic, each.partition)]
                for each in await read_clocks(settings)
                if each.topic == BILLING_EVENTS
            )

        await eventually(decided, "a credit")


async def _watermark(database: Connection) -> datetime | None:
    return await database.fetchval("select as_of from lanes where topic = $1 and partition = $2", *PLACE)


async def test_a_record_with_its_producers_time_is_a_dead_letter_and_moves_no_clock(
    cluster: Settings, database: Connection
) -> None:
    """It came in while the topic was altered, from the far future: the next one still finds its credit."""
    account = in_partition(cluster, PLACE.partition)
    await _credit(cluster, account)
    results, letters = await ends(cluster, SEND_RESULTS), await ends(cluster, DEAD_LETTERS)
    async with _producers_time(cluster):
        await publish(cluster, SEND_REQUESTS, [send(account)], to_milliseconds(utc_now() + YEAR))
    request = send(account)
    await publish(cluster, SEND_REQUESTS, [request])

    async with working(cluster, SendJob(load_catalogue())):
        (letter,) = await read(cluster, letters, 1)
        (answer,) = await read(cluster, results, 1)

    assert "producer_time" == letter["reason"]
    assert (str(request.id), "charged") == (answer["request_id"], answer["code"])
    watermark = await _watermark(database)
    assert watermark is not None
    assert watermark < utc_now() + timedelta(hours=1)


# -- a time far ahead -------------------------------------------------------------------------------------------------


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> list[timedelta]:
    """How far the lanes' host's clock is from the broker's: an hour behind, as if the broker's were an hour ahead."""
    offset = [-timedelta(hours=1)]
    monkeypatch.setattr(clock_guard, "utc_now", lambda: utc_now() + offset[0])
    monkeypatch.setattr(clock_guard, "_LOOK_SECONDS", 0.05)
    return offset


async def _held(settings: Settings, life: Life) -> None:
    await life.not_ready("holds: the clock")
    clocks = [each for each in await read_clocks(settings) if each.held_offset is not None]
    assert [PLACE] == [TopicPartition(each.topic, each.partition) for each in clocks]


@pytest.mark.usefixtures("host")
async def test_a_time_far_ahead_is_held_and_every_surface_says_so(cluster: Settings, database: Connection) -> None:
    """The probe, the metric, the lane's row and its lag; other lanes go on, and a worker that holds is alive."""
    settings = cluster.model_copy(update={"stuck_seconds": 1})
    account = in_partition(cluster, PLACE.partition)
    before = await _watermark(database)
    await publish(cluster, SEND_REQUESTS, [send(account)])
    async with living(settings) as life:
        await _held(cluster, life)
        lane = life.health.lanes[PLACE]
        assert 3_500 < lane.ahead_seconds < 3_700

        async def is_paused() -> bool:
            async with observer(cluster, [SendJob.group], remembers=False) as found:
                await found.refresh()
                (group,) = found.groups
                told = group.partitions[PLACE.partition]
                return told.status is Status.PAUSED and "ahead of this host's" in told.reason

        await eventually(is_paused, "a lag that says why")
        moved_at = lane.moved_at
        await eventually(lambda: _is_later(lane, moved_at + settings.stuck_seconds), "a lane that is alive")
        assert life.health.dead() is None
        assert not life.task.done()
        assert before == await _watermark(database)


async def _is_later(lane: Any, moved_at: float) -> bool:
    return bool(lane.moved_at > moved_at)


async def test_a_host_whose_clock_is_set_right_goes_on_by_itself(cluster: Settings, host: list[timedelta]) -> None:
    """It was the host's that was wrong: nobody has to decide anything."""
    request = send(in_partition(cluster, PLACE.partition))
    start = await ends(cluster, SEND_RESULTS)
    await publish(cluster, SEND_REQUESTS, [request])
    async with living(cluster) as life:
        await _held(cluster, life)
        host[0] = timedelta()
        (answer,) = await read(cluster, start, 1)

    assert str(request.id) == answer["request_id"]
    assert [] == [each for each in await read_clocks(cluster) if each.held_offset is not None]


@pytest.mark.usefixtures("host")
async def test_an_operator_lets_a_time_in(cluster: Settings, database: Connection) -> None:
    """Of that record, or of all up to a time: the plan says what ends with it, and it is on record."""
    account = in_partition(cluster, PLACE.partition)
    requests = [send(account) for _ in range(3)]
    start = await ends(cluster, SEND_RESULTS)
    await publish(cluster, SEND_REQUESTS, requests[:1])
    async with living(cluster) as life:
        await _held(cluster, life)
        plan = await plan_clock(cluster, WorkerName.SEND, PLACE.partition, ClockDecision.ACCEPT)
        operation = await decide_clock(cluster, plan, ME)
        (first,) = await read(cluster, start, 1)
        await publish(cluster, SEND_REQUESTS, requests[1:])
        await _held(cluster, life)  # only that one's time was let in
        up_to = utc_now() + timedelta(hours=1)
        plan = await plan_clock(cluster, WorkerName.SEND, PLACE.partition, ClockDecision.ACCEPT, up_to=up_to)
        await decide_clock(cluster, plan, ME)
        answers = await read(cluster, start, 3)

    assert str(requests[0].id) == first["request_id"]
    assert [str(request.id) for request in requests] == [answer["request_id"] for answer in answers]
    kept = next(each for each in await list_operations(cluster, 5) if each.operation == operation.number)
    assert ("clock accept", *ME) == (kept.verb, kept.actor, kept.reason)
    assert utc_now() - timedelta(minutes=5) < (await _watermark(database) or up_to) < utc_now()


async def test_an_operator_sets_a_record_aside_for_good(
    cluster: Settings, database: Connection, host: list[timedelta]
) -> None:
    """It becomes a dead letter and moves no clock; who reads it again, with a clock that is right, finds it so."""
    account = in_partition(cluster, PLACE.partition)
    before = await _watermark(database)
    letters = await ends(cluster, DEAD_LETTERS)
    first = (await ends(cluster, SEND_REQUESTS))[PLACE]
    await publish(cluster, SEND_REQUESTS, [send(account)])
    async with living(cluster) as life:
        await _held(cluster, life)
        plan = await plan_clock(cluster, WorkerName.SEND, PLACE.partition, ClockDecision.SET_ASIDE)
        await decide_clock(cluster, plan, ME)
        (letter,) = await read(cluster, letters, 1)
        await at_the_end(cluster, PLACE.partition)
    assert (first, first + 1) == (plan.first_offset, plan.next_offset)
    assert "time_far_ahead" == letter["reason"]
    assert (before or EPOCH) == (await _watermark(database) or EPOCH)
    with pytest.raises(RefusedError, match="holds no record"):
        await plan_clock(cluster, WorkerName.SEND, PLACE.partition, ClockDecision.SET_ASIDE)

    host[0] = timedelta()
    back = "update lanes set published = $3, maybe_published = $3 where topic = $1 and partition = $2"
    await database.execute(back, *PLACE, first)
    async with reader(cluster, SendJob.group) as consumer:
        consumer.assign([PLACE])
        await consumer.commit({PLACE: first})
    async with living(cluster):
        again = await read(cluster, letters, 2)
    assert [letter["id"]] * 2 == [each["id"] for each in again]


@pytest.mark.usefixtures("host")
async def test_what_came_before_a_time_far_ahead_is_decided_and_a_successor_holds_the_rest(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were read together. A worker that holds a record ends when it is told to."""
    account = in_partition(cluster, PLACE.partition)
    requests = [send(account) for _ in range(2)]
    start = await ends(cluster, SEND_RESULTS)
    await publish(cluster, SEND_REQUESTS, requests[:1])
    latest = utc_now() + timedelta(seconds=0.2)
    monkeypatch.setattr(clock_guard, "utc_now", lambda: latest - timedelta(minutes=cluster.clock_ahead_minutes))
    await eventually(lambda: _is_over(latest), "a later time")
    await publish(cluster, SEND_REQUESTS, requests[1:])

    async with living(cluster) as life:
        await _held(cluster, life)
        (answer,) = await read(cluster, start, 1)
        life.stop.set()
        assert await life.ended(10) is None
    async with living(cluster) as life:
        await _held(cluster, life)

    assert str(requests[0].id) == answer["request_id"]


async def _is_over(instant: datetime) -> bool:
    return utc_now() > instant


async def test_where_the_setting_takes_producers_times_no_clock_is_compared(
    cluster: Settings, host: list[timedelta]
) -> None:
    """Stories and backfills have times of their own, however far ahead."""
    host[0] = -10 * YEAR
    story = cluster.model_copy(update={"topic_record_time": RecordTime.CREATE})
    request = send(in_partition(cluster, PLACE.partition))
    start = await ends(cluster, SEND_RESULTS)
    await publish(cluster, SEND_REQUESTS, [request])

    async with working(story, SendJob(load_catalogue())):
        (answer,) = await read(cluster, start, 1)

    assert str(request.id) == answer["request_id"]


# -- the way back -----------------------------------------------------------------------------------------------------


async def test_a_clock_that_was_carried_off_is_set_back_while_its_worker_runs(
    cluster: Settings, database: Connection
) -> None:
    """Every lot looked ended to it. The plan counts what comes back, and what stays as it was decided."""
    account = in_partition(cluster, PLACE.partition)
    await _credit(cluster, account)
    await database.execute("update lanes set as_of = $3 where topic = $1 and partition = $2", *PLACE, utc_now() + YEAR)
    refused, charged = send(account), send(account)
    start = await ends(cluster, SEND_RESULTS)
    async with working(cluster, SendJob(load_catalogue())):
        await publish(cluster, SEND_REQUESTS, [refused])
        (before,) = await read(cluster, start, 1)

        plan = await plan_set_back(cluster)
        (lane,) = plan.lanes
        operation = await set_back(cluster, plan, ME)

        await publish(cluster, SEND_REQUESTS, [charged])
        answers = await read(cluster, start, 2)

    assert "insufficient_credits" == before["code"]
    assert (PLACE.topic, PLACE.partition) == (lane.lane.topic, lane.lane.partition)
    assert (1, 1, 2, 1, 0) == (lane.lots, lane.credits, lane.rows, lane.refused, lane.expired)
    assert {"lanes": 1} == operation.result
    assert ["insufficient_credits", "charged"] == [answer["code"] for answer in answers]
    assert () == (await plan_set_back(cluster)).lanes


@pytest.mark.usefixtures("host")
async def test_a_record_that_is_read_again_carries_no_clock_off_again(cluster: Settings, database: Connection) -> None:
    """Its time was let in by mistake, the clock set back, and the group rewound: the answer is as it was."""
    request = send(in_partition(cluster, PLACE.partition))
    start = await ends(cluster, SEND_RESULTS)
    await publish(cluster, SEND_REQUESTS, [request])
    async with living(cluster) as life:
        await _held(cluster, life)
        plan = await plan_clock(cluster, WorkerName.SEND, PLACE.partition, ClockDecision.ACCEPT)
        await decide_clock(cluster, plan, ME)
        (first,) = await read(cluster, start, 1)
    to = utc_now() - timedelta(minutes=50)
    await set_back(cluster, await plan_set_back(cluster, to, [WorkerName.SEND], [PLACE.partition]), ME)
    target = RewindTarget(TargetKind.REQUEST, request.id)
    rewound = await plan_rewind(cluster, WorkerName.SEND, target, AGAIN)

    await rewind(cluster, target, AGAIN, rewound, who=ME, stop=asyncio.Event(), drain_seconds=20)
    async with living(cluster):
        both = await read(cluster, start, 2)

    assert [first, first] == both
    assert to == await _watermark(database)
    noted = await database.fetchrow("select next_offset, set_back_to, as_of > set_back_to from clock_set_backs")
    assert (rewound.moves[0].current, to, True) == tuple(noted or ())


@pytest.mark.parametrize(("set_back_before", "capped"), [(0, False), (5, False), (6, True)])
def test_only_what_was_decided_before_a_set_back_is_decided_without_its_own_time(
    set_back_before: int, *, capped: bool
) -> None:
    """A lane whose row was set ahead by hand has decided nothing of before: those records keep their times."""
    time, account = utc_now().replace(microsecond=0), "alice"
    guard = SimpleNamespace(set_back_before=set_back_before)
    lane = SimpleNamespace(as_of=EPOCH, stored_at_start=9, times=TimePolicy(RecordTime.APPEND), guard=guard)
    value = encode(send(account))
    record = ConsumerRecord(*PLACE, 5, to_milliseconds(time), 1, account.encode(), value, None, 0, 0, ())
    batch = LaneBatch(cast("Lane", lane), Taken([record], 6), Decidable(1))

    assert (EPOCH if capped else time) == _decode(batch).as_of


async def test_no_clock_is_set_back_to_a_time_far_ahead(cluster: Settings) -> None:
    """Nor where the producers' times are taken."""
    with pytest.raises(RefusedError, match="itself far ahead"):
        await plan_set_back(cluster, utc_now() + YEAR)
    with pytest.raises(RefusedError, match="takes the producers' times"):
        await plan_set_back(cluster.model_copy(update={"topic_record_time": RecordTime.CREATE}))
