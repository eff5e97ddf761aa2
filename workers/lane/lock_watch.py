"""Whether somebody's lock in Postgres is what keeps a worker's lanes from getting on, and whose it is."""

import structlog

from infra.postgres_locks import LockMemory, ask_lock_holders
from infra.settings import Settings
from workers.telemetry.health import Health

__all__ = ["LockWatch"]


class LockWatch:
    """Asks who holds what its lanes need, while one of them does not get on.

    Over a connection of its own: those of the pool may all be waiting, and their role may not see what others do.
    """

    def __init__(self, settings: Settings, group: str, health: Health) -> None:
        self._settings, self._health = settings, health
        self._memory = LockMemory()
        self._told: int | None = None  # pid of the holder that the log has
        self._log = structlog.get_logger("inmail.worker").bind(worker=group)

    async def trouble(self) -> str | None:
        """Return who keeps the lanes waiting, since when and what to do; None where nobody is seen to.

        Who holds rows for which nobody is seen to wait is the cause only if a lock was what a lane failed of.
        """
        lanes = self._health.lanes.values()
        if not any(lane.is_kept for lane in lanes):
            self._tell(None)
            return None
        locked_out = any(lane.error is not None and lane.locked_out for lane in lanes)
        holders = self._memory.recall(await ask_lock_holders(self._settings))
        holders = [each for each in holders if each.blocks or locked_out]
        if not holders:
            self._tell(None)
            return None
        worst = holders[0]
        self._tell(worst.pid, worst.text, worst.do)
        return f"{worst.text}: {worst.do}"

    def _tell(self, pid: int | None, text: str = "", do: str = "") -> None:
        """Log a holder once."""
        if pid == self._told:
            return
        if pid is None:
            self._log.info("lock_gone", pid=self._told)
        else:
            self._log.warning("lock_in_the_way", holder=text, hint=do)
        self._told = pid
