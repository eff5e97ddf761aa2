"""Watching offsets through a run: that none goes back, and how soon all of a group's lanes store again."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from tests.crash.books import Books
from tests.crash.group import Group
from tests.crash.points import Cell
from tests.crash.result import Result

__all__ = ["Before", "Watch"]

_EVERY_SECONDS = 0.1
_OTHERS_SECONDS = 10.0  # for a rebalance of workers some of which have no database, and for a record of each job


class Before(NamedTuple):
    """What a group's lanes had stored just before a fault met it, and when that was."""

    group: str
    at: float
    stored: dict[tuple[str, int], int]


@dataclass(slots=True)
class _Met:
    """A fault whose group has yet to show that it works again."""

    cell: Cell
    before: Before
    is_disturbed: bool = False  # the next fault of the group has begun meanwhile


class Watch:
    """Looks at the lanes' rows many times a second. The groups' offsets are judged by the broker's log of them."""

    def __init__(self, books: Books, log: Path) -> None:
        self._books = books
        self._log = log
        self._stored: dict[tuple[str, int], int] = {}
        self._met: list[_Met] = []
        self._back: list[str] = []
        self._recovered: list[tuple[_Met, float]] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            now = await self._books.stored()
            self._back += [
                f"{lane}: {before} to {now.get(lane)}"
                for lane, before in self._stored.items()
                if now.get(lane, 0) < before
            ]
            self._stored = now
            for met in list(self._met):
                lanes = [lane for lane in now if lane[0] == met.before.group]
                if lanes and all(now[lane] > met.before.stored.get(lane, 0) for lane in lanes):
                    self._recovered.append((met, monotonic() - met.before.at))
                    self._met.remove(met)
            await asyncio.sleep(_EVERY_SECONDS)

    async def before(self, group: Group) -> Before:
        """Return what is stored now, just before a fault: it may last, and the group recover meanwhile."""
        return Before(group.name, monotonic(), await self._books.stored())

    def expect(self, cell: Cell, before: Before, pid: int) -> None:
        """Note that a fault has met a group, whose lanes have yet to store something more than before it."""
        with self._log.open("a") as log:
            log.write(f"{datetime.now(UTC).isoformat()} {pid} {', '.join(cell)}\n")
        self._met.append(_Met(cell, before))

    def disturb(self, group: Group) -> None:
        """Note that the next fault of a group begins: what has not recovered yet may take longer because of it."""
        for met in self._met:
            met.is_disturbed |= met.before.group == group.name

    async def recovery(self, groups: Sequence[Group], seconds: float) -> None:
        """Wait until groups have recovered from all that met them, at most so long."""
        names = {group.name for group in groups}
        deadline = monotonic() + seconds
        while any(met.before.group in names for met in self._met):
            if monotonic() > deadline:
                return
            await asyncio.sleep(_EVERY_SECONDS)

    async def others_go_on(self, groups: Sequence[Group], server: int) -> bool:
        """Tell whether each of some groups stores something on the Postgres servers but one, which is away."""
        before = await self._books.stored(but=server)
        waiting = {group.name for group in groups}
        deadline = monotonic() + _OTHERS_SECONDS
        while waiting and monotonic() < deadline:
            await asyncio.sleep(_EVERY_SECONDS)
            now = await self._books.stored(but=server)
            waiting -= {lane[0] for lane, at in now.items() if at > before.get(lane, 0)}
        return not waiting

    def report(self, result: Result) -> None:
        """Add what was seen to a result."""
        for place in self._back:
            result.verdict.note("backwards", place)
        for met, seconds in self._recovered:
            (result.disturbed if met.is_disturbed else result.recovery)[met.cell].append(seconds)
        for met in self._met:
            result.not_recovered[met.cell] += 1
