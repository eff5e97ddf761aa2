"""The tables of the ledger by what a move does with them. A test knows no table that is not here."""

from typing import Final

from infra.postgres import Connection

__all__ = ["APPENDED", "DROPPED", "MOVED", "STAYING", "columns_of", "delete_of", "rows_of"]

_BY_ACCOUNT: Final = "t.account in (select a.account from accounts as a where a.partition = {number})"
_BY_PARTITION: Final = "t.partition = {number}"

# Which rows of each table belong to a number, in an order in which their foreign keys hold.
MOVED: Final = {
    "accounts": _BY_PARTITION,
    "subscriptions": _BY_ACCOUNT,
    "lots": _BY_ACCOUNT,
    "earlier_rows": _BY_ACCOUNT,
    "original_ids": _BY_ACCOUNT,
    "journal": _BY_ACCOUNT,
    "ticks": _BY_PARTITION,
    "lanes": _BY_PARTITION,
    "decided_ahead": _BY_PARTITION,
    "clock_decisions": _BY_PARTITION,
    "clock_set_backs": _BY_PARTITION,
    "misplaced_records": _BY_PARTITION,
    "ended_topics": _BY_PARTITION,
}
# Of these, rows are added and never change.
APPENDED: Final = ("original_ids", "journal")
# What the next audit reads: a mark of other accounts than there are would be wrong, and the next audit is a whole one.
DROPPED: Final = ("audits", "audited_accounts")
# Those of a server, or of operators: `operations` that `clock_decisions` name are copied beside.
STAYING: Final = ("migrations", "partitioning", "shard", "shard_numbers", "operations", "redriven")

_COLUMNS: Final = """
select attname from pg_attribute
where attrelid = to_regclass($1) and attnum > 0 and not attisdropped and attgenerated = '' order by attnum
"""


async def columns_of(connection: Connection, table: str) -> list[str]:
    """Return the columns of a table that have to be copied: those that are not computed from others."""
    return [row["attname"] for row in await connection.fetch(_COLUMNS, table)]


def rows_of(table: str, columns: list[str], number: int) -> str:
    """Return a query for the rows of a table that belong to a number."""
    names = ", ".join(f't."{column}"' for column in columns)
    return f"select {names} from {table} as t where {MOVED[table].format(number=int(number))}"  # noqa: S608 - our own


def delete_of(table: str, number: int) -> str:
    """Return a statement that deletes the rows of a table that belong to a number."""
    return f"delete from {table} as t where {MOVED[table].format(number=int(number))}"  # noqa: S608 - our own
