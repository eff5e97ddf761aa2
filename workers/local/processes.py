"""Workers as child processes: started together, ended in order, and never left behind."""

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

__all__ = ["COMMAND_MODULE", "WORKERS", "Workers", "environment"]

# For `python -m`. An installed package has another name than the repository's folder.
COMMAND_MODULE = f"{__package__.rpartition('.')[0]}.cli"
WORKERS = ("send", "billing", "expiry", "ticker")

_LAST_LINES = 15
_BEYOND_DRAIN_SECONDS = 10  # a worker that cannot leave its group, or close its pool, says so and ends


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment that gives a child the settings of this process, secrets included."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("INMAIL_")}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is not None:
            value = value.get_secret_value() if hasattr(value, "get_secret_value") else value
            variables[f"INMAIL_{name.upper()}"] = str(value)
    return variables


class Workers:
    """The four workers as processes of their own, each with a log file.

    They watch their standard input: when this process ends, however it ends, they read its end and drain. Those
    that are given a port serve their probes there.
    """

    def __init__(
        self,
        settings: Settings,
        logs: Path,
        names: tuple[str, ...] = WORKERS,
        probes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        # The console's tokens are no business of a worker.
        given = environment(settings).items()
        self._environment = {name: value for name, value in given if not name.startswith("INMAIL_CONSOLE_")}
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
        file = self.log(name).open("ab")
        self._files.append(file)
        self.running[name] = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable, "-m", COMMAND_MODULE, "worker", name, "--stop-with-parent"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=self._environment | ({"INMAIL_HEALTH_PORT": str(self._probes[name])} if name in self._probes else {}),
            start_new_session=True,  # a terminal's Ctrl-C is for the parent, which ends them in order
        )

    def replace_killed(self, name: str) -> None:
        """End a worker as a crash does, with SIGKILL, and start another in its place."""
        process = self.running[name]
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._start(name)

    def log(self, name: str) -> Path:
        """Return where a worker writes its log."""
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """Raise ChildError if a worker has ended."""
        for name, process in self.running.items():
            if (code := process.poll()) is not None:
                lines = self.log(name).read_text(errors="replace").splitlines()[-_LAST_LINES:]
                raise ChildError(
                    f"the {name} worker ended with exit code {code}. Its log, {self.log(name)}, ends with:\n  "
                    + "\n  ".join(lines)
                )

    def stop(self, seconds: float | None = None) -> dict[str, int]:
        """Ask all to drain, wait for them, and return their exit codes. One that does not end in time is killed.

        Args:
            seconds: the time they have, together; what they need at most unless given.

        """
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + (self._drain_seconds + _BEYOND_DRAIN_SECONDS if seconds is None else seconds)
        codes = {}
        for name, process in self.running.items():
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            # The signal itself ends a worker only before it has begun, or after it has drained.
            codes[name] = 0 if code == -signal.SIGTERM else code
            if process.stdin is not None:
                process.stdin.close()
        for file in self._files:
            file.close()
        self.running = {}
        self._files = []
        return codes
