"""Tasks of which the first that ends, ends all."""

import asyncio

import pytest

from infra.first_of import run_until_first


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
