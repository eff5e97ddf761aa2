"""A rolling change from 0.1.0, whose workers own a partition each: they and owners of many lanes fence each other."""

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from infra.kafka.transactions import TransactionPair
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from tests.workers.life import in_partition
from tests.workers.wire import ends, publish, read, send, working
from workers.jobs.job import Message
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue

PLACE = TopicPartition(SEND_REQUESTS, 0)
NAME = f"{SendJob.group}.{SEND_REQUESTS}.0"  # of a lane's producers in 0.1.0
# The statement by which a worker of 0.1.0 takes a lane whose epoch it has read.
TAKE = (
    "insert into lanes as l (consumer_group, topic, partition, epoch, awaited, published)"
    " values ($1, $2, $3, 1, true, $4) on conflict (consumer_group, topic, partition)"
    " do update set epoch = l.epoch + 1, awaited = true, published = greatest(l.published, $4), held = null"
    " where l.epoch = $5 returning epoch"
)


async def _epoch(database: Connection) -> int:
    return int(
        await database.fetchval("select epoch from lanes where consumer_group = $1 and partition = 0", SendJob.group)
    )


async def _take(database: Connection) -> int | None:
    epoch = await _epoch(database)
    taken: int | None = await database.fetchval(TAKE, SendJob.group, *PLACE, None, epoch)
    return taken


async def test_a_worker_of_0_1_0_may_not_take_a_lane_that_an_owner_holds_and_may_take_one_given_back(
    cluster: Settings, database: Connection
) -> None:
    """It cannot fence an owner's producers in Kafka, of which it knows nothing. One given back has nothing open."""
    start = await ends(cluster, SEND_RESULTS)
    async with working(cluster, SendJob(load_catalogue())):
        await publish(cluster, SEND_REQUESTS, [send(in_partition(cluster, 0))])
        await read(cluster, start, 1)
        held = await _epoch(database)
        with pytest.raises(asyncpg.CheckViolationError, match="lane_is_held_by_a_worker_of_a_later_version"):
            await _take(database)
        assert held == await _epoch(database)

    assert held + 1 == await _take(database)


async def test_an_owner_fences_the_producers_of_a_worker_of_0_1_0(cluster: Settings, database: Connection) -> None:
    """Such a worker has a transaction open as it is replaced: a frozen one that wakes. It publishes nothing more."""
    assert await _take(database) is not None
    start = await ends(cluster, SEND_RESULTS)
    old = TransactionPair(cluster, NAME)
    await old.start()
    stale = Message(SEND_RESULTS, b"k", b'{"stale":true}', 0)
    begin = (await ends(cluster, SEND_REQUESTS))[PLACE]
    for producer in old._producers:
        await producer.begin_transaction()
        await producer.send(SEND_RESULTS, stale.value, stale.key, partition=0)
        await producer.send_offsets_to_transaction({PLACE: begin + 1_000}, SendJob.group)
    request = send(in_partition(cluster, 0))
    async with working(cluster, SendJob(load_catalogue())):
        await publish(cluster, SEND_REQUESTS, [request])
        (answer,) = await read(cluster, start, 1)
    for producer in old._producers:
        with pytest.raises(KafkaError):
            await producer.commit_transaction()
    await old.discard()

    assert str(request.id) == answer["request_id"]
    (again,) = await read(cluster, start, 1)
    assert answer["id"] == again["id"]
