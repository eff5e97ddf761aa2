"""How long a lane waits before it begins again: longer after each error in a row, or for an operator."""

from collections import Counter

import structlog

from infra.retry import back_off_seconds, ignoring_retriable
from workers.errors import LaneError
from workers.lane.inbox import Inbox
from workers.lane.lane_row import LaneRow
from workers.telemetry.lane_health import LaneHealth

__all__ = ["Pauses"]

_HALTED_SECONDS = 10.0  # after which a lane that waits for an operator looks again


class Pauses:
    """The pauses of one lane. Each ends when the lane is stopped."""

    def __init__(self, row: LaneRow, inbox: Inbox, health: LaneHealth, counts: "Counter[str]") -> None:
        self._row, self._inbox, self._health, self._counts = row, inbox, health, counts
        self._log = structlog.get_logger("inmail.lane").bind(topic=row.topic, partition=row.partition)
        self.failures = 0  # in a row

    async def after(self, error: Exception) -> None:
        """Say why the lane does not go on, and wait."""
        if isinstance(error, LaneError):
            await self._halt(str(error))
        else:
            await self._back_off(error)

    async def _halt(self, reason: str) -> None:
        self.failures = 0
        self._health.halts(reason)
        if reason != self._row.halted:
            self._log.error("lane_halted", error=reason)
        with ignoring_retriable():
            await self._row.halt(reason)
        await self._inbox.stopped(_HALTED_SECONDS)

    async def _back_off(self, error: Exception) -> None:
        seconds = back_off_seconds(self.failures)
        self.failures += 1
        self._counts["lanes_begun_again"] += 1
        self._health.fails(error)
        self._log.warning("lane_begins_again", error=repr(error), seconds=round(seconds, 3), failures=self.failures)
        await self._inbox.stopped(seconds)
