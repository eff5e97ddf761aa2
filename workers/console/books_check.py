"""Whether the books balance, checked beside the samples: every credit that was granted is accounted for."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Final

from infra.clock import utc_now
from infra.shards import Shard, check_distinct, settings_of_shards
from workers.console.health import FAILED, OK, UNKNOWN, SystemPart
from workers.console.problems import KNOWN, explain
from workers.console.query_limiter import QueryLimiter
from workers.ops.books.credit_metrics import CreditReader
from workers.ops.books.shards import naming_server, read_holdings, server_name
from workers.ops.books.snapshot import open_books
from workers.ops.books.whole_books import check_whole

__all__ = ["BooksCheck"]

_PERIOD_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 10.0  # after one that failed at once, as of a server that is away
# After a check that failed, so many times as long as it ran: of whatever it failed, the next one may read as much again
# for nothing, and the first reads the whole journal.
_APART: Final = 20.0
_LATE_SECONDS: Final = 600.0  # the longest such wait
_LIMITS: Final = 4.0  # query time limits that one may take, but for the first


class BooksCheck:
    """The last check, and the one under way. It takes no page's turn, and the samples do not wait for it."""

    def __init__(self, limiter: QueryLimiter, clock: Callable[[], float] = monotonic) -> None:
        self._limiter, self._clock = limiter, clock
        self._readers = [CreditReader() for _ in settings_of_shards(limiter.settings)]
        self._checking: asyncio.Task[None] | None = None
        self._due_at = clock()
        self._checked_at: float | None = None
        self._told_at: datetime | None = None  # the same, for people
        self._problem: str | None = None  # why the last check came to no end
        self._differences: dict[str, int] = {}  # by server

    def part(self) -> SystemPart | None:
        """Return how the books stood at the last check; None before the first. Begin the next one where it is due.

        Books that the last check could not read are unknown, whatever an earlier one found, but for a difference: that
        stays until a check finds none.
        """
        if self._checking is not None and self._checking.done():
            self._checking.result()
            self._checking = None
        if self._checking is None and self._clock() >= self._due_at:
            self._checking = asyncio.create_task(self._check())
        if self._problem is not None and not self._differences:
            since = f"since {self._told_at:%Y-%m-%d %H:%M} UTC" if self._told_at else "since this console began"
            return SystemPart("Books", UNKNOWN, "not checked", f"not checked {since}: {self._problem}")
        if self._checked_at is None and not self._differences:
            return None
        if not self._differences:
            return SystemPart("Books", OK, "balanced", "every credit that was granted is accounted for")
        text = "; ".join(
            f"{abs(difference):,} credits are {'missing' if difference > 0 else 'too many'}{server}"
            for server, difference in self._differences.items()
        )
        do = "`inmail audit` names the lots and rows; let nobody change the tables by hand meanwhile"
        return SystemPart("Books", FAILED, "out of balance", text, do)

    async def wait(self) -> None:
        """Wait for the check that is under way."""
        if self._checking is not None:
            await self._checking

    async def close(self) -> None:
        """End the check that is under way."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait([self._checking])

    async def _check(self) -> None:
        limit = None if self._checked_at is None else self._limiter.settings.console_timeout_seconds * _LIMITS
        began_at = self._clock()
        try:
            async with asyncio.timeout(limit):
                await self._read()
        except KNOWN as error:
            self._problem = explain(error, self._limiter.settings)[2]
            now = self._clock()
            self._due_at = now + min(max(_AGAIN_SECONDS, (now - began_at) * _APART), _LATE_SECONDS)
            return
        self._problem, self._told_at = None, utc_now()
        self._checked_at = self._clock()
        self._due_at = self._checked_at + _PERIOD_SECONDS

    async def _read(self) -> None:
        """Read the books of each server, and keep by how many credits they are out of balance.

        Raises:
            KNOWN: the error of the first server that cannot be read. The others are read all the same.

        """
        failed: BaseException | None = None
        servers: list[tuple[str, Shard | None]] = []
        for reader, server in zip(self._readers, settings_of_shards(self._limiter.settings), strict=True):
            name = "" if len(self._readers) == 1 else f" on {server_name(server)}"
            try:
                with naming_server(server):
                    async with open_books(server) as connection:
                        if name:
                            holdings = await read_holdings(connection)
                            servers.append((server_name(server), holdings.shard))
                            check_distinct(servers)
                            found = await reader.read(connection, holdings)
                        else:
                            await check_whole(connection, server)
                            found = await reader.read(connection)
            except KNOWN as error:
                failed = failed or error
                continue
            self._differences.pop(name, None)
            if found.difference:
                self._differences[name] = found.difference
        if failed is not None:
            raise failed
