"""Finds differences that may follow from records decided ahead of another lane (see workers/lane/time_order.py).

A lane that did not wait recorded its records in `decided_ahead`. In decision order their outcomes may differ, and so
may later outcomes of their accounts. Any other difference has another cause.
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

NAMED: Final = 1000  # maximum number of listed outcomes, of those that differ and of those that do not


class DifferenceCause(StrEnum):
    """Whether a difference may follow from the order of the lanes."""

    AHEAD = "decided ahead"
    FOLLOWS = "after one that was decided ahead"  # in the same account or, for a tick, partition
    ELSEWHERE = ""  # another cause


class RecordRef(NamedTuple):
    """The input record of a line."""

    worker: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class OvertakenOutcome:
    """An outcome that the live ledger decided ahead of other lanes."""

    place: Mapping[str, Any]
    source: str  # worker, partition and offset of its record
    ahead_of: tuple[str, ...]  # groups whose lanes had not read up to the record, or had passed it
    difference: str | None  # None: the rebuilt ledger has the same outcome


@dataclass(slots=True)
class DecidedAhead:
    """The outcomes that were decided ahead: their numbers, and a list of the first."""

    same: int = 0
    different: int = 0
    outcomes: list[OvertakenOutcome] = field(default_factory=list)

    def add(self, outcome: OvertakenOutcome) -> None:
        """Count an outcome, and list it up to the maximum number."""
        if outcome.difference is None:
            self.same += 1
        else:
            self.different += 1
        if (self.same if outcome.difference is None else self.different) <= NAMED:
            self.outcomes.append(outcome)

    def merge(self, other: "DecidedAhead") -> None:
        """Add the outcomes of another server, and list them up to the maximum number."""
        listed = Counter(each.difference is None for each in self.outcomes)
        for each in other.outcomes:
            listed[same := each.difference is None] += 1
            if listed[same] <= NAMED:
                self.outcomes.append(each)
        self.same, self.different = self.same + other.same, self.different + other.different


Segments = tuple[list[int], list[tuple[str, ...]]]


class OvertakenIndex:
    """An index of the records decided ahead, and of the accounts affected so far."""

    def __init__(self, segments: Mapping[tuple[str, int], Segments]) -> None:
        """Create the index from segments by worker and partition: start offsets and overtaken groups."""
        self._segments = segments
        self._affected_since: dict[str | int, datetime] = {}  # by account or partition: the earliest time

    @classmethod
    def of(cls, ranges: Iterable[tuple[str, int, int, int, str]]) -> "OvertakenIndex":
        """Create the index from ranges of records: worker, partition, first and next offset, overtaken group."""
        found: dict[tuple[str, int], list[tuple[int, int, str]]] = defaultdict(list)
        for worker, partition, first, end, name in ranges:
            found[worker, partition].append((first, end, name))
        return cls({place: _segments(each) for place, each in found.items()})

    def ahead_of(self, source: RecordRef) -> tuple[str, ...]:
        """Return the groups of the lanes that a record was decided ahead of."""
        starts, names = self._segments.get((source.worker, source.partition), ([], []))
        number = bisect_right(starts, source.offset) - 1
        return names[number] if number >= 0 else ()

    def mark_affected(self, owners: Iterable[str | int], time: datetime) -> None:
        """Record that an outcome decided ahead at a time differs for accounts or partitions."""
        for owner in owners:
            self._affected_since[owner] = min(time, self._affected_since.get(owner, time))

    def origin(self, owner: str | int, time: datetime | None, *, ahead: bool) -> DifferenceCause:
        """Return the possible cause of a difference; a state has no time, so any earlier one may be its cause."""
        if ahead:
            return DifferenceCause.AHEAD
        since = self._affected_since.get(owner)
        follows = since is not None and (time is None or time >= since)
        return DifferenceCause.FOLLOWS if follows else DifferenceCause.ELSEWHERE


async def read_overtaken_index(connection: Connection) -> OvertakenIndex:
    """Return the index of the records that a ledger decided ahead.

    Raises:
        OSError, asyncpg.PostgresError: when the database cannot be read.

    """
    rows = await connection.fetch(
        "select consumer_group, partition, first_offset, next_offset, neighbour from decided_ahead"
    )
    return OvertakenIndex.of(
        (WORKER_OF[TOPIC_OF_GROUP[row[0]]].value, *row[1:]) for row in map(tuple, rows) if row[0] in TOPIC_OF_GROUP
    )


def _segments(ranges: Iterable[tuple[int, int, str]]) -> Segments:
    """Split overlapping ranges into segments without overlaps."""
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
