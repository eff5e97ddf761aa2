"""Workers as processes, as an operator runs them: started, probed, signalled, and never left behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from time import monotonic
from typing import Any

import psutil

from infra.settings import Settings
from tests.workers.wire import eventually
from workers.local.processes import environment

# Below those that the kernel gives to connections, and to whoever asks for any: a server that starts a second later
# still finds its port free. Each process of a test run has a thousand of its own.
_first = 20_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw"))
_ports = cycle(range(_first, _first + 1_000))


def free_port() -> int:
    """Return a port that is free, and that nobody is given by chance."""
    for port in _ports:
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a cycle has no end")


async def ask(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Return status and body of a probe; 0 where nobody answers."""

    def get() -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, {}

    return await asyncio.to_thread(get)


@dataclass(frozen=True, slots=True)
class Process:
    """A worker that runs by itself."""

    popen: "subprocess.Popen[bytes]"
    port: int

    async def ready(self) -> None:
        """Wait until its probe says that it is."""

        async def says() -> bool:
            assert self.popen.poll() is None, f"it ended with code {self.popen.returncode}"
            return (await ask(self.port, "/readyz"))[0] == 200

        await eventually(says, "a worker that is ready")

    async def drained(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit code, and how many seconds it took."""
        began = monotonic()
        self.popen.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.popen.wait, 60)
        return code, monotonic() - began

    @property
    def memory(self) -> int:
        """Bytes of memory that it holds."""
        return int(psutil.Process(self.popen.pid).memory_info().rss)


class Processes:
    """Send workers of one test."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> Process:
        """Start one more."""
        own = self._settings.model_copy(update={"health_port": free_port()})
        popen = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "worker", "send", "--stop-with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(own),
        )
        self._started.append(popen)
        return Process(popen, own.health_port)

    def end(self) -> None:
        """Drain all that are left: one that is killed counts as a member of its group until its session is over."""
        for popen in self._started:
            popen.send_signal(signal.SIGCONT)
            popen.terminate()
        for popen in self._started:
            try:
                popen.wait(30)
            finally:
                popen.kill()
                popen.wait()
            assert popen.stdin is not None
            popen.stdin.close()


@contextmanager
def processes(settings: Settings) -> Iterator[Processes]:
    """Run workers as processes, and leave none."""
    running = Processes(settings)
    try:
        yield running
    finally:
        running.end()
