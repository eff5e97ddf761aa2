"""What processes hold, looked at every few seconds and noted each minute: memory, open files, connections."""

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import psutil

from infra.local.stack import LocalStack
from tests.soak.fleet import STEADY, Fleet, Life

__all__ = ["FIGURES", "Samples"]

FIGURES: Final = {  # and the unit of each
    "memory_kb": "KB",
    "files": "files",
    "kafka": "connections to Kafka",
    "postgres": "connections to Postgres",
}
SERVERS: Final = ("kafka", "postgres")


@dataclass(slots=True)
class _Series:
    minutes: list[dict[str, Any]] = field(default_factory=list)
    looks: list[dict[str, int]] = field(default_factory=list)


class Samples:
    """The figures of each life of each process, and of the two servers."""

    def __init__(self, stack: LocalStack, fleet: Fleet) -> None:
        self._stack = stack
        self._fleet = fleet
        self._ports = {
            int(stack.kafka_bootstrap_servers.rpartition(":")[2]): "kafka",
            int(stack.database_url.rpartition("/")[0].rpartition(":")[2]): "postgres",
        }
        self._lives: dict[str, list[tuple[int, _Series]]] = defaultdict(list)  # by name, with the process's id

    def look(self) -> None:
        """Look at all processes once."""
        for life in self._fleet.running.values():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                self._series(life.name, life.process.pid).looks.append(self._look(life))
        for name, pid in zip(SERVERS, (self._stack.kafka_pid, self._stack.postgres_pid), strict=True):
            self._series(name, pid).looks.append(_look_at_server(pid))

    def _series(self, name: str, pid: int) -> _Series:
        lives = self._lives[name]
        if not lives or lives[-1][0] != pid:
            lives.append((pid, _Series()))
        return lives[-1][1]

    def _look(self, life: Life) -> dict[str, int]:
        process, memory = life.watched, life.watched.memory_info()
        # Without pages of files, which a machine takes and gives as others need its memory.
        found = {
            "memory_kb": (memory.rss - memory.shared) // 1024,
            "files": process.num_fds(),
            "kafka": 0,
            "postgres": 0,
        }
        for connection in process.net_connections("tcp"):
            if connection.raddr and (server := self._ports.get(connection.raddr.port)):
                found[server] += 1
        return found

    def note_minute(self, minute: int) -> None:
        """Note the medians of a minute's looks."""
        for lives in self._lives.values():
            for _, series in lives:
                if series.looks:
                    figures = {name: median(look[name] for look in series.looks) for name in series.looks[0]}
                    series.minutes.append({"minute": minute, **figures})
                    series.looks.clear()

    def __call__(self) -> dict[str, Any]:
        """Return the minutes of each life of each process, as JSON."""
        return {
            name: {
                "steady": name in STEADY or name in SERVERS,
                "lives": [series.minutes for _, series in lives if series.minutes],
            }
            for name, lives in self._lives.items()
        }


def _look_at_server(pid: int) -> dict[str, int]:
    """Return what a server's tree holds. Postgres's processes share memory: of each counts what is its own."""
    found = {"memory_kb": 0, "files": 0}
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found["memory_kb"] += process.memory_full_info().uss // 1024
            found["files"] += process.num_fds()
    return found
