"""What tests go through Kafka with: where they are told that there is nothing, or no more, there is none."""

import asyncio
from uuid import uuid4

import pytest

from infra.kafka.clients import create_lane_producer
from infra.settings import Settings
from schemas.catalogue import BALANCES, BILLING_EVENTS, DEAD_LETTERS
from schemas.envelope import encode
from tests.workers.wire import ends, promotion, publish, read, settled


async def test_what_a_transaction_under_way_publishes_is_no_nothing(cluster: Settings, account: str) -> None:
    """A read_committed reader that fetches once, before its end, would see none."""
    event = promotion(account, 1)
    start = await ends(cluster, BILLING_EVENTS)
    producer = create_lane_producer(cluster, f"test-{uuid4().hex}")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(BILLING_EVENTS, encode(event), account.encode())
            reading = asyncio.create_task(read(cluster, start, 0))
            done, _ = await asyncio.wait([reading], timeout=2)
    finally:
        await producer.stop()

    assert not done
    assert [str(event.id)] == [found["id"] for found in await reading]


async def test_all_partitions_are_read_however_few_events_are_expected(cluster: Settings) -> None:
    """One fetch has what one of them had at hand: whatever is in the others is not missed."""
    start = await ends(cluster, BILLING_EVENTS)
    accounts = [f"a-{uuid4().hex[:12]}" for _ in range(200)]
    await publish(cluster, BILLING_EVENTS, [promotion(each, 1) for each in accounts])

    assert sorted(accounts) == sorted(found["account"] for found in await read(cluster, start, 1))


@pytest.mark.parametrize("topic", [DEAD_LETTERS, BALANCES])
async def test_a_topic_is_settled_once_the_transactions_on_it_have_ended(balances: Settings, topic: str) -> None:
    """A read_committed reader ends before an open one, and would miss what comes after it."""
    producer = create_lane_producer(balances, f"settling-{uuid4()}")
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(topic, b"{}", b"nobody", partition=0)

    settling = asyncio.create_task(settled(balances))
    await asyncio.sleep(0.5)
    was_settled = settling.done()
    await producer.abort_transaction()
    await settling
    await producer.stop()

    assert not was_settled
