"""Books as a tests' own driver decides them: a simulated history in Kafka, record by record in the one order."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from pydantic import SecretStr

from infra.clock import LATEST, from_milliseconds
from infra.kafka.clients import create_producer, partition_of
from infra.migrate import migrate
from infra.postgres import Connection, connect_database
from infra.settings import RecordTime, Settings
from schemas.billing import PromotionGranted
from schemas.catalogue import BILLING_EVENTS, CATALOGUE, EXPIRY_TICKS, SEND_REQUESTS
from tests.conftest import FUNCTIONS, TEMPLATE
from workers.jobs.billing import BillingJob
from workers.jobs.decoding import decode_records
from workers.jobs.expiry import ExpiryJob
from workers.jobs.job import Batch, Job
from workers.jobs.record_times import TimePolicy
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue
from workers.simulate.history import simulate_records
from workers.simulate.population import Population
from workers.simulate.records import DAY, Record, encode_event, encode_send

POPULATION = Population(
    accounts=14, days=100, sends_per_day=0.3, turbulence=8, duplicates=0.03, conflicts=0.02, tick_hours=48, annual=0.1
)
GROUPS = {row.topic: row.group for row in CATALOGUE if row.group}
TIED = ("tied-0", UUID(int=2**64 + 1))  # account and send of the two records at one instant
_RANKS = [BILLING_EVENTS, SEND_REQUESTS, EXPIRY_TICKS]
_TABLES = {
    "journal": "select a.account_id, (to_jsonb(j) - 'account')::text as line from journal as j join accounts as a"
    " using (account) order by 1, j.sequence",
    "lots": "select a.account_id, (to_jsonb(l) - 'account')::text as line from lots as l join accounts as a"
    " using (account) order by 1, l.lot",
    "subscriptions": "select a.account_id, (to_jsonb(s) - 'account')::text as line from subscriptions as s"
    " join accounts as a using (account) order by 1, s.subscription_id",
    "accounts": "select account_id, (to_jsonb(a) - 'account')::text as line from accounts as a order by 1",
    "ticks": "select partition, (to_jsonb(t) - 'ended' - 'cut' - 'announced')::text as line from ticks as t"
    " order by 1, 2",
    "lanes": "select topic, partition, next_offset, as_of from lanes order by 1, 2",
}


class Placed(NamedTuple):
    """A record of the history, and where Kafka has it."""

    record: Record
    partition: int
    offset: int


def history() -> list[Record]:
    """Return the records in the order of their publishing, which inside a topic is that of their time.

    The last two have one time: the send is published before the promotion that pays for it.
    """
    records = list(simulate_records(POPULATION))
    time = records[-1].time + DAY
    account, request_id = TIED
    promotion = encode_event(time, str(uuid4()), PromotionGranted, account, {"credits": 3, "promotion_id": "welcome"})
    return [*records, encode_send(time, str(request_id), account, "zoe", "none", None), promotion]


async def publish_records(settings: Settings, records: Iterable[Record]) -> list[Placed]:
    """Publish records, each with its own time; a tick to every partition."""
    placed = []
    async with create_producer(settings, "history") as producer:
        for record in records:
            count = settings.topic_partitions
            places = range(count) if record.key is None else [partition_of(record.key, count)]
            for partition in places:
                sent = await producer.send(
                    record.topic, record.value, record.key, partition=partition, timestamp_ms=record.time
                )
                placed.append((record, partition, sent))
        return [Placed(record, partition, (await sent).offset) for record, partition, sent in placed]


class _ReadAll:
    async def end_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)


async def decide_one_by_one(settings: Settings, placed: Sequence[Placed]) -> None:
    """Decide the history into the live books, each record alone, and note how far the lanes have read."""
    catalogue = load_catalogue(settings.plans_file)
    jobs: list[Job] = [SendJob(catalogue), BillingJob(catalogue), ExpiryJob(catalogue, settings)]
    by_topic = {job.topic: job for job in jobs}
    read: dict[tuple[str, int], tuple[int, datetime]] = defaultdict(lambda: (0, datetime.min.replace(tzinfo=UTC)))
    connection = await connect_database(settings)
    await connection.execute("set synchronous_commit = off")
    await connection.execute(
        "insert into partitioning (partitions) values ($1) on conflict do nothing", settings.topic_partitions
    )
    for each in sorted(placed, key=lambda each: (each.record.time, _RANKS.index(each.record.topic))):
        job, topic, partition = by_topic[each.record.topic], each.record.topic, each.partition
        record = ConsumerRecord(
            topic, partition, each.offset, each.record.time, 0, each.record.key, each.record.value, None, 0, 0, ()
        )
        found = decode_records([record], from_milliseconds(each.record.time), TimePolicy(RecordTime.CREATE))
        async with connection.transaction():
            batch = Batch(found.requests, read_to=LATEST)  # each record in the order of time
            while job.step is not None and await job.step(connection, batch):
                pass
            await job.decide(connection, batch)
        read[topic, partition] = (each.offset + 1, found.as_of)
    await connection.executemany(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset, as_of)"
        " values ($1, $2, $3, 1, $4, $5)",
        [(GROUPS[topic], topic, partition, *far) for (topic, partition), far in read.items()],
    )
    await connection.close()


async def new_database(settings: Settings, options: str = "", name: str = "") -> str:
    """Return the address of a new database of the same server, an empty one unless the options name a template."""
    address = settings.database_url.get_secret_value()
    name = name or f"other_{uuid4().hex[:8]}"
    admin = await asyncpg.connect(address)
    await admin.execute(f"create database {name} {options}")
    await admin.close()
    return f"{address.rpartition('/')[0]}/{name}"


async def migrated(settings: Settings) -> Settings:
    """Return settings for an empty database that is migrated: a copy of one, which is made once a server."""
    admin = await connect_database(settings)
    is_made = await admin.fetchval("select exists (select from pg_database where datname = $1)", TEMPLATE)
    await admin.close()
    if not is_made:
        template = SecretStr(await new_database(settings, name=TEMPLATE))
        connection = await connect_database(settings.model_copy(update={"database_url": template}))
        await migrate(connection, [FUNCTIONS])
        await connection.close()
    address = await new_database(settings, f"template {TEMPLATE} strategy file_copy")
    return settings.model_copy(update={"database_url": SecretStr(address)})


async def written(connection: Connection) -> dict[str, Any]:
    """Return everything that books hold, without the numbers of accounts."""
    return {name: [tuple(row) for row in await connection.fetch(sql)] for name, sql in _TABLES.items()}
