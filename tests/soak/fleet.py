"""The processes of a soak: of each worker one that is never restarted and one that is, and those that look and read."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from infra.settings import Settings
from tests.workers.processes import free_port
from workers.local.processes import environment

__all__ = ["RESTARTED", "STEADY", "Fleet", "Life"]

STEADY: Final = ("send-1", "billing-1", "expiry-1", "ticker", "metrics", "lag", "console", "api")
RESTARTED: Final = ("send-2", "billing-2", "expiry-2")
_START_SECONDS: Final = 180.0
_END_SECONDS: Final = 90.0


@dataclass(slots=True)
class Life:
    """One process from its start to its end."""

    name: str
    process: "subprocess.Popen[bytes]"
    watched: psutil.Process = field(init=False)

    def __post_init__(self) -> None:
        self.watched = psutil.Process(self.process.pid)


class Fleet:
    """Starts all processes, restarts some of them in turn, and ends all."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        self.ports = {name: free_port() for name in (*STEADY, *RESTARTED)}
        self.running: dict[str, Life] = {}
        self.bad_ends: list[str] = []
        self._environment = environment(settings)
        self._logs = logs

    def start(self) -> None:
        """Start all processes."""
        for name in self.ports:
            self._start(name)

    async def ready(self) -> None:
        """Wait until each process serves its pages.

        Raises:
            TimeoutError: when one does not in time.

        """
        async with asyncio.timeout(_START_SECONDS):
            for port in self.ports.values():
                while True:
                    try:
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                    except OSError:
                        await asyncio.sleep(0.2)
                    else:
                        writer.close()
                        await writer.wait_closed()
                        break

    def _start(self, name: str) -> None:
        port = str(self.ports[name])
        probes = ",".join(f"{each}=127.0.0.1:{at}" for each, at in self.ports.items() if "-" in each)
        arguments = {
            "metrics": ("metrics", "--serve"),
            "lag": ("lag", "--serve", port),
            "console": ("console", "--port", port),
            "api": ("api",),
        }.get(name, ("worker", name.partition("-")[0]))
        own = {
            "console": {"INMAIL_CONSOLE_WORKERS": probes},
            "lag": {},
            "api": {"INMAIL_API_PORT": port, "INMAIL_API_WITHOUT_TOKENS": "true"},
        }.get(name, {"INMAIL_HEALTH_PORT": port})
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.child", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment | own,
                start_new_session=True,
            )
        self.running[name] = Life(name, process)

    async def restart(self, name: str, number: signal.Signals) -> None:
        """End a process by a signal, and start another in its place."""
        await self.end(name, number)
        self._start(name)

    async def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a process by a signal, and note an exit code that the signal does not explain."""
        life = self.running[name]
        life.process.send_signal(number)
        code = await asyncio.to_thread(life.process.wait, _END_SECONDS)
        del self.running[name]
        if code not in ({-signal.SIGKILL} if number is signal.SIGKILL else {0, -signal.SIGTERM}):
            self.bad_ends.append(f"{name} ended with code {code} on {number.name}")

    def ended(self) -> Iterator[str]:
        """Yield each process that has ended though nobody told it to."""
        for name, life in self.running.items():
            if (code := life.process.poll()) is not None:
                yield f"{name} ended with code {code}, unasked"

    async def stop(self) -> None:
        """End all processes in order."""
        await asyncio.gather(*(self.end(name) for name in list(self.running)))

    def kill(self) -> None:
        """Kill whatever still runs."""
        for life in self.running.values():
            life.process.kill()
            life.process.wait()
