"""Workers as child processes: started together, ended in order, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from infra.settings import Settings
from workers.errors import ChildError

__all__ = ["WORKERS", "Workers", "environment"]

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

    @property
    def names(self) -> tuple[str, ...]:
        """The workers that `start` starts."""
        return self._names

    def start(self) -> None:
        """Start the workers."""
        for name in self._names:
            self.start_one(name)

    def start_one(self, name: str, more: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start one worker, which does not run.

        Args:
            name: the worker.
            more: variables for this process only.

        Raises:
            OSError: when the process or its log cannot be had.

        """
        self._logs.mkdir(parents=True, exist_ok=True)
        port = {"INMAIL_HEALTH_PORT": str(self._probes[name])} if name in self._probes else {}
        with self.log(name).open("ab") as file:
            self.running[name] = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, "-m", "workers.cli", "worker", name, "--stop-with-parent"],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env={**self._environment, **port, **more},
                start_new_session=True,  # a terminal's Ctrl-C is for the parent, which ends them in order
            )

    def replace_killed(self, name: str) -> None:
        """End a worker as a crash does, with SIGKILL, and start another in its place."""
        self.running[name].kill()
        self.running[name].wait()
        self.forget(name)
        self.start_one(name)

    def forget(self, name: str) -> None:
        """Let go of a worker that has ended."""
        process = self.running.pop(name, None)
        if process is not None and process.stdin is not None:
            process.stdin.close()

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
        deadline = time.monotonic() + (self._drain_seconds + _BEYOND_DRAIN_SECONDS if seconds is None else seconds)
        codes = {}
        for name, process in processes.items():
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            # The signal itself ends a worker only before it has begun, or after it has drained.
            codes[name] = 0 if code == -signal.SIGTERM else code
        return codes
