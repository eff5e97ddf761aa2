"""The one look at the system that all open pages share: taken often while somebody looks, seldom otherwise."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from infra.clock import utc_now
from infra.settings import Settings
from workers.console import health
from workers.console.advice import ADVICE
from workers.console.flow import Flow
from workers.console.lag_page import group_line, lag_lines, partitions_of_groups
from workers.console.lag_source import LagSource
from workers.console.problems import KNOWN, explain
from workers.console.reading import QueryLimiter
from workers.ops.books.lanes import LaneProgress, read_lanes
from workers.ops.books.recent_outcomes import OutcomeCount, recent_outcomes
from workers.ops.books.snapshot import open_books
from workers.ops.operations import read_operations
from workers.topology import TOPIC_OF_GROUP

__all__ = ["SystemMonitor"]

WATCHED_SECONDS: Final = 2.0
ALONE_SECONDS: Final = 15.0
_OUTCOMES: Final = 500  # records of each lane

Seen = TypeVar("Seen")


@dataclass(slots=True)
class _LedgerReading:
    """What the books said last."""

    lanes: list[LaneProgress] = field(default_factory=list)
    outcomes: list[OutcomeCount] = field(default_factory=list)
    operations: str = ""  # changes whenever an operation does


class SystemMonitor:
    """What was seen last, and who waits for the next look."""

    def __init__(self, reading: QueryLimiter, probes: dict[str, str]) -> None:
        self._reading = reading
        self._probes = probes
        self.lag = LagSource(reading.settings)
        self.flow = Flow()
        self.viewers = 0
        self._books = _LedgerReading()
        self._errors: dict[str, str] = {}  # by server
        self._health: dict[str, health.SystemPart] = {}
        self._at: datetime | None = None
        self._looked = asyncio.Event()
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            self._wanted.clear()
            pause = WATCHED_SECONDS if self.viewers else ALONE_SECONDS
            await asyncio.wait([waiting := asyncio.ensure_future(self._wanted.wait())], timeout=pause)
            waiting.cancel()

    def wake(self) -> None:
        """Look now: somebody came."""
        self._wanted.set()

    async def next(self) -> None:
        """Wait for the next look."""
        await self._looked.wait()

    async def look(self) -> None:
        """Look once. What a server does not tell is kept as it was, with the reason."""
        lanes, lag_read, probes = await asyncio.gather(
            self._try("postgres", self._read_books),
            self._try("kafka", lambda _: self.lag.refresh()),
            health.ask_probes(self._probes),
        )
        self._at = utc_now()
        if lag_read and self.lag.at is not None:
            self.flow.add(self.lag.at, self.lag.ours, self._books.lanes if lanes else None)
        parts = health.with_since([*self._servers(), *self._workers(probes)], self._health, self._at)
        self._health = {part.name: part for part in parts}
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()

    async def _try(self, server: str, read: Callable[[Settings], Awaitable[None]]) -> bool:
        try:
            async with self._reading.sample_slot() as settings:
                await read(settings)
        except KNOWN as error:
            self._errors[server] = explain(error, self._reading.settings)[2]
            return False
        self._errors.pop(server, None)
        return True

    async def _read_books(self, settings: Settings) -> None:
        async with open_books(settings) as connection:
            self._books.lanes = await read_lanes(connection)
            self._books.outcomes = await recent_outcomes(connection, _OUTCOMES)
            newest = await read_operations(connection, 5)
        self._books.operations = " ".join(f"{each.operation}:{each.status}:{each.noted_at}" for each in newest)

    def _servers(self) -> list[health.SystemPart]:
        parts = []
        for name, key in (("Kafka", "kafka"), ("Postgres", "postgres")):
            if (error := self._errors.get(key)) is not None:
                parts.append(health.SystemPart(name, health.FAILED, "no answer", error))
            else:
                parts.append(health.SystemPart(name, health.OK, "answers", "reads and answers"))
        return parts

    def _workers(self, probes: dict[str, health.Probe]) -> list[health.SystemPart]:
        if "kafka" not in self._errors:
            return health.workers_of(self.lag.ours, probes)
        text = "cannot be told while Kafka does not answer"
        return [health.SystemPart(name, health.UNKNOWN, "not known", text) for name in health.NAMES.values()]

    def overview(self) -> dict[str, Any]:
        """Return all that a page shows at once, for JSON."""
        places = (each for group in self.lag.ours for each in group.partitions)
        oldest = max(places, key=lambda each: each.seconds, default=None)
        return {
            "at": self._at,
            "errors": dict(self._errors),
            "flow": self.flow.summary(),
            "outcomes": {"records": _OUTCOMES, "rows": self._books.outcomes},
            "oldest": oldest if oldest is not None and oldest.records else None,
            "health": list(self._health.values()),
            "lag": lag_lines(self.lag),
            "changes": {"dead_letters": self.lag.letters, "operations": self._books.operations},
        }

    def lags(self, chosen: Collection[str] = ()) -> dict[str, Any]:
        """Return how all groups stand, and the partitions of some with their history, for JSON.

        Args:
            chosen: names of groups; ours where there is none.

        """
        return {
            "at": self.lag.at,
            "error": self._errors.get("kafka"),
            "groups": [group_line(group) for group in self.lag.groups],
            "shown": partitions_of_groups(self.lag, chosen or TOPIC_OF_GROUP),
            "statuses": [{"status": status, **advice._asdict()} for status, advice in ADVICE.items()],
        }
