"""Books made in bulk are the books that the ledger's own functions write."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from infra.postgres import connect_database
from infra.settings import Settings
from tests.growth.history import Story, make_books
from tests.growth.slow import play
from workers.ops.books.audit import audit_books

_STORY = Story(datetime(2025, 1, 1, tzinfo=UTC), accounts=61, partitions=4, step_lots=5)
_TABLES = ("accounts", "lots", "journal", "ticks", "lanes", "partitioning")


@pytest.mark.whole
async def test_books_made_in_bulk_are_what_the_ledger_writes(
    other_books: Callable[[], Awaitable[Settings]],
) -> None:
    """Every row of every table, account numbers and places of ticks included; and the audit passes."""
    tables = []
    for make in ("bulk", "slow"):
        connection = await connect_database(await other_books())
        if make == "bulk":
            await make_books(connection, _STORY, lambda _: None)
        else:
            await play(connection, _STORY)
        found = {}
        for table in _TABLES:
            rows = await connection.fetch(f"select to_jsonb(x)::text from {table} as x order by 1")  # noqa: S608
            found[table] = [row[0] for row in rows]
        tables.append(found)
        passed = (await audit_books(connection)).passed
        await connection.close()
        assert passed
    bulk, slow = tables
    assert len(slow["journal"]) == _STORY.accounts * 41
    assert {table: rows for table, rows in bulk.items() if rows != slow[table]} == {}
