"""A steady rate that a stop interrupts."""

import asyncio
from time import monotonic

import pytest

from infra.rate_limit import RateLimit


async def test_records_pass_at_the_rate() -> None:
    """At 100 a second, eleven records take a tenth of a second and are not told to stop."""
    limit = RateLimit(100, asyncio.Event())

    began = monotonic()
    answers = [await limit.before() for _ in range(11)]

    assert not any(answers)
    assert 0.09 < monotonic() - began < 5


async def test_records_that_are_done_are_waited_for_afterwards() -> None:
    """At 100 a second, ten records that are done at once take a tenth of a second."""
    began = monotonic()

    assert not await RateLimit(100, asyncio.Event()).after(10)
    assert 0.09 < monotonic() - began < 5


@pytest.mark.parametrize("rate", [0.001, None], ids=["slow", "without a limit"])
async def test_a_stop_ends_the_wait(rate: float | None) -> None:
    """Neither way of waiting outlasts a stop, however long the rate would have it wait."""
    stop = asyncio.Event()
    limit = RateLimit(rate, stop)
    assert not await limit.before()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    async with asyncio.timeout(5):
        await stop.wait() if rate is None else None

        assert await limit.before()
        assert await limit.after(1000)


async def test_a_cancellation_is_not_lost_to_a_stop_at_the_same_moment() -> None:
    """`asyncio.wait_for` of Python 3.11 swallows it: whoever cancelled would wait for a task that goes on."""
    stop = asyncio.Event()
    waiting = asyncio.create_task(RateLimit(0.001, stop).after(1))
    await asyncio.sleep(0.01)
    stop.set()
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])

    assert waiting.cancelled()


@pytest.mark.parametrize(("rate", "size"), [(None, 500), (40, 10), (1, 1), (100_000, 500)])
async def test_a_batch_has_a_second_s_worth_of_records(rate: float | None, size: int) -> None:
    """Four batches side by side share the rate; each has a record at least and `most` at most."""
    assert RateLimit(rate, asyncio.Event()).batch_size(500, 4) == size
