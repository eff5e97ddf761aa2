"""The processes that are watched: the workers, the ticker, the observers and the console, each with its own port."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp

from infra.settings import Settings
from infra.shards import settings_of_shards
from tests.workers.processes import free_port
from workers.local.processes import environment, member_names, server_of, worker_of

__all__ = ["OBSERVERS", "Members"]

OBSERVERS: Final = ("metrics", "lag", "api", "console")  # as compose names them
_READY: Final = {"lag": "/lag", "console": "/"}
_START_SECONDS: Final = 90.0


class Members:
    """One process of each name, started, signalled and started again."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        self._servers = [each.database_url.get_secret_value() for each in settings_of_shards(settings)]
        self.workers = member_names(1, len(self._servers))
        self.names = (*self.workers, *OBSERVERS)
        self.ports = {name: free_port() for name in self.names}
        self.environment = environment(settings)
        self._logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, **variables: str) -> None:
        """Start one, with some variables of its own."""
        port = str(self.ports[name])
        probes = ",".join(f"{worker}=127.0.0.1:{self.ports[worker]}" for worker in self.workers)
        arguments: Mapping[str, tuple[str, ...]] = {
            "metrics": ("metrics", "--serve"),
            "lag": ("lag", "--serve", port),
            "api": ("api",),
            "console": ("console", "--port", port),
        }
        own = {
            "api": {"INMAIL_HEALTH_PORT": port, "INMAIL_API_PORT": "0", "INMAIL_API_WITHOUT_TOKENS": "true"},
            "console": {"INMAIL_CONSOLE_WORKERS": probes},
            "lag": {},
        }.get(name, {"INMAIL_HEALTH_PORT": port})
        if (number := server_of(name)) is not None:
            own["INMAIL_DATABASE_URL"] = self._servers[number - 1]
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", *arguments.get(name, ("worker", worker_of(name)))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | own | variables,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        """Return the file that one writes its log to."""
        return self._logs / f"{name}.log"

    async def end(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one, and wait until it has ended."""
        self.signal(name, number)
        await self.ended(name)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one."""
        self.running[name].send_signal(number)

    async def ended(self, name: str, seconds: float = 60.0) -> int:
        """Wait until one has ended; return its exit code."""
        return await asyncio.to_thread(self.running[name].wait, seconds)

    async def ready(self, name: str) -> None:
        """Wait until one answers that it is ready.

        Raises:
            TimeoutError: when it does not in time.

        """
        url = f"http://127.0.0.1:{self.ports[name]}{_READY.get(name, '/readyz')}"
        async with aiohttp.ClientSession() as client, asyncio.timeout(_START_SECONDS):
            while True:
                try:
                    async with client.get(url) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.2)

    def stop(self) -> None:
        """End all of them, the workers in order."""
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
