"""A history for the verbs of replay to go over: every kind of row, through workers on Kafka; and what was published."""

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import admin_client, committed_offsets, create_producer, partitions_of, reader
from infra.kafka.records import read_records
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, CREDIT_EVENTS, EXPIRY_TICKS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import Event, encode
from schemas.sends import SendUndeliverable
from schemas.ticks import ExpiryTick
from tests.ledger.book import Book
from tests.workers.wire import WAIT_SECONDS, ends, eventually, promotion, publish, send, settled, working
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.job import Job
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue
from workers.ops.operations import Operator

ME = Operator("ops-1", "a downstream lost its state")


class Seen(NamedTuple):
    """What a reader sees of a record, but for its offset and the broker's time."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class Marks(NamedTuple):
    """Where the result topics ended before something."""

    places: dict[TopicPartition, int]

    async def read(self, settings: Settings, *topics: str) -> list[ConsumerRecord]:
        """Return what a read_committed reader finds behind them, each partition's in order."""
        await settled(settings)
        places = [place for place in self.places if not topics or place.topic in topics]
        async with aclosing(read_records(settings, places)) as records:
            return [each async for each in records if each.offset >= self.places[TopicPartition(*_place(each))]]


def _place(record: ConsumerRecord) -> tuple[str, int]:
    return record.topic, record.partition


def seen(record: ConsumerRecord) -> Seen:
    """Return what a reader sees of a record."""
    return Seen(record.topic, record.partition, record.key, record.value, tuple(record.headers))


async def mark(settings: Settings) -> Marks:
    """Return where the result topics end now."""
    return Marks(await ends(settings, SEND_RESULTS) | await ends(settings, CREDIT_EVENTS))


async def work_off(settings: Settings, *jobs: Job, seconds: float = WAIT_SECONDS) -> None:
    """Let workers decide everything that is there, and end."""
    jobs = jobs or (SendJob(load_catalogue()), BillingJob(load_catalogue()))
    async with working(settings, *jobs):
        await published(settings, *jobs, seconds=seconds)
    await settled(settings)


async def published(settings: Settings, *jobs: Job, seconds: float = WAIT_SECONDS) -> None:
    """Wait until workers that run have published the answers to everything that is there."""
    async with admin_client(settings) as admin, reader(settings, None, "read_uncommitted") as consumer:

        async def done() -> bool:
            for job in jobs:
                places = partitions_of(job.topic, settings.topic_partitions)
                end = await consumer.end_offsets(places)
                if await committed_offsets(admin, job.group, places) != end:
                    return False
            return True

        await eventually(done, "all is answered", seconds)


async def fund_and_send(settings: Settings, account: str, sends: int) -> list[Event]:
    """Have an account of five credits ask for sends, and the workers decide; return the requests."""
    billing, sending = BillingJob(load_catalogue()), SendJob(load_catalogue())
    requests = [send(account) for _ in range(sends)]
    async with working(settings, billing, sending):
        await publish(settings, BILLING_EVENTS, [promotion(account, 5)])
        await published(settings, billing)
        await publish(settings, SEND_REQUESTS, requests)
        await published(settings, sending)
    await settled(settings)
    return requests


async def whole_history(settings: Settings, book: Book, account: str) -> UUID:
    """Have an account go through every kind of row and answer that there is; return the id of its tick."""
    book.now = datetime.now(UTC) - timedelta(hours=1)
    begun, cancelled = book.activated(account), book.cancelled(account, effective_at=datetime.now(UTC))
    sends = [send(account) for _ in range(3)]
    back = SendUndeliverable.create(
        id=uuid4(), source="/test", subject=account, time=book.now, data={"send_id": sends[0].id}
    )
    repeat, conflict = sends[1], send(account, sends[1].id, recipient_id="another")
    free = send(account, relationship="connection")
    now = datetime.now(UTC)
    tick = ExpiryTick.create(id=uuid4(), source="/test", time=now, data={"as_of": now})
    billing, sending = BillingJob(load_catalogue()), SendJob(load_catalogue())
    expiry = ExpiryJob(load_catalogue(), settings)
    async with working(settings, billing, sending, expiry):
        await publish(settings, BILLING_EVENTS, [promotion(account, 2), begun, cancelled])
        await published(settings, billing)
        await publish(settings, SEND_REQUESTS, [*sends, back, free, repeat, conflict])
        await published(settings, sending)
        async with create_producer(settings, "test") as producer:
            for place in partitions_of(EXPIRY_TICKS, settings.topic_partitions):
                await producer.send_and_wait(EXPIRY_TICKS, encode(tick), partition=place.partition)
        await published(settings, expiry)
    await settled(settings)
    return tick.id
