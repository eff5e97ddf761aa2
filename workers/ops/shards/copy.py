"""Copies what another server has not of a number yet, and compares the two.

The first time that is everything, read in one snapshot while the number is still worked. The second time, when its
lanes have stopped, rows that never change are read only from where the copy ended: so the pause does not grow with the
journal. What can change is replaced.
"""

from collections.abc import Callable, Mapping
from typing import Final

from infra.postgres import Connection
from workers.ops.operations import RefusedError
from workers.ops.shards.tables import APPENDED, MOVED, columns_of, delete_of, rows_of
from workers.ops.shards.transfer import Content, Transfer, content_of

__all__ = ["copy_rows"]

_OPERATIONS: Final = (
    "select o.* from operations as o where o.operation in"
    " (select t.operation from clock_decisions as t where t.partition = $1)"
)
# Up to which row each account was copied before, and what its lots had left then. Both servers get it: what is newer is
# the same question to both.
_COPIED: Final = """
create temp table if not exists copied (
    account bigint primary key, sequence bigint not null, remaining bigint not null
);
truncate copied;
"""
_FILL: Final = """
insert into copied
select
    a.account, a.sequence,
    (select coalesce(sum(l.remaining), 0) from lots as l where l.account = a.account)
from accounts as a
where a.partition = $1
"""
# An account is looked up by its key, however wrong the statistics are: few have changed.
_NEWER: Final = """
select {columns}
from accounts as a
left join copied as c on c.account = a.account
cross join lateral (
    select x.* from journal as x where x.account = a.account and x.sequence > coalesce(c.sequence, 0) offset 0
) as j
{join}
where a.partition = {number} and a.sequence > coalesce(c.sequence, 0)
"""
# An original id is written with an answer: the first one to its request, or a later one where others came by the id
# that is derived from it. So of each request with a new answer; nothing else of a history is read.
_ORIGINAL: Final = """
cross join lateral (
    select x.* from original_ids as x
    where j.is_answer and x.request_id = j.request_id and x.account = j.account
    offset 0
) as o
"""
# Some of these the other server has since before.
_STAGED: Final = "create temp table staged_original_ids (like original_ids) on commit drop"
_KEEP_STAGED: Final = "insert into original_ids ({0}) select {0} from staged_original_ids on conflict do nothing"
# An account's rows are 1 to its sequence, and what they say of each lot is what the lot has left: of all rows the first
# time, and then of those since.
_UNBALANCED: Final = """
select a.account_id
from accounts as a
left join copied as c on c.account = a.account
cross join lateral (
    select count(*) as rows, coalesce(max(x.sequence), c.sequence, 0) as newest, coalesce(sum(x.amount), 0) as amount
    from (
        select y.sequence, y.amount from journal as y
        where y.account = a.account and y.sequence > coalesce(c.sequence, 0) offset 0
    ) as x
) as j
cross join lateral (
    select coalesce(sum(l.remaining), 0) as remaining from lots as l where l.account = a.account
) as l
where
    a.partition = $1 and (c.account is null or a.sequence > c.sequence)
    and (
        a.sequence <> j.newest or a.sequence - coalesce(c.sequence, 0) <> j.rows
        or coalesce(c.remaining, 0) + j.amount <> l.remaining
    )
limit 1
"""


async def copy_rows(source: Connection, target: Connection, number: int, progress: Callable[[int, int], None]) -> int:
    """Bring the rows of a number up to date in one transaction, which ends well only where both servers have the same.

    Args:
        source: has the number.
        target: has nothing of the number, or what an earlier call has copied.
        number: the partition number.
        progress: called with how many rows were copied, and of how many.

    Returns:
        The number of rows that were copied.

    Raises:
        RefusedError: when the two differ afterwards, or an account does not balance.
        OSError, asyncpg.PostgresError: when a server fails.

    """
    await _note_copied(source, target, number)
    async with source.transaction(isolation="repeatable_read", readonly=True), target.transaction():
        for connection in (source, target):
            await connection.execute("set local work_mem = '64MB'")
        is_new = not await target.fetchval("select exists (select from copied)")
        columns = {table: await columns_of(source, table) for table in MOVED}
        queries = {table: _query(table, columns[table], number, is_new=is_new) for table in MOVED}
        expected = {table: await content_of(source, query) for table, query in queries.items()}
        transfer = Transfer(source, target, progress)
        transfer.total = sum(each.rows for each in expected.values())
        for table in reversed(MOVED):
            if table not in APPENDED:  # a number without accounts has lanes all the same
                await target.execute(delete_of(table, number))
        await _copy_operations(source, target, number)
        for table, query in queries.items():
            if expected[table].rows and table == "original_ids" and not is_new:
                await target.execute(_STAGED)
                await transfer.rows("staged_original_ids", columns[table], query)
                await target.execute(_KEEP_STAGED.format(", ".join(columns[table])))
            elif expected[table].rows:
                await transfer.rows(table, columns[table], query)
        await _compare(target, number, queries, expected)
    return transfer.total


def _query(table: str, columns: list[str], number: int, *, is_new: bool) -> str:
    """Return the query for what has to be copied of a table: the same on both servers, before it and after it."""
    if is_new or table not in APPENDED:
        return rows_of(table, columns, number)
    place, join, first = ("j", "", "") if table == "journal" else ("o", _ORIGINAL, "distinct ")
    names = ", ".join(f'{place}."{column}"' for column in columns)
    return _NEWER.format(columns=first + names, join=join, number=int(number))


async def _note_copied(source: Connection, target: Connection, number: int) -> None:
    for connection in (source, target):
        await connection.execute(_COPIED)
    await target.execute(_FILL, number)
    columns = ["account", "sequence", "remaining"]
    await Transfer(target, source).rows("copied", columns, f"select {', '.join(columns)} from copied")  # noqa: S608
    for connection in (source, target):
        await connection.execute("analyze copied")


async def _copy_operations(source: Connection, target: Connection, number: int) -> None:
    """Copy the operations that decisions about clocks name; a number that comes back finds its own."""
    for row in await source.fetch(_OPERATIONS, number):
        names = ", ".join(row.keys())
        places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
        await target.execute(
            f"insert into operations ({names}) overriding system value values ({places})"  # noqa: S608 - our own names
            " on conflict (operation) do nothing",
            *row.values(),
        )


async def _compare(
    target: Connection, number: int, queries: Mapping[str, str], expected: Mapping[str, Content]
) -> None:
    for table, query in queries.items():
        found = await content_of(target, query)
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
