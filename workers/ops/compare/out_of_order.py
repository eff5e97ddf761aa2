"""What the live books decided ahead of another lane (see workers/lane/time_order.py), and what that may explain.

A lane that could not wait noted its records in `decided_ahead`. In the one order they may come out otherwise, and so
may what their accounts did later. A difference that neither was noted nor follows from one that was has another cause.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from infra.postgres import Connection
from workers.topology import TOPIC_OF_GROUP, WORKER_OF

__all__ = [
    "NAMED",
    "DecidedAhead",
    "DifferenceCause",
    "OvertakenIndex",
    "OvertakenOutcome",
    "RecordRef",
    "read_overtaken_index",
]

NAMED: Final = 1000  # outcomes that are kept by name: of those that came out otherwise, and of the others


class DifferenceCause(StrEnum):
    """What a difference may come from, as far as the order of the lanes goes."""

    AHEAD = "decided ahead"
    FOLLOWS = "after one that was decided ahead"  # in the same account or, of a tick, partition
    ELSEWHERE = ""  # from something else


class RecordRef(NamedTuple):
    """The input record that a line came of."""

    worker: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class OvertakenOutcome:
    """An outcome that the live books decided ahead of other lanes."""

    place: Mapping[str, Any]
    source: str  # worker, partition and offset of its record
    ahead_of: tuple[str, ...]  # groups whose lanes had not read up to it, or had passed it
    difference: str | None  # None: it came out the same


@dataclass(slots=True)
class DecidedAhead:
    """The outcomes that were decided ahead: how many, and the first of them by name."""

    same: int = 0
    different: int = 0
    outcomes: list[OvertakenOutcome] = field(default_factory=list)

    def add(self, outcome: OvertakenOutcome) -> None:
        """Count an outcome, and keep it unless there are enough of its kind."""
        if outcome.difference is None:
            self.same += 1
        else:
            self.different += 1
        if (self.same if outcome.difference is None else self.different) <= NAMED:
            self.outcomes.append(outcome)


Segments = tuple[list[int], list[tuple[str, ...]]]


class OvertakenIndex:
    """Which records were decided ahead, and which accounts that has touched by now."""

    def __init__(self, segments: Mapping[tuple[str, int], Segments]) -> None:
        """Take by worker and partition: offsets, and the lanes that the records from each on were ahead of."""
        self._segments = segments
        self._affected_since: dict[str | int, datetime] = {}  # account or partition: since when

    @classmethod
    def of(cls, ranges: Iterable[tuple[str, int, int, int, str]]) -> "OvertakenIndex":
        """Take ranges of records: worker, partition, first and next offset, and the group that they were ahead of."""
        found: dict[tuple[str, int], list[tuple[int, int, str]]] = defaultdict(list)
        for worker, partition, first, end, name in ranges:
            found[worker, partition].append((first, end, name))
        return cls({place: _segments(each) for place, each in found.items()})

    def ahead_of(self, source: RecordRef) -> tuple[str, ...]:
        """Return the groups whose lanes a record was decided ahead of."""
        starts, names = self._segments.get((source.worker, source.partition), ([], []))
        number = bisect_right(starts, source.offset) - 1
        return names[number] if number >= 0 else ()

    def mark_affected(self, owners: Iterable[str | int], time: datetime) -> None:
        """Note that something decided ahead came out otherwise for an account or a partition."""
        for owner in owners:
            self._affected_since[owner] = min(time, self._affected_since.get(owner, time))

    def origin(self, owner: str | int, time: datetime | None, *, ahead: bool) -> DifferenceCause:
        """Return what a difference may come from; of a state, which has no time, whatever came before it."""
        if ahead:
            return DifferenceCause.AHEAD
        since = self._affected_since.get(owner)
        follows = since is not None and (time is None or time >= since)
        return DifferenceCause.FOLLOWS if follows else DifferenceCause.ELSEWHERE


async def read_overtaken_index(connection: Connection) -> OvertakenIndex:
    """Return what the books say was decided ahead.

    Raises:
        OSError, asyncpg.PostgresError: when they cannot be read.

    """
    rows = await connection.fetch(
        "select consumer_group, partition, first_offset, next_offset, neighbour from decided_ahead"
    )
    return OvertakenIndex.of(
        (WORKER_OF[TOPIC_OF_GROUP[row[0]]].value, *row[1:]) for row in map(tuple, rows) if row[0] in TOPIC_OF_GROUP
    )


def _segments(ranges: Iterable[tuple[int, int, str]]) -> Segments:
    """Cut ranges that may overlap into ones that do not."""
    steps = sorted(step for first, end, name in ranges for step in ((first, 1, name), (end, -1, name)))
    active: Counter[str] = Counter()
    starts: list[int] = []
    names: list[tuple[str, ...]] = []
    for offset, changes in groupby(steps, key=itemgetter(0)):
        for _, change, neighbour in changes:
            active[neighbour] += change
        starts.append(offset)
        names.append(tuple(sorted(name for name, count in active.items() if count)))
    return starts, names
