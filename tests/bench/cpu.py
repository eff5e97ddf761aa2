"""CPU time of the processes that share the work: steadier than wall time on a machine that others use too."""

from collections.abc import Mapping
from contextlib import suppress

import psutil

__all__ = ["CpuMeter"]


class CpuMeter:
    """Sums the CPU seconds of process trees from its construction on.

    Postgres ends a backend with its connection and counts its time in the server that waited for it, so the children's
    time is read too.
    """

    def __init__(self, trees: Mapping[str, int]) -> None:
        self._trees = dict(trees)
        self._began = self._read()

    def _read(self) -> dict[str, float]:
        return {name: _tree_seconds(pid) for name, pid in self._trees.items()}

    def microseconds_each(self, count: int) -> dict[str, float]:
        """Return the CPU time of each tree since the start, divided among `count` pieces of work."""
        now = self._read()
        return {name: round((now[name] - self._began[name]) * 1e6 / count, 1) for name in now}


def _tree_seconds(pid: int) -> float:
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            # Children that ended are in the time of the parent that reaped them.
            total += times.user + times.system + times.children_user + times.children_system
    return total
