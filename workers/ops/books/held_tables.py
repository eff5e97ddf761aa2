"""Leaves out rows that another server has the current ones of: copies for a move that is under way, or was done."""

from typing import Final, NamedTuple

from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.shards import ONE_SERVER, Holdings, has_one_server, read_holdings

__all__ = ["ALL_TABLES", "HeldTables", "held_tables", "read_held_tables"]

# Not all accounts that there are: a row without an account is a finding, and stays.
_HELD: Final = """
with copies as materialized (select x.account from accounts as x where x.partition = any(array[{numbers}])),
journal as not materialized (
    select x.* from journal as x where not exists (select from copies as c where c.account = x.account)
),
lots as not materialized (
    select x.* from lots as x where not exists (select from copies as c where c.account = x.account)
),
subscriptions as not materialized (
    select x.* from subscriptions as x where not exists (select from copies as c where c.account = x.account)
),
ticks as not materialized (select x.* from ticks as x where not x.partition = any(array[{numbers}])),
lanes as not materialized (select x.* from lanes as x where not x.partition = any(array[{numbers}])),
accounts as not materialized (select x.* from accounts as x where not x.partition = any(array[{numbers}]))
"""
_COPIED: Final = "select distinct partition from accounts where partition = any($1::integer[]) order by 1"
_SECONDS: Final = 3600.0  # there is no index by number


class HeldTables(NamedTuple):
    """What counts of a server's tables, as of one snapshot."""

    sql: str = ""  # of `held_tables`
    holdings: Holdings = ONE_SERVER


ALL_TABLES: Final = HeldTables()


async def read_held_tables(connection: Connection, settings: Settings) -> HeldTables:
    """Return what counts of a server in the caller's snapshot; nothing is asked where one server holds the books."""
    if has_one_server(settings):
        return ALL_TABLES
    holdings = await read_holdings(connection)
    return HeldTables(await held_tables(connection, holdings.foreign), holdings)


async def held_tables(connection: Connection, foreign: list[int]) -> str:
    """Return a WITH clause whose queries stand for the tables of their names, without copies; empty: there are none.

    Args:
        connection: in the snapshot that is read.
        foreign: the numbers that another server holds.

    """
    rows = await connection.fetch(_COPIED, foreign, timeout=_SECONDS) if foreign else []
    return _HELD.format(numbers=", ".join(str(row["partition"]) for row in rows)) if rows else ""
