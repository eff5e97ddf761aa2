"""The watchdog of a process: ends it once it makes no progress."""

import asyncio
from time import monotonic
from typing import NoReturn

from workers.errors import StuckError
from workers.telemetry.health import Health

__all__ = ["watch_progress"]

_PROGRESS_SECONDS = 0.5


async def watch_progress(health: Health) -> NoReturn:
    """Raise StuckError once the process is not alive: it ends with the reason, and another one may do better.

    As it sleeps, it finds out how late the event loop is.
    """
    while True:
        began, seconds = monotonic(), min(_PROGRESS_SECONDS, health.stuck_seconds / 4)
        await asyncio.sleep(seconds)
        health.kept.late(monotonic() - began - seconds)
        if (dead := health.dead()) is not None:
            raise StuckError(f"{dead.cause}: {dead.text}")
