"""The worker that tests run in their own process: what it ends with is not lost."""

import asyncio

import pytest

from infra.settings import Settings
from tests.workers.life import living
from workers.errors import WorkerError


async def test_a_worker_that_ends_while_nobody_asks_fails_its_test(cluster: Settings) -> None:
    """A test that is through before it looks at its worker would pass, whatever the worker died of."""
    with pytest.raises(WorkerError, match="was cancelled, and nobody had stopped it"):
        await _let_it_die(cluster)


async def _let_it_die(settings: Settings) -> None:
    async with living(settings) as life:
        await life.ready()
        assert life.worker.membership is not None
        life.worker.membership._owners._task.cancel()
        await asyncio.wait([life.task], timeout=30)
