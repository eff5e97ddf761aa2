"""What comes by beside the events: scrapes of every process's metrics, an open console page, readers of the API."""

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Final

import aiohttp

from tests.soak.fleet import RESTARTED

__all__ = ["Visits"]

_SCRAPE_SECONDS: Final = 15.0
_READ_SECONDS: Final = 0.5


class Visits:
    """Visits until cancelled. An answer of 500 or more, or none from a process that is never restarted, is noted."""

    def __init__(self, ports: Mapping[str, int], accounts: list[str]) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._ports = ports
        self._accounts = accounts
        self._dice = Random(3)  # noqa: S311 - a workload

    async def run(self) -> None:
        """Scrape, watch and read."""
        timeout = aiohttp.ClientTimeout(total=20, sock_read=15)
        async with aiohttp.ClientSession(timeout=timeout) as client, asyncio.TaskGroup() as visits:
            visits.create_task(self._scrape(client))
            visits.create_task(self._read(client))
            visits.create_task(self._watch(client))

    async def _get(self, client: aiohttp.ClientSession, name: str, path: str) -> None:
        try:
            async with client.get(f"http://127.0.0.1:{self._ports[name]}{path}") as answer:
                await answer.read()
                self.answered += 1
                if answer.status >= 500:
                    self.failures.append(f"{name}{path}: {answer.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            if name not in RESTARTED:
                self.failures.append(f"{name}{path}: {error!r}")

    async def _scrape(self, client: aiohttp.ClientSession) -> None:
        while True:
            for name in self._ports:
                if name not in ("console", "api"):
                    await self._get(client, name, "/metrics")
            await asyncio.sleep(_SCRAPE_SECONDS)

    async def _read(self, client: aiohttp.ClientSession) -> None:
        while True:
            account = self._dice.choice(self._accounts)
            await self._get(client, "api", f"/v1/accounts/{account}/balance")
            await self._get(client, "api", f"/v1/accounts/{account}/statement?limit=50")
            await self._get(client, "console", f"/api/account?account={account}")
            await self._get(client, "console", "/api/history")
            await asyncio.sleep(_READ_SECONDS)

    async def _watch(self, client: aiohttp.ClientSession) -> None:
        """Hold the console's live stream open, and open it again when it ends: a page's life."""
        url = f"http://127.0.0.1:{self._ports['console']}/api/live"
        while True:
            try:
                async with client.get(url, timeout=aiohttp.ClientTimeout(total=60)) as stream:
                    async for _ in stream.content:
                        self.answered += 1
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(_READ_SECONDS)
