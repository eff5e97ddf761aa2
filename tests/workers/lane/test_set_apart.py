"""A lane that keeps the others of its worker from their turns is set apart: they go on, and so does it once it can."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from infra.kafka import transactions
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from tests.workers.life import at_the_end, in_partition, living, once_each
from tests.workers.wire import ends, eventually, publish, read, send, settled


async def _is_set_apart(logs: Sequence[Mapping[str, Any]]) -> bool:
    return any(log["event"] == "lanes_set_apart" for log in logs)


async def test_an_account_that_somebody_keeps_locked_holds_up_its_own_partition_only(
    cluster: Settings, database: Connection
) -> None:
    """Whoever decided it with the others would wait with it. Afterwards all lanes have one owner again."""
    start = await ends(cluster, SEND_RESULTS)
    locked = in_partition(cluster, 2)
    known, requests = send(locked), [send(in_partition(cluster, number % 4)) for number in range(40)]
    holder = await connect_database(cluster)
    with capture_logs() as logs:
        async with living(cluster) as life:
            await publish(cluster, SEND_REQUESTS, [known])
            await at_the_end(cluster, 2)
            async with holder.transaction():
                await holder.execute("select from accounts where account_id = $1 for update", locked)
                late = send(locked)
                await publish(cluster, SEND_REQUESTS, [late, *requests])
                await at_the_end(cluster, 0, 1, 3)
                await life.not_ready(f"lane {SEND_REQUESTS}/2")
                await eventually(lambda: _is_set_apart(logs), "set apart")
            await at_the_end(cluster, 2)
            await life.ready()
            await settled(cluster)
            answers = await read(cluster, start, 42)
            owners = await database.fetch("select distinct owner from lanes where topic = $1", SEND_REQUESTS)
    await holder.close()

    assert once_each([known, late, *requests], answers)
    assert [[2]] == [log["partitions"] for log in logs if log["event"] == "lanes_set_apart"]
    assert 2 >= len(owners)


async def test_a_partition_whose_results_nobody_takes_holds_up_its_own_only(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that no broker leads: the transaction of all fails, and is done again without it."""
    start = await ends(cluster, SEND_RESULTS)
    requests = [send(in_partition(cluster, number % 4)) for number in range(40)]
    own = cluster.model_copy(update={"transaction_seconds": 3})
    may_be_taken, hand_over = asyncio.Event(), transactions._hand_over

    async def hands_over(producer: Any, batch: Any, place: TopicPartition, origins: frozenset[int]) -> Any:
        delivery = await hand_over(producer, batch, place, origins)
        if place.partition == 2 and not may_be_taken.is_set():
            return delivery._replace(future=asyncio.get_running_loop().create_future())
        return delivery

    monkeypatch.setattr(transactions, "_hand_over", hands_over)
    with capture_logs() as logs:
        async with living(own) as life:
            await life.ready()
            await publish(own, SEND_REQUESTS, requests)
            await at_the_end(own, 0, 1, 3)
            await life.not_ready(f"lane {SEND_REQUESTS}/2")
            may_be_taken.set()
            await at_the_end(own, 2)
            await life.ready()
            await settled(own)
            answers = await read(own, start, 40)

    assert once_each(requests, answers)
    assert [2] in [log["partitions"] for log in logs if log["event"] == "lanes_set_apart"]
