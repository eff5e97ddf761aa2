"""Several Postgres servers as processes that `inmail up` watches: one that ends is started again like a worker.

A single one is not: without it nothing goes on, and `inmail up` ends, with the end of its log.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from infra.clock import utc_now
from infra.local.stack import LocalStack
from workers.console.local_workers import ProcessState, WorkerStatus
from workers.local.last_words import last_words_of_server

__all__ = ["DatabaseProcesses"]

_BAD_LINE: Final = re.compile(r"(?:FATAL|PANIC|ERROR): +(.*)$", re.MULTILINE)


class DatabaseProcesses:
    """The Postgres servers of a stack that has several, by the names `postgres-1`, `postgres-2` and so on."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._numbers = {f"postgres-{number}": number for number in range(1, stack.databases + 1)}

    def statuses(self) -> list[WorkerStatus]:
        """Return each server as the stack has started it."""
        return [
            WorkerStatus(
                name,
                ProcessState.RUNNING,
                utc_now(),
                self.log_path(name),
                pid=self._stack.database(number).pid,
                is_database=True,
            )
            for name, number in self._numbers.items()
        ]

    def log_path(self, name: str) -> Path:
        """Return the path of a server's log."""
        return self._stack.database_log(self._numbers[name])

    def start_one(self, name: str, _: Mapping[str, str]) -> int:
        """Start a server that has ended, and return its process id; it serves a moment later.

        Raises:
            LocalStackError: when it cannot be run.

        """
        self._stack.spawn_database(self._numbers[name])
        return self._stack.database(self._numbers[name]).pid

    def exit_code(self, name: str) -> int | None:
        """Return what a server ended with; None while it runs."""
        return self._stack.database(self._numbers[name]).code

    def stop_one(self, name: str) -> int:
        """Ask one server to end its sessions and to end, wait for it, and return its exit code."""
        return self._stack.stop_database(self._numbers[name])

    def forget(self, name: str) -> None:
        """Do nothing: the stack keeps a server's process until it starts the next."""

    def last_words(self, name: str, begun_at: int, code: int) -> str:
        """Return what a server ended of: the signal, or the last error in its log."""
        return last_words_of_server(self.log_path(name), begun_at, code, _BAD_LINE)
