"""Servers of a stack that has several of a kind, as processes that `inmail up` watches: started again like workers.

A single broker or Postgres server is not: without it nothing goes on, and `inmail up` ends, with the end of its log.
"""

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.clock import utc_now
from infra.local.kafka_server import STARTED
from infra.local.stack import LocalStack
from infra.local.supervisor_client import Child
from workers.console.local_workers import ProcessState, WorkerStatus
from workers.local.last_words import last_words_of_server, log_has

__all__ = ["ServerProcesses", "broker_processes", "database_processes"]

_BROKER_ERROR: Final = re.compile(r"^\S+ (?:FATAL|ERROR) (.*)$", re.MULTILINE)
_POSTGRES_ERROR: Final = re.compile(r"(?:FATAL|PANIC|ERROR): +(.*)$", re.MULTILINE)
_POSTGRES_READY: Final = "database system is ready to accept connections"
_STOPPED_BY_TERM: Final = (128 + signal.SIGTERM, -signal.SIGTERM)  # what Java ends with after an orderly stop


def broker_processes(stack: LocalStack) -> "ServerProcesses":
    """Return the brokers of a stack, by the names `broker-1`, `broker-2` and so on."""
    return ServerProcesses(
        {f"broker-{node}": node for node in range(1, stack.brokers + 1)},
        {"is_broker": True},
        _BROKER_ERROR,
        STARTED,
        process=stack.broker,
        log=stack.broker_log,
        spawn=stack.spawn_broker,
        stop=lambda node: 0 if (code := stack.stop_broker(node)) in _STOPPED_BY_TERM else code,
    )


def database_processes(stack: LocalStack) -> "ServerProcesses":
    """Return the Postgres servers of a stack, by the names `postgres-1`, `postgres-2` and so on."""
    return ServerProcesses(
        {f"postgres-{number}": number for number in range(1, stack.databases + 1)},
        {"is_database": True},
        _POSTGRES_ERROR,
        _POSTGRES_READY,
        process=stack.database,
        log=stack.database_log,
        spawn=stack.spawn_database,
        stop=stack.stop_database,
    )


@dataclass(frozen=True, slots=True)
class ServerProcesses:
    """All servers of one kind, and what a stack does with each, by its number."""

    _numbers: Mapping[str, int]  # by name
    _kind: Mapping[str, Any]  # what their statuses say of the kind
    _error: re.Pattern[str]  # of a line of their logs; its group is what went wrong
    _ready: str  # in a line of their logs: from then on they answer
    process: Callable[[int], Child]
    log: Callable[[int], Path]
    spawn: Callable[[int], None]
    stop: Callable[[int], int]

    def statuses(self) -> list[WorkerStatus]:
        """Return each server as the stack has started it."""
        return [
            WorkerStatus(
                name,
                ProcessState.RUNNING,
                utc_now(),
                self.log_path(name),
                pid=self.process(number).pid,
                **self._kind,
            )
            for name, number in self._numbers.items()
        ]

    def log_path(self, name: str) -> Path:
        """Return the path of a server's log."""
        return self.log(self._numbers[name])

    def start_one(self, name: str, _: Mapping[str, str]) -> int:
        """Start a server that has ended, and return its process id; it serves a moment later.

        Raises:
            LocalStackError: when it cannot be run.

        """
        self.spawn(self._numbers[name])
        return self.process(self._numbers[name]).pid

    def answers(self, name: str, begun_at: int) -> bool:
        """Tell whether a server answers, which it says in its log, where its own lines begin at a byte."""
        return log_has(self.log_path(name), begun_at, self._ready)

    def exit_code(self, name: str) -> int | None:
        """Return what a server ended with; None while it runs."""
        return self.process(self._numbers[name]).code

    def stop_one(self, name: str) -> int:
        """Ask one server to end in order, wait for it, and return its exit code."""
        return self.stop(self._numbers[name])

    def forget(self, name: str) -> None:
        """Do nothing: the stack keeps a server's process until it starts the next."""

    def last_words(self, name: str, begun_at: int, code: int) -> str:
        """Return what a server ended of: the signal, or the last error in its log."""
        return last_words_of_server(self.log_path(name), begun_at, code, self._error)
