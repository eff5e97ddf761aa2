"""That no send is refused because another lane was slower (rule 21): restarts, replacements, cuts and start orders.

Each send comes a moment after the grant that pays for it, by the brokers' time. Whatever becomes of the workers
meanwhile, each has to be charged. ORDER_ROUNDS says how often each form is played; `make order` plays the long form.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import permutations
from random import Random
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer

from infra.kafka.clients import create_producer
from infra.postgres import connect_database
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS
from schemas.envelope import Event, encode
from tests.conftest import Connect
from tests.workers.wire import eventually, promotion, send
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.job import Job
from workers.jobs.send import SendJob
from workers.lane.worker import run_worker
from workers.ledger.plans import load_catalogue

ROUNDS = int(os.environ.get("ORDER_ROUNDS", "0"))  # 0: the slice that `make test` plays
KINDS = (BILLING_EVENTS, SEND_REQUESTS, EXPIRY_TICKS)
ORDERS = list(permutations(KINDS)) * ROUNDS or [(SEND_REQUESTS, EXPIRY_TICKS, BILLING_EVENTS)]
BACKLOG = 100
PAIRS_A_SECOND = 60


class Workers:
    """Workers of the three kinds in this process, each started and stopped by itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    def _job(self, topic: str) -> Job:
        catalogue = load_catalogue()
        if topic == EXPIRY_TICKS:
            return ExpiryJob(catalogue, self._settings)
        return SendJob(catalogue) if topic == SEND_REQUESTS else BillingJob(catalogue)

    async def start(self, topic: str) -> None:
        """Start a worker, and wait until it has opened its lanes."""
        before = await self._epochs(topic)
        stop = asyncio.Event()
        self._running[topic] = stop, asyncio.create_task(run_worker(self._job(topic), self._settings, stop))

        async def opened() -> bool:
            return await self._epochs(topic) >= before + self._settings.topic_partitions

        await eventually(opened, f"lanes of {topic}")

    async def stop(self, topic: str) -> None:
        """Stop a worker in order."""
        stop, task = self._running.pop(topic)
        stop.set()
        await task

    async def replace(self, topic: str) -> None:
        """Start another worker of a kind beside the one that runs, then stop that one."""
        before = self._running.pop(topic)
        await self.start(topic)
        before[0].set()
        await before[1]

    async def stop_all(self) -> None:
        """Stop what runs."""
        for topic in list(self._running):
            await self.stop(topic)

    async def _epochs(self, topic: str) -> int:
        connection = await connect_database(self._settings)
        try:
            return int(await connection.fetchval("select coalesce(sum(epoch), 0) from lanes where topic = $1", topic))
        finally:
            await connection.close()


@asynccontextmanager
async def workers(settings: Settings) -> AsyncIterator[Workers]:
    """Run workers, and leave none."""
    running = Workers(settings)
    try:
        yield running
    finally:
        await running.stop_all()


async def pair(producer: AIOKafkaProducer, seconds: float) -> None:
    """Grant a credit to an account of its own and, a moment after the broker has it, ask to send."""
    account = f"o-{uuid4().hex[:12]}"
    events: Sequence[tuple[str, Event]] = (BILLING_EVENTS, promotion(account, 1)), (SEND_REQUESTS, send(account))
    for topic, event in events:
        await producer.send_and_wait(topic, encode(event), account.encode())
        await asyncio.sleep(seconds)  # between the two, as a producer would take; the second one ends the pair


async def codes(settings: Settings, count: int) -> dict[str, int]:
    """Wait until so many sends are answered; return how many with each code."""
    connection = await connect_database(settings)
    query = "select code, count(*) from journal where worker = 'send' and is_answer group by code"
    found: dict[str, int] = {}

    async def answered() -> bool:
        found.update({row[0]: row[1] for row in await connection.fetch(query)})
        return sum(found.values()) >= count

    try:
        await eventually(answered, f"{count} answers")
    finally:
        await connection.close()
    return found


async def under_load(settings: Settings, act: Callable[[], Awaitable[None]]) -> None:
    """Publish grants and sends while something is done to the workers; each send has to be charged."""
    dice = Random(5)  # noqa: S311 - a workload
    pairs: list[asyncio.Task[None]] = []
    async with create_producer(settings, "order") as producer:
        acting = asyncio.create_task(act())
        while not acting.done() or len(pairs) < PAIRS_A_SECOND:
            pairs.append(asyncio.create_task(pair(producer, dice.uniform(0.02, 0.3))))
            await asyncio.wait([acting], timeout=1 / PAIRS_A_SECOND)
        await asyncio.gather(*pairs)
        acting.result()

    assert {"charged": len(pairs)} == await codes(settings, len(pairs))


@pytest.fixture
def patient(cluster: Settings) -> Settings:
    """The cluster with a limit that no form of this file reaches."""
    return cluster.model_copy(update={"order_seconds": 120.0})


@pytest.mark.timeout(600)
async def test_a_worker_restarted_in_order_has_no_send_refused(patient: Settings) -> None:
    """It says goodbye, and what Kafka holds for it meanwhile is decided first all the same."""
    async with workers(patient) as running:
        for topic in KINDS:
            await running.start(topic)

        async def restart() -> None:
            for _ in range(max(1, 3 * ROUNDS)):
                await running.stop(BILLING_EVENTS)
                await running.start(BILLING_EVENTS)

        await under_load(patient, restart)


@pytest.mark.whole
@pytest.mark.timeout(600)
async def test_a_rolling_replacement_has_no_send_refused(patient: Settings) -> None:
    """One kind after the other, a new process before the old one ends."""
    async with workers(patient) as running:
        for topic in KINDS:
            await running.start(topic)

        async def replace() -> None:
            for _ in range(max(1, ROUNDS)):
                for topic in KINDS:
                    await running.replace(topic)

        await under_load(patient, replace)


@pytest.mark.whole
@pytest.mark.timeout(600)
async def test_connections_that_are_cut_have_no_send_refused(patient: Settings, connect: Connect) -> None:
    """All lanes begin again, each when it can."""
    async with workers(patient) as running:
        for topic in KINDS:
            await running.start(topic)

        async def cut() -> None:
            connection = await connect(patient)
            for _ in range(max(1, 3 * ROUNDS)):
                await connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
                await asyncio.sleep(1.0)  # the load goes on between two cuts

        await under_load(patient, cut)


@pytest.mark.whole
@pytest.mark.timeout(600)
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: ",".join(each.split(".")[1] for each in order))
async def test_whatever_kind_starts_first_after_an_outage_no_send_is_refused(
    patient: Settings, order: Sequence[str]
) -> None:
    """Kafka holds grants and sends of the outage; a lane that starts first waits for those that are not there yet."""
    async with create_producer(patient, "order") as producer:
        await asyncio.gather(*[pair(producer, 0.01) for _ in range(BACKLOG)])
    async with workers(patient) as running:
        for topic in order:
            await running.start(topic)
        assert {"charged": BACKLOG} == await codes(patient, BACKLOG)


async def test_a_lane_waits_for_a_group_that_was_never_started(patient: Settings, connect: Connect) -> None:
    """It has no row: what Kafka holds from its offset on is unread. Where that is nothing, nobody waits for it."""
    connection = await connect(patient)
    await connection.execute("delete from lanes where topic = $1", BILLING_EVENTS)
    request = send(f"o-{uuid4().hex[:12]}")
    async with workers(patient) as running, create_producer(patient, "order") as producer:
        await running.start(SEND_REQUESTS)
        await producer.send_and_wait(SEND_REQUESTS, encode(request), request.subject.encode())
        assert {"insufficient_credits": 1} == await codes(patient, 1)
        await pair(producer, 0.01)

        async def waits() -> bool:
            return bool(
                await connection.fetchval(
                    "select count(*) from lanes where topic = $1 and waits_for = 'inmail-billing'"
                    " and waits_since > now() - interval '1 minute'",
                    SEND_REQUESTS,
                )
            )

        await eventually(waits, "a lane that waits")
        assert 1 == await connection.fetchval("select count(*) from journal")


@pytest.mark.whole
async def test_an_expiry_worker_that_is_away_holds_no_send_up(patient: Settings, connect: Connect) -> None:
    """A tick gives nobody a credit; it has ticks unread, and its row says that it ran in time."""
    connection = await connect(patient)
    await connection.execute("update lanes set next_offset = 0, awaited = true where topic = $1", EXPIRY_TICKS)
    async with create_producer(patient, "order") as producer:
        for partition in range(patient.topic_partitions):
            await producer.send_and_wait(EXPIRY_TICKS, b"{}", partition=partition)
        await pair(producer, 0.01)
    async with workers(patient) as running:
        await running.start(BILLING_EVENTS)
        await running.start(SEND_REQUESTS)
        assert {"charged": 1} == await codes(patient, 1)


async def test_past_the_limit_a_want_of_credit_is_not_final_and_the_id_is_decided_afresh(
    cluster: Settings, connect: Connect
) -> None:
    """The answer names whom it waited for; sent again once that one has read on, the same request is charged."""
    short = cluster.model_copy(update={"order_seconds": 0.2})
    account = f"o-{uuid4().hex[:12]}"
    request = send(account)
    async with workers(short) as running, create_producer(short, "order") as producer:
        await producer.send_and_wait(BILLING_EVENTS, encode(promotion(account, 1)), account.encode())
        await producer.send_and_wait(SEND_REQUESTS, encode(request), account.encode())
        await running.start(SEND_REQUESTS)
        assert {"balance_not_current": 1} == await codes(short, 1)
        await running.start(BILLING_EVENTS)
        connection = await connect(short)
        await eventually(
            lambda: connection.fetchval("select count(*) > 0 from journal where code = 'granted'"), "a grant"
        )
        await producer.send_and_wait(SEND_REQUESTS, encode(request), account.encode())
        await producer.send_and_wait(SEND_REQUESTS, encode(request), account.encode())
        assert {"balance_not_current": 1, "charged": 1} == await codes(short, 2)
