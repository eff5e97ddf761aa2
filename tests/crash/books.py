"""The books as the controller sees them from outside: who owns a lane, how far lanes have read, who is connected.

Several servers may hold them together: each has the rows of its lanes and of its accounts, and no row is of two.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncpg

from infra.migrate import migrate
from infra.postgres import connect_database, is_transient
from infra.settings import Settings
from infra.shards import settings_of_shards
from workers.ledger.store import FUNCTIONS

__all__ = ["Books"]

Answer = TypeVar("Answer")

_WAIT_SECONDS = 60.0  # of several servers one is away until the others were seen to go on
_CLAIMS = """
create table crash_claims (consumer_group text, partition integer, claimed bigint, actual bigint);
grant insert on crash_claims to inmail_worker
"""


class _Server:
    """One connection, made anew whenever the server was killed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: asyncpg.Connection[Any] | None = None
        self._lock = asyncio.Lock()

    async def ask(self, question: Callable[[Any], Coroutine[Any, Any, Answer]]) -> Answer:
        """Ask, again while the server is away."""
        async with self._lock, asyncio.timeout(_WAIT_SECONDS):
            while True:
                try:
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await connect_database(self._settings)
                    return await question(self._connection)
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                    if not is_transient(error):
                        raise
                    await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()


class Books:
    """A connection to each server."""

    def __init__(self, settings: Settings) -> None:
        self._servers = [_Server(each) for each in settings_of_shards(settings)]

    async def prepare(self) -> None:
        """Migrate, and make the table in which workers note for which epoch they stored a batch."""

        async def run(connection: Any) -> None:
            await migrate(connection, [FUNCTIONS])
            await connection.execute(_CLAIMS)

        for server in self._servers:
            await server.ask(run)

    async def close(self) -> None:
        """Close the connections."""
        for server in self._servers:
            await server.close()

    async def fetch(self, query: str, *arguments: object, but: int | None = None) -> list[Any]:
        """Return a query's rows, of all servers or of all but one, by its number from 1 on."""
        asked = [each for number, each in enumerate(self._servers, 1) if number != but]
        found = await asyncio.gather(*(each.ask(lambda server: server.fetch(query, *arguments)) for each in asked))
        return [row for rows in found for row in rows]

    async def epochs(self, group: str) -> dict[int, int]:
        """Return the epoch of each of a group's lanes. Does not wait for an owner that holds the row."""
        rows = await self.fetch("select partition, epoch from lanes where consumer_group = $1", group)
        return {row["partition"]: row["epoch"] for row in rows}

    async def stored(self, but: int | None = None) -> dict[tuple[str, int], int]:
        """Return how far each lane's outcomes are stored; without those on one server, by its number from 1 on."""
        query = "select consumer_group, partition, coalesce(next_offset, 0) as at from lanes"
        rows = await self.fetch(query, but=but)
        return {(row["consumer_group"], row["partition"]): row["at"] for row in rows}

    async def stored_by(self, group: str) -> dict[int, int]:
        """Return how far the outcomes of each of a group's lanes are stored."""
        return {partition: at for (name, partition), at in (await self.stored()).items() if name == group}

    async def succeed(self, group: str) -> None:
        """Raise the epochs of a group's lanes, as newer owners would. One whose owner is at work is passed over."""
        await self.fetch(
            "update lanes as l set epoch = l.epoch + 1, owner_epoch = l.owner_epoch + 1 from"
            " (select partition from lanes where consumer_group = $1 for update skip locked) as free"
            " where l.consumer_group = $1 and l.partition = free.partition",
            group,
        )

    async def disconnect(self, application: str) -> int:
        """End a process's connections from the server's side; return how many there were."""
        rows = await self.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1", application
        )
        return len(rows)
