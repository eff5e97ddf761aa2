"""Deletes the rows of a number from a server that does not hold it, in small steps."""

from collections.abc import Callable
from typing import Final

from infra.postgres import Connection
from workers.ops.operations import RefusedError
from workers.ops.shards.tables import DROPPED, MOVED

__all__ = ["purge_rows"]

_ACCOUNTS: Final = 200  # whose rows one transaction deletes
_COUNT: Final = "select count(*) from accounts where partition = $1"
_NEXT: Final = "select account from accounts where partition = $1 and account > $2 order by account limit $3"
# Locked until the end of the transaction: a move back to here cannot begin within.
_STATE: Final = "select state from shard_numbers where number = $1 for share"
_FOREIGN: Final = ("left", "arriving")
_OF_ACCOUNTS: Final = [table for table in reversed(MOVED) if "a.partition" in MOVED[table]] + ["accounts"]
_OF_PARTITION: Final = [table for table in reversed(MOVED) if table not in _OF_ACCOUNTS]


async def purge_rows(
    connection: Connection, number: int, progress: Callable[[int, int], None] = lambda _, __: None
) -> int:
    """Delete the rows of a number that is held elsewhere; return of how many accounts.

    Each transaction deletes whole accounts, so that what is left balances whenever this ends. What is of the number and
    of no account goes before them: an audit leaves a number out by the accounts that are there of it. The mark of an
    audit, which would be of other accounts, is dropped once, first: none is set while the session has audits' lock.

    Args:
        connection: to the server.
        number: the partition number.
        progress: called with the rows of how many accounts were deleted, and of how many.

    Raises:
        RefusedError: when the server holds the number, or a move from here is under way.
        OSError, asyncpg.PostgresError: when the server fails.

    """
    async with connection.transaction():
        await _check_foreign(connection, number)
        for table in DROPPED:
            await connection.execute(f"delete from {table}")  # noqa: S608 - our own names
    async with connection.transaction():
        await _check_foreign(connection, number)
        for table in _OF_PARTITION:
            await connection.execute(f"delete from {table} where partition = $1", number)  # noqa: S608
    last, count, total = -1, 0, await connection.fetchval(_COUNT, number)
    while accounts := [row["account"] for row in await connection.fetch(_NEXT, number, last, _ACCOUNTS)]:
        async with connection.transaction():
            await _check_foreign(connection, number)
            for table in _OF_ACCOUNTS:
                await connection.execute(f"delete from {table} where account = any($1)", accounts)  # noqa: S608
        last, count = accounts[-1], count + len(accounts)
        progress(count, max(count, total))
    return count


async def _check_foreign(connection: Connection, number: int) -> None:
    """Check that the number is held elsewhere, until the end of the transaction."""
    if (state := await connection.fetchval(_STATE, number)) not in _FOREIGN:
        raise RefusedError(f"number {number} is {state or 'held'} here: its rows are not deleted")
