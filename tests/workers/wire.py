"""An ordinary producer and an ordinary read_committed reader, for tests that go through Kafka."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any
from uuid import UUID, uuid4

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import admin_client, create_producer, partitions_of, reader
from infra.postgres import Connection, open_database
from infra.settings import Settings
from schemas.billing import PromotionGranted
from schemas.catalogue import BALANCES, CATALOGUE, CREDIT_EVENTS, DEAD_LETTERS, SEND_RESULTS
from schemas.envelope import Event, encode
from schemas.sends import SendRequested
from tests.kept_readers import ask_reader, is_kept
from workers.jobs.job import Job
from workers.lane.worker import run_worker
from workers.ops.topics.plan import apply_topics, plan_topics

WAIT_SECONDS = 30


_as_planned: set[tuple[object, ...]] = set()  # what the topics of the run's cluster are set to, until one is altered


def _forgetting(alter: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(alter)
    async def altered(*arguments: Any, **options: Any) -> Any:
        _as_planned.clear()
        return await alter(*arguments, **options)

    return altered


for _name in ("create_topics", "delete_topics", "create_partitions", "alter_configs"):
    setattr(AIOKafkaAdminClient, _name, _forgetting(getattr(AIOKafkaAdminClient, _name)))


async def _apply_plan(settings: Settings, connection: Connection) -> None:
    """Make the topics what they should be. A plan takes a fifth of a second: once is enough for many new books."""
    wanted = (
        settings.topic_partitions,
        settings.topic_replication,
        settings.topic_record_time,
        settings.topic_retention_days,
        settings.balances_topic,
    )
    is_known = wanted in _as_planned and is_kept(settings)
    if is_known and not await connection.fetchval("select exists (select from lanes) or exists (select from accounts)"):
        return
    if changes := await plan_topics(settings):
        await apply_topics(settings, changes)
    if is_kept(settings):
        _as_planned.add(wanted)


async def prepare(settings: Settings) -> None:
    """Make the topics, start the groups at the ends of their topics, and tell these books that others worked them."""
    groups = {row.topic: row.group for row in CATALOGUE if row.group}
    async with open_database(settings) as connection:
        await _apply_plan(settings, connection)
        passed = await pass_over(settings)
        await connection.executemany(
            "insert into lanes (consumer_group, topic, partition, epoch, next_offset, owner_epoch)"
            " values ($1, $2, $3, 1, $4, 1)"
            " on conflict (consumer_group, topic, partition) do update set next_offset = excluded.next_offset",
            [(groups[tp.topic], tp.topic, tp.partition, offset) for tp, offset in passed.items()],
        )
        await connection.execute(
            "insert into partitioning (partitions) values ($1) on conflict do nothing", settings.topic_partitions
        )
    await settled(settings)


async def pass_over(settings: Settings) -> dict[TopicPartition, int]:
    """Move all groups to the ends of their topics; return those."""
    groups = {row.topic: row.group for row in CATALOGUE if row.group}
    passed = await asyncio.gather(*(_pass(settings, *each) for each in groups.items()))
    return {place: offset for each in passed for place, offset in each.items()}


async def _pass(settings: Settings, topic: str, group: str) -> dict[TopicPartition, int]:
    places = partitions_of(topic, settings.topic_partitions)

    async def commit_ends(consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        end = dict(await consumer.end_offsets(places))
        _begin_at(consumer, end)
        consumer.pause(*places)  # a fetch would keep the next question waiting
        await consumer.commit(end)
        return end

    return await ask_reader(settings, commit_ends, group)


def send(account: str, id_: UUID | None = None, **data: Any) -> Event:
    """Return a request to send."""
    body = {"recipient_id": "zoe", "relationship": "none"} | data
    return SendRequested.create(id=id_ or uuid4(), source="/test", subject=account, time=datetime.now(UTC), data=body)


def promotion(account: str, credits_: int) -> Event:
    """Return credits for an account."""
    body = {"credits": credits_, "promotion_id": "welcome"}
    return PromotionGranted.create(id=uuid4(), source="/test", subject=account, time=datetime.now(UTC), data=body)


def in_binary_mode(event: Event) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return an event as CloudEvents' SDKs write it by default: its data, and its attributes as headers."""
    document = json.loads(encode(event))
    data = json.dumps(document.pop("data")).encode()
    content_type = document.pop("datacontenttype")
    return data, [
        ("content-type", content_type.encode()),
        *((f"ce_{name}", value.encode()) for name, value in document.items()),
    ]


Raw = tuple[bytes | None, bytes | None]


async def publish(
    settings: Settings, topic: str, records: Sequence[Event | Raw], timestamp_ms: int | None = None
) -> None:
    """Publish events, or raw keys and values, as an ordinary producer does."""
    async with create_producer(settings, "test") as producer:
        deliveries = []
        for record in records:
            key, value = (record.subject.encode(), encode(record)) if isinstance(record, Event) else record
            deliveries.append(await producer.send(topic, value, key, timestamp_ms=timestamp_ms))
        await asyncio.gather(*deliveries)


async def ends(settings: Settings, topic: str) -> dict[TopicPartition, int]:
    """Return where a topic ends now: where to read from for what comes after."""
    return await _end_offsets(settings, partitions_of(topic, settings.topic_partitions))


async def remove_records(settings: Settings, topic: str) -> None:
    """Remove what a topic has, as retention would."""
    end = await ends(settings, topic)
    async with admin_client(settings) as admin:
        await admin.delete_records({place: RecordsToDelete(before_offset=offset) for place, offset in end.items()})


async def _end_offsets(
    settings: Settings, places: Sequence[TopicPartition], isolation_level: str = "read_committed"
) -> dict[TopicPartition, int]:
    async def ask(consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        return dict(await consumer.end_offsets(places))

    return await ask_reader(settings, ask, isolation_level=isolation_level)


async def set_offset(settings: Settings, group: str, place: TopicPartition, offset: int) -> None:
    """Set a group's offset of a partition by Kafka's own means, while it has no members."""
    async with reader(settings, group) as consumer:
        consumer.assign([place])
        await consumer.commit({place: offset})


async def settled(settings: Settings) -> None:
    """Wait until the markers of all transactions have reached the topics that workers write.

    They come a moment after the offset that was committed with them, and a read_committed reader stops before them.
    """
    topics = [SEND_RESULTS, CREDIT_EVENTS, DEAD_LETTERS, *([BALANCES] if settings.balances_topic else [])]
    places = [tp for topic in topics for tp in partitions_of(topic, settings.topic_partitions)]
    async with asyncio.timeout(WAIT_SECONDS):
        while await _end_offsets(settings, places) != await _end_offsets(settings, places, "read_uncommitted"):
            pass  # each look takes its time


async def read(settings: Settings, start: dict[TopicPartition, int], count: int) -> list[dict[str, Any]]:
    """Read events from `start` until there are `count`, then on for what nobody expects; return their bodies.

    Order is kept within a partition, and so within an account. Where none is expected, this is `read_to_end`. While
    workers are there, a repeat may still come: where it must not, `read_to_end` after they have ended says so.
    """
    if not count:
        return await read_to_end(settings, start)
    found: list[ConsumerRecord] = []
    async with reader(settings, wait_ms=50) as consumer:  # a fetch holds the question for the ends back as long
        _begin_at(consumer, start)
        async with asyncio.timeout(WAIT_SECONDS):
            while len(found) < count:
                found += await _fetch(consumer, 200)
        found += await _fetch(consumer, 100)  # time for one that is on its way
        found += await _fetch_to(consumer, await consumer.end_offsets(list(start)))
    return [_body(record) for record in found]


async def read_to_end(settings: Settings, start: dict[TopicPartition, int]) -> list[dict[str, Any]]:
    """Return the bodies of all events from `start` to the end; an empty list says that there are none."""
    return [_body(record) for record in await records_to_end(settings, start)]


async def records_to_end(settings: Settings, start: dict[TopicPartition, int]) -> list[ConsumerRecord]:
    """Return all committed records from `start` to where the partitions end now, transactions under way included.

    Such a transaction is waited for. Order is kept within a partition.
    """
    end = await _end_offsets(settings, list(start), "read_uncommitted")
    async with reader(settings) as consumer:
        _begin_at(consumer, start)
        return await _fetch_to(consumer, end)


def _begin_at(consumer: AIOKafkaConsumer, start: dict[TopicPartition, int]) -> None:
    consumer.assign(list(start))
    for tp, offset in start.items():
        consumer.seek(tp, offset)


async def _fetch(consumer: AIOKafkaConsumer, milliseconds: int) -> list[ConsumerRecord]:
    fetched = await consumer.getmany(timeout_ms=milliseconds)
    return [record for records in fetched.values() for record in records]


async def _fetch_to(consumer: AIOKafkaConsumer, end: dict[TopicPartition, int]) -> list[ConsumerRecord]:
    found: list[ConsumerRecord] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while any([await consumer.position(tp) < offset for tp, offset in end.items()]):
            found += await _fetch(consumer, 200)
    return found


def _body(record: ConsumerRecord) -> dict[str, Any]:
    event = json.loads(record.value)
    return {"id": event["id"], "type": event["type"], "account": event.get("subject"), **event["data"]}


@asynccontextmanager
async def working(settings: Settings, *jobs: Job) -> AsyncIterator[None]:
    """Run workers in this process, and drain them at the end."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(run_worker(job, settings, stop)) for job in jobs]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def eventually(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until an awaited condition holds."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.wait([asyncio.create_task(asyncio.sleep(0.05))])
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None
