"""What Postgres may do to a worker: be read-only, out of connections or out of disk.

The lane holds its batch, says so, and goes on when the trouble ends.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from time import monotonic

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from infra.postgres import WORKER_ROLE, Connection
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from tests.workers.life import living, once_each
from tests.workers.wire import ends, publish, read, read_to_end, send
from workers.lane import server_checks

_numbers = count(1)


@pytest.fixture
async def limited(cluster: Settings, database: Connection) -> AsyncIterator[Settings]:
    """The cluster, with a user for the workers to whom a server's limits apply: to superusers they do not."""
    name = f"limited_{next(_numbers)}"
    await database.execute(f"create role {name} login; grant {WORKER_ROLE} to {name}")
    url = cluster.database_url.get_secret_value().replace("//postgres@", f"//{name}@")
    yield cluster.model_copy(update={"database_url": SecretStr(url)})
    await database.execute(f"drop role {name}")


async def _end_connections(database: Connection) -> None:
    """End those of others to this database: a setting of a database or user holds for new ones."""
    await database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )


async def _named(database: Connection, sql: str) -> None:
    row = await database.fetchrow(
        "select current_database() as db, max(rolname) as role from pg_roles where rolname like 'limited_%'"
    )
    assert row is not None
    await database.execute(sql.format(**dict(row)))


@asynccontextmanager
async def _read_only(database: Connection) -> AsyncIterator[None]:
    await _named(database, "alter database {db} set default_transaction_read_only = on")
    await _end_connections(database)
    yield
    await database.execute("set default_transaction_read_only = off")
    await _named(database, "alter database {db} reset default_transaction_read_only")
    await _end_connections(database)


@asynccontextmanager
async def _no_connection_left(database: Connection) -> AsyncIterator[None]:
    await _named(database, "alter role {role} connection limit 0")
    await _end_connections(database)
    yield
    await _named(database, "alter role {role} connection limit -1")


@asynccontextmanager
async def _disk_full(database: Connection) -> AsyncIterator[None]:
    """As Postgres says it: its own error, raised by a trigger, since no test may fill a disk."""
    await database.execute(
        "create function full_() returns trigger language plpgsql as $$ begin raise exception using"
        " errcode = 'disk_full', message = 'could not extend file: No space left on device'; end $$;"
        "create trigger full_ before insert on journal execute function full_()"
    )
    yield
    await database.execute("drop trigger full_ on journal; drop function full_")


pytestmark = pytest.mark.usefixtures("soon_over_it")

TROUBLES = {
    "in a read-only transaction": _read_only,
    "too many connections for role": _no_connection_left,
    "No space left on device": _disk_full,
}


@pytest.mark.parametrize("error", TROUBLES)
async def test_a_lane_holds_its_batch_while_the_database_takes_nothing(
    limited: Settings, database: Connection, account: str, error: str
) -> None:
    """It says why it is not ready, tries again without haste, and answers everything once when the trouble is over."""
    requests = [send(account) for _ in range(20)]
    start = await ends(limited, SEND_RESULTS)
    async with living(limited) as life:
        await life.ready()
        with capture_logs() as logs:
            began = monotonic()
            async with TROUBLES[error](database):
                await publish(limited, SEND_REQUESTS, requests)
                await life.not_ready(error)
                assert [] == await read_to_end(limited, start)
            answers = await read(limited, start, len(requests))
            seconds = monotonic() - began
        await life.ready()

    again = [log for log in logs if log["event"] in ("lane_begins_again", "lanes_begin_again")]
    assert once_each(requests, answers)
    assert 0 < len(again) <= 6 + 2 * seconds * limited.topic_partitions
    assert seconds < 20


async def test_an_idle_worker_says_that_its_database_has_become_read_only(
    limited: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe learns of it before a request does."""
    monkeypatch.setattr(server_checks, "_SERVERS_SECONDS", 0.3)
    async with living(limited) as life:
        await life.ready()
        async with _read_only(database):
            await life.not_ready("Postgres: it is read-only")
        await life.ready()
