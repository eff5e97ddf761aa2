"""The expiry lane: neighbours, clocks, steps, and crashes between them; and what a lost client keeps locked."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from infra.clock import EARLIEST, LATEST
from infra.kafka.clients import create_producer
from infra.postgres import Connection, connect_database, create_pool, is_transient
from infra.retry import suppress_retriable
from infra.settings import Settings
from schemas.catalogue import (
    CREDIT_EVENTS,
    EXPIRY_TICKS,
    fingerprint,
)
from schemas.decisions import TickDecided
from schemas.envelope import Event, encode
from schemas.ticks import ExpiryTick
from tests.ledger.book import DAY, Book, pick
from tests.workers.life import in_partition
from tests.workers.wire import ends, eventually, read, working
from workers.jobs import expiry
from workers.jobs.expiry import ExpiryJob
from workers.jobs.job import Batch, Decision
from workers.ledger.model import Request, Tick
from workers.ledger.plans import load_catalogue


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


async def test_a_connection_given_back_within_a_transaction_is_outside_of_any_when_it_is_taken_again(
    cluster: Settings,
) -> None:
    """The pool sends no reset; what was open is rolled back all the same."""
    async with create_pool(cluster.model_copy(update={"database_connections": 1})) as pool:
        async with pool.acquire() as connection:
            before = connection.get_server_pid()
            await connection.execute("begin")
            await connection.execute("set local work_mem = '65kB'")
        async with pool.acquire() as connection:
            again = (connection.get_server_pid(), connection.is_in_transaction())
            work_mem = await connection.fetchval("show work_mem")

    assert (before, False) == again
    assert "65kB" != work_mem


async def test_a_connection_lost_while_its_pool_takes_it_back_may_be_tried_again(cluster: Settings) -> None:
    """The loaded crash matrix met it once: asyncpg calls it a connection that was given back already."""
    async with create_pool(cluster) as pool:
        connection = await pool.acquire()
        giving_back = asyncio.create_task(pool.release(connection))
        connection._con._transport.abort()  # between the two turns of the loop that giving back takes
        with pytest.raises(asyncpg.InternalClientError) as caught:
            await giving_back

    assert is_transient(caught.value)
    with suppress_retriable():  # as a lane does that leaves: the worker must not end of it
        raise caught.value


# -- expiry -----------------------------------------------------------------------------------------------------------


async def _lots(settings: Settings, database: Connection, count: int, ended: timedelta) -> None:
    """Open lots of one credit in partition 0, for an account each, that ended so long ago."""
    book = Book(database)
    book.now = datetime.now(UTC) - 90 * DAY - ended
    await book.decide(*(book.promotion(1, in_partition(settings, 0)) for _ in range(count)))


def _tick() -> ExpiryTick:
    now = datetime.now(UTC)
    return ExpiryTick.create(id=uuid4(), source="/test", time=now, data={"as_of": now})


async def _book(settings: Settings, database: Connection, tick: ExpiryTick, read_to: datetime) -> bytes:
    """Decide a tick of partition 0 without a lane, with its neighbours read up to an instant; return its answer."""
    request = Request(tick, "", tick.id, fingerprint(tick), tick.time, 0, 0)
    batch, job = Batch([request], read_to=read_to), ExpiryJob(load_catalogue(), settings)
    while await job.step(database, batch):
        pass
    return (await job.decide(database, batch)).messages[-1].value


@pytest.mark.parametrize(("grace", "booked"), [(60, 0), (0, 1)])
async def test_a_lot_is_booked_a_grace_after_its_end(
    cluster: Settings, database: Connection, grace: float, booked: int
) -> None:
    """Another broker's clock may be behind: a send may yet come that the lot's credit was good for."""
    await _lots(cluster, database, 1, ended=timedelta(seconds=30))

    value = await _book(cluster.model_copy(update={"tick_grace_seconds": grace}), database, _tick(), LATEST)

    assert booked == TickDecided.model_validate_json(value).data["lots"]


async def test_a_step_says_whether_one_is_left_after_it(settings: Settings, database: Connection) -> None:
    """A tick with little to book, as most are, takes one transaction before that of its answer; a repeat books none."""
    await _lots(settings, database, 3, ended=DAY)
    tick = _tick()
    first, again = (Request(tick, "", tick.id, fingerprint(tick), tick.time, 0, offset) for offset in (0, 1))
    job = ExpiryJob(load_catalogue(), settings.model_copy(update={"tick_step_lots": 2}))

    left = [await job.step(database, Batch([each], read_to=LATEST)) for each in (first, first, again)]

    assert [True, False, False] == left


async def test_the_horizon_of_a_neighbour_that_never_read_is_one_that_an_answer_can_carry(
    cluster: Settings, database: Connection
) -> None:
    """Nothing is booked, and the answer is one that its readers accept."""
    await _lots(cluster, database, 1, ended=DAY)

    event = TickDecided.model_validate_json(await _book(cluster, database, _tick(), EARLIEST - DAY))

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
    await _lots(settings, database, 10, ended=DAY)
    start = await ends(settings, CREDIT_EVENTS)
    settings = settings.model_copy(update={"tick_step_lots": 2})
    async with create_producer(settings, "test") as producer:
        for event in events:
            await producer.send_and_wait(EXPIRY_TICKS, encode(event), partition=0)
    async with working(settings, ExpiryJob(load_catalogue(), settings)):
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
    assert [0, 4, 8, 8, 12, 16, 20, 20] == [lines for _, lines in steps.seen]


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
                return await other.execute(
                    "update lanes set epoch = epoch + 10, owner_epoch = owner_epoch + 10 where topic = $1", EXPIRY_TICKS
                )
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
    epochs = [epoch for epoch, _ in steps.seen]
    # The successor was waiting; a step of the older owner may still come before it, and then none.
    assert [0, 4, 8, 12, 16, 20] == [lines for _, lines in steps.seen]
    assert ({first, first + 11}, sorted(epochs)) == (set(epochs), epochs)
    assert ["UPDATE 4"] == await asyncio.gather(*raising)
