"""The watchdog of a process: ends a process that makes no progress."""

import asyncio
from time import monotonic
from typing import NoReturn

from workers.errors import StuckError
from workers.telemetry.health import Health

__all__ = ["watch_progress"]

_PROGRESS_SECONDS = 0.5


async def watch_progress(health: Health) -> NoReturn:
    """Check the process's progress until it is stuck; also measure how late the event loop wakes a task.

    Raises:
        StuckError: when the process makes no progress. The process should end with this error and be restarted.

    """
    while True:
        began, seconds = monotonic(), min(_PROGRESS_SECONDS, health.stuck_seconds / 4)
        await asyncio.sleep(seconds)
        health.kept.observe_loop_delay(monotonic() - began - seconds)
        if (dead := health.dead()) is not None:
            raise StuckError(f"{dead.cause}: {dead.text}")
