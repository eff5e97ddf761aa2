"""All workers and the ticker at once, until what is there is decided."""

import asyncio
from collections.abc import Sequence

from infra.settings import Settings
from schemas.catalogue import EXPIRY_TICKS
from tests.workers.wire import eventually
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.jobs.ticker import run_ticker
from workers.lane.worker import run_worker
from workers.ledger.plans import load_catalogue
from workers.ops.lag import GroupLag, read_lag

__all__ = ["work_off"]


async def work_off(worker: Settings, ticker: Settings, observer: Settings) -> None:
    """Run the workers, the ticker and, to see how far they are, an observer, each with settings of its own; drain them.

    Raises:
        Exception: that by which a worker ended.

    """
    stop, catalogue = asyncio.Event(), load_catalogue()
    jobs = (SendJob(catalogue), BillingJob(catalogue), ExpiryJob(catalogue, worker))
    running = [asyncio.create_task(run_worker(job, worker, stop)) for job in jobs]
    running.append(asyncio.create_task(run_ticker(ticker, stop)))

    async def is_read() -> bool:
        for each in running:
            if each.done():
                each.result()
        return _is_read(await read_lag(observer))

    try:
        await eventually(is_read, "workers that have read all")
    finally:
        stop.set()
        await asyncio.wait(running)
    await asyncio.gather(*running)


def _is_read(groups: Sequence[GroupLag]) -> bool:
    """Tell whether all requests are decided, and ticks as well; there is always a tick more to come."""
    ticks = [each for group in groups if group.topic == EXPIRY_TICKS for each in group.partitions]
    others = [group for group in groups if group.topic != EXPIRY_TICKS]
    return not any(each.records or each.held or each.never_committed for each in others) and all(
        each.committed for each in ticks
    )
