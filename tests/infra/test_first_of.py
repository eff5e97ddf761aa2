"""Tasks of which the first that ends, ends all."""

import asyncio

import pytest

from infra import first_of
from infra.first_of import end_in_time, run_until_first


async def _endless(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("cancelled")


async def test_the_first_that_ends_ends_the_others() -> None:
    """The others are cancelled, and have ended when the call returns."""
    ended: list[str] = []

    await run_until_first(_endless(ended), asyncio.sleep(0), _endless(ended))

    assert ["cancelled", "cancelled"] == ended


async def test_an_error_that_ends_the_first_is_raised() -> None:
    """Whoever called learns why it is over."""

    async def fail() -> None:
        raise ConnectionError

    ended: list[str] = []
    with pytest.raises(ConnectionError):
        await run_until_first(_endless(ended), fail())

    assert ["cancelled"] == ended


async def test_a_call_that_is_cancelled_leaves_no_task_behind() -> None:
    """Its tasks end with it."""
    ended: list[str] = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run_until_first(_endless(ended))

    assert ["cancelled"] == ended


async def test_what_does_not_end_in_time_is_cancelled_and_not_waited_for() -> None:
    """It may take its time to clean up, and what comes of that is nobody's."""
    may_end = asyncio.Event()

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            raise ConnectionError

    ended = await asyncio.wait_for(end_in_time(clean_up(), 0.01), 5)
    (left,) = first_of._left
    may_end.set()
    await asyncio.wait([left])

    assert not ended
    assert set() == first_of._left


async def test_what_ends_in_time_says_how_it_ended() -> None:
    """Also by an error."""

    async def fail() -> None:
        raise ConnectionError

    assert await end_in_time(asyncio.sleep(0), 5)
    with pytest.raises(ConnectionError):
        await end_in_time(fail(), 5)


async def test_a_call_with_a_time_that_is_cancelled_cancels_what_it_runs() -> None:
    """Nobody would see its end."""
    ended: list[str] = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await end_in_time(_endless(ended), 5)
    await asyncio.sleep(0)

    assert ["cancelled"] == ended
