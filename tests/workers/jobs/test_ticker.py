"""The ticker: each partition gets its tick, whatever becomes of another one's."""

import asyncio
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError

from schemas.catalogue import EXPIRY_TICKS
from workers.jobs import ticker
from workers.jobs.ticker import UnderWay, _tick


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


class _Slow(_Producer):
    """One whose first partition takes what it is sent only once it serves."""

    def __init__(self) -> None:
        super().__init__()
        self.serves = asyncio.Event()
        self.counts = {0: 0, 1: 0, 2: 0}

    async def send_and_wait(self, *_: object, partition: int, **_more: Any) -> None:
        self.counts[partition] += 1
        if partition == 0:
            await self.serves.wait()


async def test_a_partition_without_a_leader_keeps_no_other_one_waiting() -> None:
    """And the round has failed all the same, so that it is told and tried again."""
    producer = _Producer()

    with pytest.raises(KafkaTimeoutError):
        await _tick(cast("AIOKafkaProducer", producer), {})

    assert {1, 2} == producer.sent


async def test_a_partition_that_takes_no_tick_for_long_gets_no_second_one_and_the_others_get_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that lacks replicas keeps an idempotent producer sending for ever: the round ended with that."""
    monkeypatch.setattr(ticker, "_ROUND_SECONDS", 0.05)
    producer, under_way = _Slow(), UnderWay()

    first = await _tick(cast("AIOKafkaProducer", producer), under_way)
    second = await _tick(cast("AIOKafkaProducer", producer), under_way)
    producer.serves.set()
    third = await _tick(cast("AIOKafkaProducer", producer), under_way)
    fourth = await _tick(cast("AIOKafkaProducer", producer), under_way)

    assert [[0], [0], [], []] == [first, second, third, fourth]
    assert {0: 2, 1: 4, 2: 4} == producer.counts
