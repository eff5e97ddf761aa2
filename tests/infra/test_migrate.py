"""A migration lets bookings go on while it waits for whoever reads its tables, and finds an index built before it."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from infra.migrate import MIGRATIONS, migrate
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from tests.workers.wire import eventually
from workers.ledger.store import FUNCTIONS

_BOOKING = "update lanes set next_offset = next_offset where partition = 0"
_INDEXES = "0024_open_lots.sql"
_BUILT = "select indexrelid, indisvalid from pg_index where indexrelid = any($1::text[]::regclass[])"
_FINISH = "update pg_index set indisvalid = $2 where indexrelid = any($1::text[]::regclass[])"
_BOOKINGS = 80  # in 4 s: more than a booking waits, and than a second try of the migration takes


async def _book(settings: Settings, stop: asyncio.Event, done: list[bool]) -> None:
    """Book as workers do, whose sessions wait for 2 s; tell of each whether it was done."""
    connection = await connect_database(settings)
    await connection.execute("set lock_timeout = '2s'")
    while not stop.is_set():
        try:
            await connection.execute(_BOOKING)
            done.append(True)
        except asyncpg.LockNotAvailableError:
            done.append(False)
        await asyncio.sleep(0.05)
    await connection.close()


async def test_bookings_go_on_while_a_migration_waits_for_a_long_reader(
    settings: Settings, database: Connection, tmp_path: Path
) -> None:
    """Whoever wants a whole table keeps all others waiting behind: as long as an audit or a backup reads."""
    for each in MIGRATIONS.glob("*.sql"):
        (tmp_path / each.name).write_text(each.read_text())
    (tmp_path / "9999_more.sql").write_text("alter table lanes add column more integer")
    reader, migrating = await connect_database(settings), await connect_database(settings, patient=True)
    told: list[str] = []
    done: list[bool] = []
    stop = asyncio.Event()

    async def booked() -> bool:
        return len(done) > _BOOKINGS or not all(done)

    reading = reader.transaction()
    await reading.start()
    await reader.fetch("select from lanes")

    migration = asyncio.create_task(migrate(migrating, [FUNCTIONS], tmp_path, tell=told.append))
    bookings = asyncio.create_task(_book(settings, stop, done))
    await eventually(booked, "bookings")
    waits = not migration.done()
    stop.set()
    await bookings
    await reading.rollback()
    migrated = await asyncio.wait_for(migration, 20)

    assert waits
    assert all(done)
    assert f"pid {reader.get_server_pid()} (" in told[0]
    assert ("9999_more.sql",) == migrated.applied
    await database.execute("alter table lanes drop column more; delete from migrations where name = '9999_more.sql'")
    for each in (reader, migrating):
        await each.close()


@pytest.mark.parametrize("finished", [True, False])
async def test_indexes_that_were_built_before_their_migration_are_kept_if_they_were_finished(
    database: Connection, *, finished: bool
) -> None:
    """As operators of large books build them, beside the bookings. What a session that died has left serves nobody."""
    statements = (MIGRATIONS / _INDEXES).read_text().rpartition("$$;")[2].split(";")[:-1]
    await database.execute("drop index lots_open, lots_by_end_of_period")
    await database.execute("delete from migrations where name = $1", _INDEXES)
    for statement in statements:
        await database.execute(statement.replace("index if not exists", "index concurrently"))
    names = ["lots_open", "lots_by_end_of_period"]
    await database.execute(_FINISH, names, finished)
    before = dict(await database.fetch(_BUILT, names))

    migrated = await migrate(database, [FUNCTIONS])

    after = dict(await database.fetch(_BUILT, names))
    assert (_INDEXES,) == migrated.applied
    assert [True, True] == list(after.values())
    assert (2 if finished else 0) == len(before.keys() & after.keys())
