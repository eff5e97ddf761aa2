"""The brokers of a cluster as processes that `inmail up` watches: one that ends is started again like a worker.

A single broker is not: without it nothing goes on, and `inmail up` ends, with the end of its log.
"""

import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from infra.clock import utc_now
from infra.local.stack import LocalStack
from workers.console.local_workers import ProcessState, WorkerStatus
from workers.local.last_words import last_words_of_server

__all__ = ["BrokerProcesses"]

_BAD_LINE: Final = re.compile(r"^\S+ (?:FATAL|ERROR) (.*)$", re.MULTILINE)
_STOPPED_BY_TERM: Final = 128 + signal.SIGTERM  # what Java ends with after an orderly stop


class BrokerProcesses:
    """The brokers of a stack that has several, by the names `broker-1`, `broker-2` and so on."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._nodes = {f"broker-{node}": node for node in range(1, stack.brokers + 1)}

    def statuses(self) -> list[WorkerStatus]:
        """Return each broker as the stack has started it."""
        return [
            WorkerStatus(
                name,
                ProcessState.RUNNING,
                utc_now(),
                self.log_path(name),
                pid=self._stack.broker(node).pid,
                is_broker=True,
            )
            for name, node in self._nodes.items()
        ]

    def log_path(self, name: str) -> Path:
        """Return the path of a broker's log."""
        return self._stack.broker_log(self._nodes[name])

    def start_one(self, name: str, _: Mapping[str, str]) -> int:
        """Start a broker that has ended, and return its process id; it serves a few seconds later.

        Raises:
            LocalStackError: when it cannot be run.

        """
        self._stack.spawn_broker(self._nodes[name])
        return self._stack.broker(self._nodes[name]).pid

    def exit_code(self, name: str) -> int | None:
        """Return what a broker ended with; None while it runs."""
        return self._stack.broker(self._nodes[name]).code

    def stop_one(self, name: str) -> int:
        """Ask one broker to hand its partitions over and to end, wait for it, and return its exit code."""
        code = self._stack.stop_broker(self._nodes[name])
        return 0 if code in (_STOPPED_BY_TERM, -signal.SIGTERM) else code

    def forget(self, name: str) -> None:
        """Do nothing: the stack keeps a broker's process until it starts the next."""

    def last_words(self, name: str, begun_at: int, code: int) -> str:
        """Return what a broker ended of: the signal, or the last error in its log."""
        return last_words_of_server(self.log_path(name), begun_at, code, _BAD_LINE)
