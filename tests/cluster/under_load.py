"""The frame of a run: workers at work under a load of sends, until all of them are answered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from infra.settings import Settings
from tests.cluster.judge import Answers
from tests.cluster.load import Published, load
from tests.cluster.waits import all_is_answered, all_lanes_move
from workers.local.processes import WorkerProcesses

__all__ = ["under_load"]


@asynccontextmanager
async def under_load(
    settings: Settings, workers: WorkerProcesses, rate: float, result: Answers
) -> AsyncIterator[Published]:
    """Start workers and a load of so many sends a second; yield what is published once every lane moves.

    Afterwards wait until every lane moves and everything is answered, stop the workers, and note those that end badly.
    """
    workers.start()
    try:
        async with load(settings, rate) as published:
            await all_lanes_move(settings, "at first")
            yield published
            await all_lanes_move(settings, "at last")
        workers.check()
        await all_is_answered(settings, published)
    finally:
        codes = await asyncio.to_thread(workers.stop)
    result.audit += [f"{name} ended with code {code}" for name, code in codes.items() if code]
