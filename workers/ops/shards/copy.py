"""Copies the rows of a number from one server to another, and compares the two."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

from infra.postgres import Connection
from workers.ops.operations import RefusedError
from workers.ops.shards.tables import MOVED, columns_of, rows_of

__all__ = ["copy_rows"]

_CHUNKS: Final = 4  # of some 64 kB that one server has sent and the other has not taken yet
_CHECKSUM: Final = "select count(*), coalesce(sum(hashtextextended(x::text, 0)::numeric), 0)::text from ({}) as x"
_OPERATIONS: Final = (
    "select o.* from operations as o where o.operation in"
    " (select t.operation from clock_decisions as t where t.partition = $1)"
)
# An account's rows are 1 to its sequence, and what they say of each lot is what the lot has left.
_UNBALANCED: Final = """
select a.account_id
from accounts as a
cross join lateral (
    select count(*) as rows, coalesce(max(j.sequence), 0) as newest, coalesce(sum(j.amount), 0) as amount
    from journal as j where j.account = a.account
) as j
cross join lateral (
    select coalesce(sum(l.remaining), 0) as remaining from lots as l where l.account = a.account
) as l
where a.partition = $1 and (a.sequence <> j.newest or a.sequence <> j.rows or j.amount <> l.remaining)
limit 1
"""


class _Content(NamedTuple):
    """What a server has of a number in one table."""

    rows: int
    checksum: str  # of all rows, whatever their order


async def copy_rows(
    source: Connection, target: Connection, number: int, progress: Callable[[int, int], None]
) -> dict[str, int]:
    """Copy the rows of a number in one transaction, which ends well only where both servers have the same.

    Args:
        source: has the number, whose lanes nobody works.
        target: has nothing of the number.
        number: the partition number.
        progress: called with how many rows were copied, and of how many.

    Returns:
        The number of rows by table.

    Raises:
        RefusedError: when the two differ afterwards, or an account does not balance.
        OSError, asyncpg.PostgresError: when a server fails.

    """
    async with source.transaction(isolation="repeatable_read", readonly=True), target.transaction():
        for connection in (source, target):
            await connection.execute("set local work_mem = '64MB'")
        columns = {table: await columns_of(source, table) for table in MOVED}
        expected = {table: await _content(source, table, columns[table], number) for table in MOVED}
        copying = _Copying(source, target, number, progress, sum(each.rows for each in expected.values()))
        await copying.operations()
        for table in MOVED:
            if expected[table].rows:
                await copying.table(table, columns[table])
        await _compare(target, number, columns, expected)
    return {table: each.rows for table, each in expected.items()}


class _Copying:
    """Copies the rows of a number, through a few chunks of memory. Text is the same for every version of Postgres."""

    def __init__(
        self, source: Connection, target: Connection, number: int, progress: Callable[[int, int], None], total: int
    ) -> None:
        self._source, self._target, self._number = source, target, number
        self._progress, self._total, self._done = progress, total, 0

    async def table(self, table: str, columns: list[str]) -> None:
        """Copy the rows of one table."""
        chunks: asyncio.Queue[bytes] = asyncio.Queue(_CHUNKS)
        query = rows_of(table, columns, self._number)
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
                self._progress(self._done, self._total)
            else:
                chunk.cancel()

    async def operations(self) -> None:
        """Copy the operations that decisions about clocks name; a number that comes back finds its own."""
        for row in await self._source.fetch(_OPERATIONS, self._number):
            names = ", ".join(row.keys())
            places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
            await self._target.execute(
                f"insert into operations ({names}) overriding system value values ({places})"  # noqa: S608 - our names
                " on conflict (operation) do nothing",
                *row.values(),
            )


async def _content(connection: Connection, table: str, columns: list[str], number: int) -> _Content:
    row = await connection.fetchrow(_CHECKSUM.format(rows_of(table, columns, number)))
    assert row is not None  # noqa: S101 - an aggregate returns its row
    return _Content(*row)


async def _compare(
    target: Connection, number: int, columns: dict[str, list[str]], expected: dict[str, _Content]
) -> None:
    for table in MOVED:
        found = await _content(target, table, columns[table], number)
        if found != expected[table]:
            raise RefusedError(
                f"number {number} differs in {table} after copying: {found.rows:,} rows instead of"
                f" {expected[table].rows:,}, or other ones. Nothing was moved; run the same command again, and if it"
                " differs again, take the number back with --to its server"
            )
    if (account := await target.fetchval(_UNBALANCED, number)) is not None:
        raise RefusedError(
            f"account {account} of number {number} does not balance on the server that it comes from: see `inmail"
            " audit`. Nothing was moved; take the number back with --to its server, and correct the account first"
        )
