"""Workers as child processes, which start together, drain on stop, and never outlive this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO

from infra.settings import Settings
from workers.errors import ChildError

__all__ = ["WORKERS", "WorkerProcesses", "environment"]

WORKERS = ("send", "billing", "expiry", "ticker")

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


class WorkerProcesses:
    """The four workers as child processes, each with a log file.

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
        self._drain_seconds = settings.drain_seconds
        self._logs = logs
        self._names = names
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._files: list[IO[bytes]] = []

    def start(self) -> None:
        """Start the workers."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for name in self._names:
            self._start(name)

    def _start(self, name: str) -> None:
        file = self.log_path(name).open("ab")
        self._files.append(file)
        self.running[name] = subprocess.Popen(  # noqa: S603 - runs this program
            [sys.executable, "-m", "workers.cli", "worker", name, "--stop-with-parent"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=self._environment | ({"INMAIL_HEALTH_PORT": str(self._probes[name])} if name in self._probes else {}),
            start_new_session=True,  # Ctrl-C reaches only the parent, which drains the workers
        )

    def kill_and_restart(self, name: str) -> None:
        """Kill a worker with SIGKILL, as a crash would, and start another in its place."""
        process = self.running[name]
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._start(name)

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
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + (self._drain_seconds + _EXTRA_DRAIN_SECONDS if seconds is None else seconds)
        codes = {}
        for name, process in self.running.items():
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            # SIGTERM itself ends a worker only before it has started, or after it has drained.
            codes[name] = 0 if code == -signal.SIGTERM else code
            if process.stdin is not None:
                process.stdin.close()
        for file in self._files:
            file.close()
        self.running = {}
        self._files = []
        return codes
