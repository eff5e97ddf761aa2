"""The ticker: each partition gets its tick, whatever becomes of another one's."""

import asyncio
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError

from schemas.catalogue import EXPIRY_TICKS
from workers.jobs.ticker import _tick


class _Producer:
    """One whose first partition has no leader."""

    def __init__(self) -> None:
        self.sent: set[int] = set()

    async def partitions_for(self, topic: str) -> set[int]:
        assert topic == EXPIRY_TICKS
        return {0, 1, 2}

    async def send_and_wait(self, *_: object, partition: int, **_more: Any) -> None:
        if partition == 0:
            await asyncio.sleep(0.05)
            raise KafkaTimeoutError
        self.sent.add(partition)


async def test_a_partition_without_a_leader_keeps_no_other_one_waiting() -> None:
    """And the round has failed all the same, so that it is told and tried again."""
    producer = _Producer()

    with pytest.raises(KafkaTimeoutError):
        await _tick(cast("AIOKafkaProducer", producer))

    assert {1, 2} == producer.sent
