"""Watching offsets through a run: that none goes back, and how soon all of a group's lanes store again."""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from tests.crash.books import Books
from tests.crash.judge import Verdict
from tests.crash.points import Cell

__all__ = ["Watch"]

_EVERY_SECONDS = 0.1


class _Met(NamedTuple):
    """A fault whose group has yet to show that it works again."""

    cell: Cell
    group: str
    at: float
    stored: dict[tuple[str, int], int]


class Watch:
    """Looks at the lanes' rows many times a second. The groups' offsets are judged by the broker's log of them."""

    def __init__(self, books: Books, log: Path) -> None:
        self._books = books
        self._log = log
        self._stored: dict[tuple[str, int], int] = {}
        self._met: list[_Met] = []
        self._back: list[str] = []
        self.recovered: dict[Cell, list[float]] = defaultdict(list)

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
                lanes = [lane for lane in now if lane[0] == met.group]
                if all(now[lane] > met.stored.get(lane, 0) for lane in lanes):
                    self.recovered[met.cell].append(monotonic() - met.at)
                    self._met.remove(met)
            await asyncio.sleep(_EVERY_SECONDS)

    def expect(self, cell: Cell, group: str, pid: int) -> None:
        """Note that a fault has met a group, whose lanes have yet to store something more."""
        with self._log.open("a") as log:
            log.write(f"{datetime.now(UTC).isoformat()} {pid} {', '.join(cell)}\n")
        self._met.append(_Met(cell, group, monotonic(), dict(self._stored)))

    def report(self, verdict: Verdict) -> None:
        """Add what was seen to a verdict."""
        for place in self._back:
            verdict.note("backwards", place)
