"""Books of so many rows on a stack: made in bulk, or those that an earlier run has left there."""

from datetime import UTC, datetime, timedelta

import asyncpg
from rich.console import Console

from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.postgres import Connection, connect_database
from infra.settings import Settings, load_settings
from tests.growth.history import QUARTERS, ROWS_EACH, Story, make_books
from workers.ledger.store import FUNCTIONS

__all__ = ["open_books", "part_journal"]


async def open_books(stack: LocalStack, rows: int, out: Console, parts: int = 0) -> tuple[Settings, Story]:
    """Return the settings of books with so many rows, and their story; make them where they are not there.

    With `parts` the journal is a table of so many native partitions.
    """
    base, _, _ = stack.database_url.rpartition("/")
    name = f"growth_{rows}_{parts}" if parts else f"growth_{rows}"
    admin = await asyncpg.connect(stack.database_url)
    there = await admin.fetchval("select count(*) from pg_database where datname = $1", name)
    if not there:
        await admin.execute(f"create database {name}")
        # The CPU of a statement is read of one backend.
        await admin.execute(f"alter database {name} set max_parallel_workers_per_gather = 0")
    await admin.close()
    settings = load_settings(kafka_bootstrap_servers="localhost:1", database_url=f"{base}/{name}", topic_partitions=12)
    connection = await connect_database(settings)
    await migrate(connection, [FUNCTIONS])
    if not there and parts:
        await part_journal(connection, parts)
    began = await connection.fetchval("select min(as_of) - interval '84 days' from ticks")
    if began is None:
        began = datetime.now(UTC).replace(microsecond=0) - timedelta(days=91 * QUARTERS + 1)
        await connection.execute("set maintenance_work_mem = '1GB'")
        story = Story(began, rows // ROWS_EACH, 12, 1_000)
        await make_books(connection, story, lambda line: out.print(f"{rows:,} rows: {line}", highlight=False))
    size = await connection.fetchval("select pg_database_size(current_database())")
    out.print(f"{rows:,} rows: {size / 1e9:.1f} GB, {size / rows:.0f} bytes a row", highlight=False)
    await connection.close()
    return settings, Story(began, rows // ROWS_EACH, 12, 1_000)


async def part_journal(connection: Connection, parts: int) -> None:
    """Make the journal of an empty database a table of so many native partitions, by a hash of the account."""
    await connection.execute("alter table journal rename to plain")
    await connection.execute("create table journal (like plain including all) partition by hash (account)")
    for part in range(parts):
        await connection.execute(
            f"create table journal_{part} partition of journal for values with (modulus {parts}, remainder {part})"
        )
    await connection.execute("drop table plain cascade")  # and the functions that return its rows
    await migrate(connection, [FUNCTIONS])
