"""Workers that decide what the sample programs send, in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from infra.postgres import connect_database
from infra.settings import Settings
from tests.workers.wire import eventually
from workers.jobs.billing import BillingJob
from workers.jobs.job import Job
from workers.jobs.send import SendJob
from workers.lane.worker import run_worker
from workers.ledger.plans import load_catalogue


@asynccontextmanager
async def working(settings: Settings, job: type[SendJob] | type[BillingJob]) -> AsyncIterator[None]:
    """Run a worker, from when it has opened its lanes until left."""
    made: Job = job(load_catalogue())
    before = await _epochs(settings, made.topic)
    stop = asyncio.Event()
    task = asyncio.create_task(run_worker(made, settings, stop))

    async def opened() -> bool:
        assert not task.done(), task
        return await _epochs(settings, made.topic) >= before + settings.topic_partitions

    try:
        await eventually(opened, f"lanes of {made.topic}")
        yield
    finally:
        stop.set()
        await task


async def _epochs(settings: Settings, topic: str) -> int:
    connection = await connect_database(settings)
    try:
        return int(await connection.fetchval("select coalesce(sum(epoch), 0) from lanes where topic = $1", topic))
    finally:
        await connection.close()
