"""The steps of a batch that takes several transactions: each is stored before the next one begins."""

from collections.abc import Callable

from workers.jobs.job import Batch, Step
from workers.lane.lane_row import LaneRow
from workers.telemetry.lane_health import LaneHealth

__all__ = ["finish_steps"]

_FEW_STEPS = 2


async def finish_steps(
    step: Step, batch: Batch, row: LaneRow, health: LaneHealth, stopping: Callable[[], bool]
) -> bool:
    """Do the steps of a batch that are left; return whether all are done, or a stop came first.

    After a stop the lane's next owner continues with the next step.

    Raises:
        FencedError: when there is a newer owner.

    """
    steps = 0
    while not stopping():
        async with row.fenced() as connection:
            if not await step(connection, batch):
                return True
            steps += 1
            if steps == _FEW_STEPS:  # a longer tick runs beside the other lanes: they do not wait for it
                await row.be_not_awaited(connection)
        health.steps()
    return False
