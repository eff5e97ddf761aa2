"""What a worker tells of itself: alive or why not, ready or why not, over HTTP too."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from infra.kafka.transactions import TransactionPair, TransactionTimes
from infra.settings import Settings, SettingsError, load_settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from tests.conftest import Connect
from tests.whole import whole
from tests.workers.api.served import Line
from tests.workers.life import Held, in_partition, living
from tests.workers.processes import ask, free_port
from tests.workers.wire import ends, eventually, publish, read, send
from workers.errors import StuckError
from workers.jobs import ticker
from workers.jobs.send import SendJob
from workers.jobs.ticker import run_ticker
from workers.lane.lane import Lane
from workers.lane.recovery import CommittedOffsetCheck
from workers.lane.worker import run_worker
from workers.ledger.plans import load_catalogue
from workers.ops.books.metrics_exporter import Periods, run_observer
from workers.telemetry.health import Cause, Health

LANE = TopicPartition(SEND_REQUESTS, 0)


class _Clock:
    """Time that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    """The clock of `health`."""
    return _Clock()


@pytest.fixture
def health(clock: _Clock) -> Health:
    """A worker that is in its group and polls; its limit is 300 s."""
    health = Health(300, clock)
    health.joined()
    health.polls()
    return health


def _cause(health: Health) -> Cause | None:
    dead = health.dead()
    return dead and dead.cause


def test_a_worker_that_waits_for_its_group_too_long_is_stuck(clock: _Clock) -> None:
    """Also one that had been in it, and whose group began anew."""
    health = Health(300, clock)
    assert ["joining"] == health.not_ready()
    clock.now += 301
    assert Cause.STUCK_JOIN == _cause(health)
    health.joined()
    assert (None, []) == (_cause(health), health.not_ready())
    health.joins()
    clock.now += 299
    health.joins()
    clock.now += 2
    assert Cause.STUCK_JOIN == _cause(health)


def test_a_worker_that_joins_for_long_says_what_a_group_waits_for(clock: _Clock) -> None:
    """A worker that was killed and started again waits for its own dead member; a server in the way is named."""
    health = Health(300, clock)
    clock.now += 6
    (reason,) = health.not_ready()
    health.serves("Kafka", "away")

    assert reason.startswith("joining: a group waits for a member that was killed")
    assert ["joining", "Kafka: away"] == health.not_ready()


def test_a_consumer_that_does_not_come_back_is_stuck(health: Health, clock: _Clock) -> None:
    """Whatever it waits for."""
    clock.now += 299
    assert _cause(health) is None
    clock.now += 2
    assert Cause.STUCK_POLL == _cause(health)


def _pass(health: Health, clock: _Clock, seconds: float) -> None:
    clock.now += seconds
    health.polls()


def test_a_lane_that_has_nothing_to_do_is_never_stuck(health: Health, clock: _Clock) -> None:
    """Idle is not stuck; neither is one that has just been given something after a week."""
    lane = health.lane(LANE)
    lane.waits()
    _pass(health, clock, 7 * 86_400)
    assert (None, []) == (_cause(health), health.not_ready())
    lane.takes()
    assert _cause(health) is None
    _pass(health, clock, 301)
    assert Cause.STUCK_HANDLER == _cause(health)


def test_a_lane_that_tries_again_for_too_long_is_stuck_and_names_the_last_error(health: Health, clock: _Clock) -> None:
    """Opening anew, and taking the same batch again, is no getting on."""
    lane = health.lane(LANE)
    lane.waits()
    lane.takes()
    for _ in range(61):
        lane.fails(OSError("planted"))
        lane.opens()
        lane.waits()
        _pass(health, clock, 0.1)
        lane.takes()
        _pass(health, clock, 4.9)

    dead = health.dead()
    assert dead is not None
    assert Cause.STUCK_HANDLER == dead.cause
    assert "the last error: a connection to a server was lost (planted)" in dead.text


def test_a_lane_that_fails_after_long_idleness_is_not_stuck_at_once(health: Health, clock: _Clock) -> None:
    """Its time begins with the failure: before, it had nothing to do. Nor does it begin anew with the next failure."""
    lane = Lane(SendJob.group, LANE, AsyncMock(), load_settings(), health.lane(LANE), CommittedOffsetCheck())
    lane.open(0)
    _pass(health, clock, 10_000)
    lane.fail(KafkaError("no leader"))
    at_first = _cause(health), lane.health.busy_seconds
    _pass(health, clock, 7)
    lane.fail(KafkaError("no leader"))

    assert ((None, 0), 7) == (at_first, lane.health.busy_seconds)
    _pass(health, clock, 294)
    assert Cause.STUCK_HANDLER == _cause(health)


def test_a_lane_that_gets_on_slowly_is_not_stuck(health: Health, clock: _Clock) -> None:
    """Batch after batch, each published late, and a tick of many steps."""
    lane = health.lane(LANE)
    lane.waits()
    lane.takes()
    for _ in range(10):
        _pass(health, clock, 200)
        lane.takes()
        lane.decided()
        lane.published()
        _pass(health, clock, 200)
        lane.steps()

    assert _cause(health) is None


def test_a_lane_is_over_its_error_when_it_got_on_or_found_nothing_to_do(health: Health, clock: _Clock) -> None:
    """Until then the worker is not ready, and says why."""
    lane = health.lane(LANE)
    lane.fails(OSError("planted"))
    assert [f"lane {SEND_REQUESTS}/0 tries again: a connection to a server was lost (planted)"] == health.not_ready()
    lane.opens()
    lane.waits()
    assert 1 == len(health.not_ready())
    _pass(health, clock, 6)
    assert [] == health.not_ready()
    lane.fails(OSError("again"))
    lane.opens()
    lane.waits()
    lane.takes()
    lane.published()
    assert [] == health.not_ready()


def test_a_lock_in_postgres_is_told_until_the_lanes_that_it_kept_got_on(health: Health, clock: _Clock) -> None:
    """Whoever held it was looked for seconds ago: a lane that has published since knows better."""
    lane, other = health.lane(LANE), health.lane(TopicPartition(SEND_REQUESTS, 1))
    for each in (lane, other):
        each.waits()
        each.takes()
    _pass(health, clock, 2)
    health.is_locked("pid 7 holds a lock on accounts")
    kept = health.not_ready()
    _pass(health, clock, 1)
    lane.published()
    still_kept = health.not_ready()
    other.published()
    got_on = health.not_ready()
    lane.takes()
    _pass(health, clock, 2)

    assert kept == still_kept == ["Postgres: pid 7 holds a lock on accounts"]
    assert [] == got_on == health.not_ready()  # slow now, but that lock was not seen since


def test_lanes_that_failed_together_are_over_it_once_one_of_them_published(health: Health) -> None:
    """Those without a record would wait for nothing; one that failed of its own is not over that."""
    busy, idle, apart = (health.lane(TopicPartition(SEND_REQUESTS, partition)) for partition in range(3))
    busy.fails(OSError("planted"), is_shared=True)
    idle.fails(OSError("planted"), is_shared=True)
    apart.fails(OSError("its own"))
    for lane in (busy, idle, apart):
        lane.opens()
        lane.waits()
    busy.takes()
    before = len(health.not_ready())
    busy.published()
    health.published(TransactionTimes(0.0, 0.0), [])

    assert before == 3
    assert [f"lane {SEND_REQUESTS}/2 tries again: a connection to a server was lost (its own)"] == health.not_ready()


def test_the_first_error_that_ends_a_worker_is_the_one_it_names(health: Health) -> None:
    """What follows is a consequence."""
    health.ends(ValueError("first"))
    health.ends(ValueError("second"))
    health.drains()

    assert (Cause.FATAL, "first") == health.dead()


# -- over HTTP --------------------------------------------------------------------------------------------------------


async def test_probes_answer_while_a_lane_works_and_name_the_lane_that_is_stuck(cluster: Settings) -> None:
    """Ready; still alive in the middle of long work; then not alive, and ended with the reason."""
    own = cluster.model_copy(update={"health_port": free_port(), "stuck_seconds": 3.0, "drain_seconds": 1.0})
    job, stop = Held(), asyncio.Event()
    task = asyncio.create_task(run_worker(job, own, stop))

    looks: list[tuple[int, dict[str, Any]]] = []

    async def is_ready() -> bool:
        return (await ask(own.health_port, "/readyz"))[0] == 200

    async def is_dead() -> bool:
        looks.append(await ask(own.health_port, "/livez"))
        # It ends, and answers nothing any more, a moment after it says so: a look may come too late.
        return looks[-1][0] == 503 or task.done()

    await eventually(is_ready, "ready")
    await publish(cluster, SEND_REQUESTS, [send(in_partition(cluster, 2))])
    await asyncio.wait_for(job.asked.wait(), 10)
    at_work = await ask(own.health_port, "/livez")
    began = monotonic()
    await eventually(is_dead, "not alive")
    with pytest.raises(StuckError, match=r"stuck_handler: lane inmail.send-requests/2 has not got on for 3 s"):
        await asyncio.wait_for(task, 15)

    assert (200, {"alive": True}) == at_work
    assert {body["cause"] for status, body in looks if status == 503} <= {"stuck_handler", "fatal"}
    assert 1 < monotonic() - began < 12


async def test_a_port_that_is_taken_is_told_as_a_setting(cluster: Settings) -> None:
    """Four workers on one machine need four ports."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        own = cluster.model_copy(update={"health_port": listener.getsockname()[1]})
        with pytest.raises(SettingsError, match="INMAIL_HEALTH_PORT"):
            await run_worker(SendJob(load_catalogue()), own, asyncio.Event())


async def test_the_ticker_is_probed_too(cluster: Settings) -> None:
    """Ready once it ticks."""
    own = cluster.model_copy(update={"health_port": free_port()})
    stop = asyncio.Event()
    task = asyncio.create_task(run_ticker(own, stop))

    async def ready() -> bool:
        return (await ask(own.health_port, "/readyz"))[0] == 200

    await eventually(ready, "ready")
    stop.set()
    await asyncio.wait_for(task, 10)


@pytest.mark.parametrize(
    "run", [run_ticker, whole(partial(run_observer, periods=Periods(0.2, 0.2)))], ids=["ticker", "metrics"]
)
async def test_a_process_that_is_started_while_the_broker_is_away_waits_for_it(
    cluster: Settings, run: Callable[[Settings, asyncio.Event], Awaitable[None]]
) -> None:
    """As the workers do: it ended, and whatever runs it would have had to start it until the broker was there."""
    line = Line(f"kafka://{cluster.kafka_bootstrap_servers}")
    await line.mend()
    await line.cut()
    own = cluster.model_copy(
        update={"health_port": free_port(), "kafka_bootstrap_servers": f"127.0.0.1:{line.port}", "tick_seconds": 0.2}
    )
    stop = asyncio.Event()
    task = asyncio.ensure_future(run(own, stop))

    async def answers(status: int) -> bool:
        assert not task.done(), task.exception()
        return (await ask(own.health_port, "/readyz"))[0] == status

    async def is_told() -> bool:
        return bool({"waiting_for_server", "reading_failed"} & {each["event"] for each in logs})

    with capture_logs() as logs:
        await eventually(is_told, "words")
    assert await answers(503)
    await line.mend()
    await eventually(lambda: answers(200), "ready")
    stop.set()
    await asyncio.wait_for(task, 10)
    await line.cut()


async def test_the_ticker_takes_a_new_producer_after_a_tick_that_failed(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of aiokafka's whose sender has ended, or whose sequence is lost, never sends again."""
    producers: list[Any] = []
    three, stop = asyncio.Event(), asyncio.Event()

    async def tick(producer: Any, _: ticker.UnderWay) -> list[int]:
        producers.append(producer)
        if len(producers) == 3:
            three.set()
        if len(producers) == 1:
            raise KafkaError("planted")
        return []

    monkeypatch.setattr(ticker, "_tick", tick)
    task = asyncio.create_task(run_ticker(cluster.model_copy(update={"tick_seconds": 0.01}), stop))
    await asyncio.wait_for(three.wait(), 20)
    stop.set()
    await asyncio.wait_for(task, 10)

    assert producers[0] is not producers[1] is producers[2]
    assert producers[0]._closed


# -- stuck, for real --------------------------------------------------------------------------------------------------


async def test_a_lane_that_tries_again_in_vain_ends_the_worker_with_the_last_error(
    cluster: Settings, connect: Connect
) -> None:
    """A lock that somebody keeps: each attempt ends by it, and after the limit another worker may be luckier."""
    own = cluster.model_copy(update={"stuck_seconds": 4.0, "database_timeout_seconds": 1.0, "drain_seconds": 1.0})
    holder = await connect(cluster)
    async with living(own) as life:
        await life.ready()
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("select from lanes for update")
        await publish(cluster, SEND_REQUESTS, [send(in_partition(cluster, 1))])
        error = await life.ended()
        await transaction.rollback()

    assert isinstance(error, StuckError)
    assert "stuck_handler: lane inmail.send-requests/" in str(error)
    assert "the last error: Postgres: canceling statement due to lock timeout" in str(error)


@pytest.mark.parametrize("whose", ["of one lane", "of a turn"])
async def test_a_passing_error_after_long_idleness_ends_no_worker(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """Whatever closed its lanes: they had nothing to do for longer than a lane may be stuck."""
    own = cluster.model_copy(update={"stuck_seconds": 4.0})  # a busy machine takes 2 to open a lane again
    start = await ends(cluster, SEND_RESULTS)
    publish_, failed = TransactionPair.publish, asyncio.Event()

    async def fails_once(self: TransactionPair, *arguments: Any) -> TransactionTimes:
        if not failed.is_set():
            failed.set()
            raise KafkaError("planted")
        return await publish_(self, *arguments)

    async with living(own) as life:
        await life.ready()
        await asyncio.sleep(4.5)
        if whose == "of one lane":
            lanes = life.worker.membership.lanes  # type: ignore[union-attr]
            lanes[LANE].inbox.interrupt(KafkaError("planted"))
        else:
            monkeypatch.setattr(TransactionPair, "publish", fails_once)
        await publish(cluster, SEND_REQUESTS, [request := send(account)])
        (answer,) = await read(cluster, start, 1)
        await asyncio.sleep(2)  # two looks of the watchdog

        assert str(request.id) == answer["request_id"]
        assert not life.task.done()


async def test_a_worker_whose_group_does_not_let_it_in_ends(cluster: Settings) -> None:
    """Another member never gives up what it has: the join takes longer than the limit."""
    member = AIOKafkaConsumer(
        bootstrap_servers=cluster.kafka_bootstrap_servers,
        group_id=SendJob.group,
        rebalance_timeout_ms=60_000,
        heartbeat_interval_ms=60_000,  # it never hears that it should join anew
        session_timeout_ms=60_000,
        enable_auto_commit=False,
    )
    member.subscribe([SEND_REQUESTS])
    await member.start()
    try:
        own = cluster.model_copy(update={"stuck_seconds": 2.0, "drain_seconds": 1.0})
        async with living(own) as life:
            error = await life.ended()
    finally:
        await member.stop()

    assert isinstance(error, StuckError)
    assert str(error).startswith("stuck_join: not in its group for 2 s")
