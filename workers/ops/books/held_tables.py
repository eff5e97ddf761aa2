"""Leaves out rows that another server has the current ones of: copies for a move that is under way, or was done."""

from typing import Final

from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.shards import has_one_server, read_holdings

__all__ = ["held_tables", "read_held_tables"]

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


async def read_held_tables(connection: Connection, settings: Settings) -> str:
    """Return `held_tables` of a server in the caller's snapshot; nothing is asked where one server holds the books."""
    return "" if has_one_server(settings) else await held_tables(connection, (await read_holdings(connection)).foreign)


async def held_tables(connection: Connection, foreign: list[int]) -> str:
    """Return a WITH clause whose queries stand for the tables of their names, without copies; empty: there are none.

    Args:
        connection: in the snapshot that is read.
        foreign: the numbers that another server holds.

    """
    rows = await connection.fetch(_COPIED, foreign, timeout=_SECONDS) if foreign else []
    return _HELD.format(numbers=", ".join(str(row["partition"]) for row in rows)) if rows else ""
