"""Compares two ledgers: every outcome, entry, lot and account, with the differences grouped by cause.

Account and lot numbers depend on the order of insertion: accounts are identified by their id, lots by the event that
granted them and their first instant. Both ledgers are read in the same order and merged, in constant memory. Records
that only one ledger has read are left out; then states that a later record may have changed are not compared, and a
lot's credits are the sum of its entries. Outcomes that the live ledger decided ahead of another lane are listed, and
differences that may follow from them are separate from other differences (`out_of_order.py`).
"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg

from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.compare.merge_join import CommonRange, common_range, joined_lines, open_both
from workers.ops.compare.out_of_order import (
    DecidedAhead,
    DifferenceCause,
    OvertakenIndex,
    OvertakenOutcome,
    read_overtaken_index,
)
from workers.ops.compare.queries import SECTIONS, LineKind

__all__ = ["Comparison", "DifferenceExample", "DifferenceGroup", "compare"]

EXAMPLES = 5
_ALONE: Final = {  # causes that hold for any line of a section
    ("entries", "balance_before, balance_after"): "only the balance differs",
    ("entries", "sequence, reverses"): "only the order differs",
}
_LACKED: Final = ("lot_ends",)  # details that rows of an older version lack
_RANKS: Final = (
    " -> ",
    ": missing",
    ": extra",
    ": ",
)  # of causes, by a part of their text; causes of any line come last


@dataclass(frozen=True, slots=True)
class DifferenceExample:
    """One difference: its place, and the values in each ledger; None if a ledger lacks the line."""

    place: Mapping[str, Any]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(slots=True)
class DifferenceGroup:
    """The differences with one cause."""

    section: str
    cause: str
    count: int = 0
    examples: list[DifferenceExample] = field(default_factory=list)
    origin: DifferenceCause = DifferenceCause.ELSEWHERE

    @property
    def label(self) -> str:
        """The cause, with its relation to decisions ahead."""
        return f"{self.cause} ({self.origin})" if self.origin else self.cause


@dataclass(slots=True)
class Comparison:
    """The result of a comparison: `before` is the live ledger, `after` the other."""

    whole: bool  # both have read the same records, so states were compared too
    lines: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # number of compared lines by section: before and after
    groups: list[DifferenceGroup] = field(
        default_factory=list
    )  # by section: different answers first, consequences last
    ahead: DecidedAhead = field(default_factory=DecidedAhead)

    @property
    def same(self) -> bool:
        """Whether the ledgers are equal."""
        return not self.groups

    @classmethod
    def of_all(cls, comparisons: Sequence["Comparison"]) -> "Comparison":
        """Return the comparisons of several servers as one: causes and lines are added up."""
        found = cls(all(each.whole for each in comparisons))
        groups: dict[tuple[str, str, DifferenceCause], DifferenceGroup] = {}
        for each in comparisons:
            for name, (before, after) in each.lines.items():
                lines = found.lines.get(name, (0, 0))
                found.lines[name] = (lines[0] + before, lines[1] + after)
            for group in each.groups:
                same = groups.setdefault(
                    (group.section, group.cause, group.origin), replace(group, count=0, examples=[])
                )
                same.count += group.count
                same.examples = [*same.examples, *group.examples][:EXAMPLES]
            found.ahead.merge(each.ahead)
        order = list(found.lines)
        found.groups = sorted(groups.values(), key=lambda group: (order.index(group.section), *_rank(group)))
        return found

    def counts(self) -> dict[str, int]:
        """Return the number of differences by cause."""
        return {f"{group.section}: {group.label}": group.count for group in self.groups}

    @property
    def unexplained(self) -> int:
        """The number of differences that do not follow from decisions ahead."""
        return sum(group.count for group in self.groups if group.origin is DifferenceCause.ELSEWHERE)

    def summary(self) -> dict[str, Any]:
        """Return the comparison for JSON, the verdict first."""
        lines = {name: {"before": before, "after": after} for name, (before, after) in self.lines.items()}
        return {
            "same": self.same,
            "whole": self.whole,
            "lines": lines,
            "decided_ahead": self.ahead,
            "not_of_that": self.unexplained,
            "groups": self.groups,
        }


async def compare(
    before: Settings,
    after: Settings,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    numbers: Sequence[int] = (),
) -> Comparison:
    """Compare one snapshot each of two ledgers.

    Args:
        before: where the live ledger is.
        after: where the rebuilt ledger is.
        since: only lines of this broker time or later.
        until: only lines before this broker time.
        numbers: the partition numbers that were rebuilt of one of several servers; none for all.

    Raises:
        RefusedError: when the live ledger has other numbers now.
        NotSetUpError: when one of the databases was never migrated.
        OSError, asyncpg.PostgresError: when one of the databases cannot be reached or refuses.

    """
    async with open_both(before, after, numbers) as (live, other):
        limits = await common_range(live, other, since, until)
        index = await read_overtaken_index(live)
        found = Comparison(limits.whole)
        for section in SECTIONS:
            if limits.whole or not section.only_whole:
                await _SectionComparison(section, index, found).compare(live, other, limits)
    return found


class _Difference(NamedTuple):
    """A difference that waits until all differences of its account are known."""

    cause: str
    example: DifferenceExample
    as_of: datetime | None
    ahead: bool


class _SectionComparison:
    """Merges one section's lines of both ledgers, and groups the differences."""

    def __init__(self, section: LineKind, index: OvertakenIndex, found: Comparison) -> None:
        self._section = section
        self._index = index
        self._found = found
        self._groups: dict[tuple[str, DifferenceCause], DifferenceGroup] = {}
        self._waiting: list[_Difference] = []  # of one owner, since its lines are not in the order of time
        self._owner: str | int = ""

    async def compare(self, live: Connection, other: Connection, limits: CommonRange) -> None:
        """Compare all lines of the section."""
        lines = [0, 0]
        async with aclosing(joined_lines(self._section, live, other, limits)) as pairs:
            async for before, after in pairs:
                lines[0] += before is not None
                lines[1] += after is not None
                self._compare_lines(before, after)
        self._group_waiting()
        self._found.lines[self._section.name] = (lines[0], lines[1])
        self._found.groups += sorted(self._groups.values(), key=_rank)

    def _compare_lines(self, before: asyncpg.Record | None, after: asyncpg.Record | None) -> None:
        """Compare two lines with one key; None for a missing line."""
        line = before if before is not None else after
        assert line is not None  # noqa: S101 - at least one line exists
        differs = before is None or after is None or (tuple(before) != tuple(after) and bool(_differing(before, after)))
        source = self._section.source(line)
        ahead_of = self._index.ahead_of(source) if source is not None else ()
        if not (differs or ahead_of):
            return
        cause, example = _difference(self._section, before, after) if differs else (None, None)
        if ahead_of and source is not None and self._section.is_outcome(line):
            place = {name: line[name] for name in self._section.place}
            told = f"{source.worker} {source.partition}/{source.offset}"
            self._found.ahead.add(OvertakenOutcome(place, told, ahead_of, cause))
        if cause is None or example is None:
            return
        if line[0] != self._owner:
            self._group_waiting()
            self._owner = line[0]
        if ahead_of and source is not None:
            self._index.mark_affected([self._owner, source.partition], line["as_of"])
        as_of = line["as_of"] if source is not None else None
        self._waiting.append(_Difference(cause, example, as_of, bool(ahead_of)))

    def _group_waiting(self) -> None:
        """Group the waiting differences."""
        for cause, example, as_of, ahead in self._waiting:
            origin = self._index.origin(self._owner, as_of, ahead=ahead)
            group = self._groups.setdefault((cause, origin), DifferenceGroup(self._section.name, cause, origin=origin))
            group.count += 1
            if len(group.examples) < EXAMPLES:
                group.examples.append(example)
        self._waiting.clear()


def _difference(
    section: LineKind, before: asyncpg.Record | None, after: asyncpg.Record | None
) -> tuple[str, DifferenceExample]:
    """Return the cause of a difference, and the difference as an example."""
    line = before if before is not None else after
    assert line is not None  # noqa: S101 - at least one line exists
    place = {name: line[name] for name in section.place}
    if before is None or after is None:
        shown = {name: value for name, value in list(line.items())[section.keys :] if value is not None}
        name = line[section.kind] if section.kind else section.one
        if before is None:
            return f"{name}: extra", DifferenceExample(place, None, shown)
        return f"{name}: missing", DifferenceExample(place, shown, None)
    names = _differing(before, after)
    example = DifferenceExample(place, *({name: record[name] for name in names} for record in (before, after)))
    return _cause(section, before, after, names), example


def _differing(before: asyncpg.Record, after: asyncpg.Record) -> list[str]:
    """Return the columns in which two lines differ."""
    return [
        name
        for name in before.keys()  # noqa: SIM118 - a record is not a dict
        if before[name] != after[name]
        and not (name == "details" and _differs_in_version(before[name] or {}, after[name] or {}))
    ]


def _differs_in_version(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Tell whether details differ only in what an older version did not note, and one of the two lacks.

    The ends that it lacks are compared as states of the lots.
    """
    lacked = {name for name in _LACKED if (name in before) != (name in after)}
    return bool(lacked) and _without(before, lacked) == _without(after, lacked)


def _without(details: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in details.items() if name not in names}


def _cause(section: LineKind, before: asyncpg.Record, after: asyncpg.Record, names: Sequence[str]) -> str:
    """Return the cause of a difference: the columns that differ, without those that follow from others."""
    if section.kind in names:
        return f"{before[section.kind]} -> {after[section.kind]}"
    kind = before[section.kind] if section.kind else section.one
    follow = {name for tier in section.consequences for name in tier}
    if own := [name for name in names if name not in follow]:
        return f"{kind}: differs in {', '.join(own)}"
    tier = next(tier for tier in section.consequences if not set(tier).isdisjoint(names))
    alone = _ALONE.get((section.name, ", ".join(tier)))
    return alone or f"{kind}: differs in {', '.join(name for name in tier if name in names)}"


def _rank(group: DifferenceGroup) -> tuple[int, int, str]:
    kind = next((rank for rank, part in enumerate(_RANKS) if part in group.cause), len(_RANKS))
    return kind, -group.count, group.label
