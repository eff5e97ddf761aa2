"""The one look at the system that all open pages share: taken often while somebody looks, seldom otherwise."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from infra.clock import utc_now
from infra.kafka import partitions_of, reader
from infra.settings import Settings
from schemas.catalogue import CATALOGUE, DEAD_LETTERS
from workers.console import health
from workers.console.flow import Flow
from workers.console.lag_source import LagSource, Sample
from workers.console.problems import KNOWN, explain
from workers.console.reading import Reading
from workers.ops.books import open_books
from workers.ops.groups import Group
from workers.ops.lag import GroupLag
from workers.ops.operations import list_operations
from workers.ops.outcomes import LaneRow, Outcome, read_lanes, recent_outcomes
from workers.ops.records import partition_counts

__all__ = ["Watch"]

WATCHED_SECONDS: Final = 2.0
ALONE_SECONDS: Final = 15.0
_OUTCOMES: Final = 500  # records of each lane
_POINTS: Final = 90
_GROUPS: Final = tuple(dict.fromkeys(row.group for row in CATALOGUE if row.group is not None))

Seen = TypeVar("Seen")


@dataclass(slots=True)
class _Books:
    """What the books said last."""

    lanes: list[LaneRow] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    operations: str = ""  # changes whenever an operation does


@dataclass(slots=True)
class _Kafka:
    """What the cluster said last, beside lag."""

    members: dict[str, Group] = field(default_factory=dict)
    letters: int = 0  # where the dead letters end: changes whenever one is added


class Watch:
    """What was seen last, and who waits for the next look."""

    def __init__(self, reading: Reading, probes: dict[str, str]) -> None:
        self._reading = reading
        self._probes = probes
        self.lag = LagSource(reading.settings)
        self.flow = Flow()
        self.viewers = 0
        self._books = _Books()
        self._kafka = _Kafka()
        self._errors: dict[str, str] = {}  # by server
        self._health: dict[str, health.Part] = {}
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
        lanes, lag_read, _, probes = await asyncio.gather(
            self._try("postgres", self._read_books),
            self._try("kafka", self._read_lag),
            self._try("kafka_groups", self._read_groups),
            health.ask_probes(self._probes),
        )
        self._at = utc_now()
        if lag_read and self.lag.at is not None:
            self.flow.add(self.lag.at, self.lag.groups, self._books.lanes if lanes else None)
        parts = health.with_since([*self._servers(), *self._workers(probes)], self._health, self._at)
        self._health = {part.name: part for part in parts}
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()

    async def _try(self, server: str, read: Callable[[Settings], Awaitable[None]]) -> bool:
        try:
            async with self._reading.turn() as settings:
                await read(settings)
        except KNOWN as error:
            self._errors[server] = explain(error)[2]
            return False
        self._errors.pop(server, None)
        return True

    async def _read_lag(self, _: Settings) -> None:
        await self.lag.refresh()

    async def _read_books(self, settings: Settings) -> None:
        async with open_books(settings) as connection:
            self._books.lanes = await read_lanes(connection)
            self._books.outcomes = await recent_outcomes(connection, _OUTCOMES)
        newest = await list_operations(settings, 5)
        self._books.operations = " ".join(f"{each.operation}:{each.status}:{each.noted_at}" for each in newest)

    async def _read_groups(self, settings: Settings) -> None:
        self._kafka.members = await health.read_members(settings, _GROUPS)
        count = (await partition_counts(settings, [DEAD_LETTERS]))[DEAD_LETTERS]
        async with reader(settings) as consumer:
            self._kafka.letters = sum((await consumer.end_offsets(partitions_of(DEAD_LETTERS, count))).values())

    def _servers(self) -> list[health.Part]:
        parts = []
        for name, key in (("Kafka", "kafka"), ("Postgres", "postgres")):
            if (error := self._errors.get(key)) is not None:
                parts.append(health.Part(name, health.FAILED, "no answer", error))
            else:
                parts.append(health.Part(name, health.OK, "answers", "reads and answers"))
        return parts

    def _workers(self, probes: dict[str, health.Probe]) -> list[health.Part]:
        if "kafka" not in self._errors:
            return health.workers_of(self.lag.groups, self._kafka.members, probes)
        text = "cannot be told while Kafka does not answer"
        return [health.Part(name, health.UNKNOWN, "not known", text) for name in health.NAMES.values()]

    def overview(self) -> dict[str, Any]:
        """Return all that a page shows at once, for JSON."""
        groups = list(self.lag.groups)
        worst = max(
            (each for group in groups for each in group.partitions), key=lambda each: each.seconds, default=None
        )
        return {
            "at": self._at,
            "errors": dict(self._errors),
            "flow": self.flow.summary(),
            "outcomes": {"records": _OUTCOMES, "rows": self._books.outcomes},
            "oldest": worst if worst is not None and worst.records else None,
            "health": list(self._health.values()),
            "lag": {"at": self.lag.at, "groups": [_totals(group) for group in groups]},
            "changes": {"dead_letters": self._kafka.letters, "operations": self._books.operations},
        }

    def lags(self) -> dict[str, Any]:
        """Return lag by group and partition with its history, for JSON."""
        return {
            "at": self.lag.at,
            "error": self._errors.get("kafka"),
            "groups": [
                _totals(group)
                | {
                    "members": self._kafka.members[group.group].members if group.group in self._kafka.members else None,
                    "partitions": [
                        {
                            "partition": each.partition,
                            "committed": each.committed,
                            "end": each.end,
                            "records": each.records,
                            "seconds": each.seconds,
                            "note": each.note,
                            "history": _history(self.lag.history(each.group, each.topic, each.partition)),
                        }
                        for each in group.partitions
                    ],
                }
                for group in self.lag.groups
            ],
        }


def _history(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return unread records over time: as many points as a small picture shows, the newest among them."""
    points = samples[:: -(-len(samples) // _POINTS) * -1][::-1] if samples else ()
    return {"since": points[0].at if points else None, "records": [each.records for each in points]}


def _totals(group: GroupLag) -> dict[str, Any]:
    return {name: value for name, value in group.summary().items() if name != "partitions"}
