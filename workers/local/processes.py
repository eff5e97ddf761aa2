"""Workers as child processes, which start together, drain on stop, and never outlive this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from infra.settings import Settings
from infra.shards import settings_of_shards
from workers.errors import ChildError
from workers.local.last_words import last_words

__all__ = [
    "COMMAND_MODULE",
    "WORKERS",
    "WorkerProcesses",
    "environment",
    "member_names",
    "server_of",
    "server_title",
    "worker_of",
]

# For `python -m`. An installed package has another name than the repository's folder.
COMMAND_MODULE = f"{__package__.rpartition('.')[0]}.cli"
WORKERS = ("send", "billing", "expiry", "ticker")
_SINGLE = "ticker"  # a second one would only tick twice
_SERVER: Final = "pg"  # in the names of workers, where there are several Postgres servers

_MAX_LOG_LINES = 15
_EXTRA_DRAIN_SECONDS = 10  # a worker that cannot leave its group or close its pool logs that and ends


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment that passes this process's settings, secrets included, to a child process."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("INMAIL_")}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is not None:
            value = value.get_secret_value() if hasattr(value, "get_secret_value") else value
            variables[f"INMAIL_{name.upper()}"] = str(value)
    return variables


def member_names(count: int, databases: int = 1) -> tuple[str, ...]:
    """Return the names of `count` members of each worker, `send` and `send-2`, beside the one ticker.

    The first members come first, and are named as if they were alone. With several Postgres servers there are as many
    for each, and their names say of which: `send-pg1` and `send-pg1-2`, `send-pg2` and `send-pg2-2`.
    """
    if databases > 1:
        kinds = [name for name in WORKERS if name != _SINGLE]
        places = [f"{_SERVER}{database}" for database in range(1, databases + 1)]
        firsts = [f"{name}-{place}" for place in places for name in kinds]
        return (*firsts, _SINGLE, *(f"{name}-{number}" for number in range(2, count + 1) for name in firsts))
    more = (f"{name}-{number}" for number in range(2, count + 1) for name in WORKERS if name != _SINGLE)
    return (*WORKERS, *more)


def worker_of(name: str) -> str:
    """Return which worker a member is: `send` of `send-2`."""
    return name.partition("-")[0]


def server_of(name: str) -> int | None:
    """Return the number of the Postgres server that a member works with; None where there is one server for all."""
    place = next((part for part in name.split("-")[1:] if part.startswith(_SERVER)), None)
    return None if place is None else int(place.removeprefix(_SERVER))


def server_title(name: str) -> str:
    """Return what the server that a member works with is called; empty where there is one server for all."""
    number = server_of(name)
    return "" if number is None else f"Postgres {number}"


class WorkerProcesses:
    """The workers as child processes, each with a log file.

    Each worker watches its standard input and drains when this process ends, however it ends. A worker with a port in
    `probes` serves its probes there.
    """

    def __init__(
        self,
        settings: Settings,
        logs: Path,
        names: tuple[str, ...] = WORKERS,
        probes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        # Workers do not need the console's tokens.
        variables = environment(settings).items()
        self._environment = {name: value for name, value in variables if not name.startswith("INMAIL_CONSOLE_")}
        self._probes = probes
        urls = [each.database_url.get_secret_value() for each in settings_of_shards(settings)]
        self._databases = {name: urls[number - 1] for name in names if (number := server_of(name)) is not None}
        self._drain_seconds = settings.drain_seconds
        self._logs = logs
        self._names = names
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The workers that `start` starts."""
        return self._names

    def start(self) -> None:
        """Start the workers."""
        for name in self._names:
            self.start_one(name)

    def start_one(self, name: str, more: Mapping[str, str] = MappingProxyType({})) -> int:
        """Start one worker, which does not run, and return its process id.

        Args:
            name: the worker.
            more: variables for this process only.

        Raises:
            OSError: when the process or its log cannot be had.

        """
        self._logs.mkdir(parents=True, exist_ok=True)
        own = {"INMAIL_HEALTH_PORT": str(self._probes[name])} if name in self._probes else {}
        if name in self._databases:
            own["INMAIL_DATABASE_URL"] = self._databases[name]
        with self.log_path(name).open("ab") as file:
            self.running[name] = subprocess.Popen(  # noqa: S603 - runs this program
                [sys.executable, "-m", COMMAND_MODULE, "worker", worker_of(name), "--stop-with-parent"],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env={**self._environment, **own, **more},
                start_new_session=True,  # Ctrl-C reaches only the parent, which drains the workers
            )
        return self.running[name].pid

    def exit_code(self, name: str) -> int | None:
        """Return what a worker ended with; None while it runs."""
        return self.running[name].poll()

    def last_words(self, name: str, begun_at: int, code: int) -> str:
        """Return what a worker ended of, in a sentence."""
        return last_words(self.log_path(name), begun_at, code)

    def kill_and_restart(self, name: str) -> None:
        """Kill a worker with SIGKILL, as a crash would, and start another in its place."""
        self.running[name].kill()
        self.running[name].wait()
        self.forget(name)
        self.start_one(name)

    def forget(self, name: str) -> None:
        """Let go of a worker that has ended."""
        process = self.running.pop(name, None)
        if process is not None and process.stdin is not None:
            process.stdin.close()

    def log_path(self, name: str) -> Path:
        """Return the path of a worker's log."""
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """Check that all workers run.

        Raises:
            ChildError: when a worker has ended; the message has the end of its log.

        """
        for name, process in self.running.items():
            if (code := process.poll()) is not None:
                lines = self.log_path(name).read_text(errors="replace").splitlines()[-_MAX_LOG_LINES:]
                raise ChildError(
                    f"the {name} worker ended with exit code {code}. Its log, {self.log_path(name)}, ends with:\n  "
                    + "\n  ".join(lines)
                )

    def stop(self, seconds: float | None = None) -> dict[str, int]:
        """Drain all workers and return their exit codes. A worker that does not end in time is killed.

        Args:
            seconds: the time limit for all workers together; by default, the longest time that draining may take.

        """
        codes = self._stop(list(self.running), seconds)
        for name in codes:
            self.forget(name)
        return codes

    def stop_one(self, name: str) -> int:
        """Ask one worker to drain, wait for it, and return its exit code. It is killed when it does not end in time."""
        return self._stop([name], None)[name]

    def _stop(self, names: Sequence[str], seconds: float | None) -> dict[str, int]:
        processes = {name: self.running[name] for name in names}
        for process in processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + (self._drain_seconds + _EXTRA_DRAIN_SECONDS if seconds is None else seconds)
        codes = {}
        for name, process in processes.items():
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            # SIGTERM itself ends a worker only before it has started, or after it has drained.
            codes[name] = 0 if code == -signal.SIGTERM else code
        return codes
