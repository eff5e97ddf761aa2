"""Moves the rows of a query from one server to a table of another, and sums up what a query has."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

from infra.postgres import Connection

__all__ = ["Content", "Transfer", "content_of"]

_CHUNKS: Final = 4  # of some 64 kB that one server has sent and the other has not taken yet
_CHECKSUM: Final = "select count(*), coalesce(sum(hashtextextended(x::text, 0)::numeric), 0)::text from ({}) as x"


class Content(NamedTuple):
    """What a server has, in one table."""

    rows: int
    checksum: str  # of all rows, whatever their order


async def content_of(connection: Connection, query: str) -> Content:
    """Return the number of rows of a query and their checksum."""
    row = await connection.fetchrow(_CHECKSUM.format(query))
    assert row is not None  # noqa: S101 - an aggregate returns its row
    return Content(*row)


class Transfer:
    """Copies rows through a few chunks of memory. They go as text, which is the same for every version of Postgres."""

    def __init__(
        self, source: Connection, target: Connection, progress: Callable[[int, int], None] = lambda _, __: None
    ) -> None:
        self._source, self._target, self._progress = source, target, progress
        self.total = self._done = 0

    async def rows(self, table: str, columns: list[str], query: str) -> None:
        """Copy the rows of a query at the source to a table of the target."""
        chunks: asyncio.Queue[bytes] = asyncio.Queue(_CHUNKS)
        reading = asyncio.ensure_future(self._source.copy_from_query(query, output=chunks.put, format="text"))
        try:
            received = self._received(reading, chunks)
            await self._target.copy_to_table(table, source=received, columns=columns, format="text")
            await reading  # an error of it ended what was received
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _received(self, reading: asyncio.Future[str], chunks: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
        while not (reading.done() and chunks.empty()):
            chunk = asyncio.ensure_future(chunks.get())
            waits: list[asyncio.Future[Any]] = [chunk, reading]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if chunk.done():
                yield chunk.result()
                self._done += chunk.result().count(b"\n")  # a row ends with one, and has none in it
                self._progress(self._done, self.total)
            else:
                chunk.cancel()
