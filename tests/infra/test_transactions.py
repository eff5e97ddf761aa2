"""Waiting for the deliveries of a transaction: which partitions are the trouble, and which are only late."""

import asyncio
from typing import Any

import pytest

from infra.kafka.transactions import TransactionPair
from infra.settings import load_settings

_SECONDS = 1.0  # of a transaction; a fifth of it is the patience with a partition that is later than others


async def _deliver(*after: float | None) -> None:
    """Wait for deliveries that succeed after so many seconds; None: never."""
    pair = TransactionPair(load_settings(transaction_seconds=_SECONDS), "test")
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in after]
    for future, seconds in zip(futures, after, strict=True):
        if seconds is not None:
            loop.call_later(seconds, future.set_result, None)
    try:
        async with asyncio.timeout(_SECONDS):
            await pair._deliver(futures)
    finally:
        await pair.discard()


async def test_partitions_that_recover_one_soon_after_the_other_are_all_waited_for() -> None:
    """As when a broker is lost: nothing is taken until the cluster notices, and then all of it within a moment."""
    began = asyncio.get_running_loop().time()

    await _deliver(0.19, 0.19, 0.3)

    assert asyncio.get_running_loop().time() - began >= 0.3


async def test_a_partition_that_takes_nothing_where_others_do_is_given_up_early() -> None:
    """The others are not to wait for the whole time of a transaction."""
    began = asyncio.get_running_loop().time()

    with pytest.raises(TimeoutError):
        await _deliver(0.01, None)

    assert asyncio.get_running_loop().time() - began < _SECONDS / 2
