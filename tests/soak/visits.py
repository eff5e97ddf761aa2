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
_SILENT_SECONDS: Final = 15.0  # without a part of an answer
_NOT_YET: Final = 404  # of an account: nothing is booked for it so far


class Visits:
    """Visits until cancelled, and notes what failed.

    Failed are an answer with another status than the page has, and none from a process that is never restarted.
    Statuses of 500 and more are noted apart.
    """

    def __init__(self, ports: Mapping[str, int], accounts: list[str]) -> None:
        self.asked = 0
        self.failures: list[str] = []
        self.server_errors: list[str] = []
        self._ports = ports
        self._accounts = accounts
        self._dice = Random(3)  # noqa: S311 - a workload

    async def run(self) -> None:
        """Scrape and read."""
        timeout = aiohttp.ClientTimeout(total=20, sock_read=_SILENT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as client, asyncio.TaskGroup() as visits:
            visits.create_task(self._scrape(client))
            visits.create_task(self._read(client))

    async def _get(self, client: aiohttp.ClientSession, name: str, path: str, *, may_be_missing: bool = False) -> None:
        self.asked += 1
        try:
            async with client.get(self._url(name, path)) as answer:
                await answer.read()
                if not (may_be_missing and answer.status == _NOT_YET):
                    self._note(name, path, answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            if name not in RESTARTED:
                self.failures.append(f"{name}{path}: {error!r}")

    def _url(self, name: str, path: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}{path}"

    def _note(self, name: str, path: str, status: int) -> None:
        if status != 200:
            (self.server_errors if status >= 500 else self.failures).append(f"{name}{path}: {status}")

    async def _scrape(self, client: aiohttp.ClientSession) -> None:
        while True:
            for name in self._ports:
                if name not in ("console", "api"):
                    await self._get(client, name, "/metrics")
            await asyncio.sleep(_SCRAPE_SECONDS)

    async def _read(self, client: aiohttp.ClientSession) -> None:
        while True:
            account = self._dice.choice(self._accounts)
            await self._get(client, "api", f"/v1/accounts/{account}/balance", may_be_missing=True)
            await self._get(client, "api", f"/v1/accounts/{account}/statement?limit=50", may_be_missing=True)
            await self._get(client, "console", f"/api/account?account={account}", may_be_missing=True)
            await self._get(client, "console", "/api/overview")
            await self._get(client, "console", "/api/history")
            await asyncio.sleep(_READ_SECONDS)
