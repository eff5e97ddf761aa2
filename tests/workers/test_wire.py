"""What tests go through Kafka with."""

import asyncio
from uuid import uuid4

import pytest

from infra.kafka.clients import create_lane_producer
from infra.settings import Settings
from schemas.catalogue import BALANCES, DEAD_LETTERS
from tests.workers.wire import settled


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
