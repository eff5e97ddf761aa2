"""Who keeps the ledger waiting in Postgres is named: on the real server, with real locks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from infra import postgres, postgres_statements
from infra.lock_holder import LockHolder
from infra.postgres import Connection, connect_database
from infra.postgres_locks import LockedError, LockMemory, ask_lock_holders, find_holders, read_lock_holders
from infra.settings import Settings, SettingsError
from tests.workers.wire import eventually
from workers.commands.running import _ask
from workers.ops.books.balance import read_balance

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
EXCLUSIVE = "lock table accounts in access exclusive mode"


@asynccontextmanager
async def session(settings: Settings, *statements: str, application: str = "psql") -> AsyncIterator[Any]:
    """Open a session of somebody else, in a transaction that has done so much."""
    connection = await asyncpg.connect(
        settings.database_url.get_secret_value(), server_settings={"application_name": application}
    )
    try:
        await connection.execute("begin")
        for statement in statements:
            await connection.execute(statement)
        yield connection
    finally:
        connection.terminate()


async def _named(read: Callable[[], Awaitable[list[LockHolder]]]) -> LockHolder:
    """Return the one holder, once it is told."""
    found: list[LockHolder] = []

    async def told() -> bool:
        found[:] = await read()
        return bool(found)

    await eventually(told, "a holder of a lock")
    (holder,) = found
    return holder


async def test_whoever_locks_a_table_is_named_also_while_nobody_waits(settings: Settings) -> None:
    """With pid, user, application, state, since when, what is locked and how to end it."""
    async with session(settings, EXCLUSIVE) as locked:
        pid, user = locked.get_server_pid(), await locked.fetchval("select current_user")
        holder = await _named(lambda: ask_lock_holders(settings))

    assert (pid, user, "psql", "idle in transaction", ("accounts",)) == (
        holder.pid,
        holder.user,
        holder.application,
        holder.state,
        holder.tables,
    )
    assert holder.blocks
    assert f"pid {pid} (user {user}, psql" in holder.text
    assert "idle in transaction since " in holder.text
    assert "holds a lock on accounts" in holder.text
    assert f"pg_terminate_backend({pid})" in holder.do
    assert [] == await ask_lock_holders(settings)


async def test_nobody_is_named_where_no_session_can_be_had(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler or an old server between is told by whatever else connects: who asks here explains another error."""

    async def refuse(*_: object) -> None:
        raise SettingsError("a pooler stands between")

    monkeypatch.setattr(postgres, "prepare_session", refuse)
    with pytest.raises(SettingsError):
        await connect_database(settings)
    assert [] == await ask_lock_holders(settings)


async def test_a_session_that_waits_for_a_row_names_who_is_idle_in_a_transaction(
    settings: Settings, database: Connection
) -> None:
    """Who waits behind another waiting session has the head of the queue as its cause."""
    await database.execute("insert into accounts (account_id, partition) values ('a', 0)")
    one = "select from accounts where account_id = 'a' for update"
    async with session(settings, one) as idle, session(settings) as queued:
        queue = asyncio.create_task(queued.execute(one))
        ours = await connect_database(settings, patient=True)
        waiting = asyncio.create_task(ours.execute(one))
        holder = await _named(lambda: read_lock_holders(database))
        assert (idle.get_server_pid(), ("accounts",), 1, True) == (
            holder.pid,
            holder.rows_of,
            holder.waiting,
            holder.blocks,
        )
        assert "holds rows of accounts: 1 session of the ledger waits, for " in holder.text
        await idle.execute("rollback")
        await queue
        await queued.execute("rollback")
        await waiting
        await ours.close()


async def test_what_is_hidden_is_told_to_be_hidden(settings: Settings, database: Connection) -> None:
    """Without the right to see other users' sessions: pid, user and application, and what has to be granted."""
    async with session(settings, EXCLUSIVE) as locked:
        await database.execute("set role inmail_worker")
        holder, pid = await _named(lambda: read_lock_holders(database)), locked.get_server_pid()

    assert (pid, "psql", None, None) == (holder.pid, holder.application, holder.state, holder.since)
    assert "`grant pg_read_all_stats to inmail_worker` shows it" in holder.text


async def test_a_command_that_meets_a_lock_names_its_holder(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for half a minute, and does not say that the server is away."""
    monkeypatch.setattr(postgres, "_LOCK_SECONDS", 1)
    async with session(settings, EXCLUSIVE) as locked:
        with pytest.raises(
            LockedError, match=rf"^pid {locked.get_server_pid()} \(user .*, psql.*holds a lock on accou"
        ):
            async with asyncio.timeout(5):
                await _ask(lambda given: read_balance(given, "a"), settings)


def row(pid: int, **known: Any) -> dict[str, Any]:
    """Return a session as the question returns it."""
    facts = {"user_name": "u", "application": "psql", "client": None, "backend": "client backend", "state": "active"}
    times = {"xact_start": NOW - timedelta(minutes=1), "state_change": NOW - timedelta(minutes=1), "waits_since": None}
    return facts | times | {"pid": pid, "now": NOW, "reader": "me", "blocked_by": [], "tables": [], "rows": []} | known


WAITS = {"application": "inmail", "waits_since": NOW - timedelta(seconds=3)}


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [
        ([row(1, tables=["lots"], xact_start=NOW)], []),  # a statement of a migration
        ([row(1, rows=["lots"])], [(1, 0)]),
        ([row(1, rows=["lots"], xact_start=NOW)], []),
        ([row(1, rows=["lots"], application="inmail")], []),  # it works
        ([row(1, rows=["lots"], application="inmail", state="idle in transaction")], [(1, 0)]),
        ([row(1, rows=["lots"], state="idle in transaction")], [(1, 0)]),
        ([row(1, rows=["lots"], application="inmail", state="idle in transaction", state_change=NOW)], []),
        ([row(1, tables=["lots"], backend="autovacuum worker")], []),
        ([row(1), row(2, **WAITS, blocked_by=[1])], [(1, 1)]),
        ([row(1), row(2, **WAITS | {"waits_since": NOW}, blocked_by=[1])], []),
        ([row(1), row(2, **WAITS | {"application": "psql"}, blocked_by=[1])], []),  # not ours
        ([row(1, application="inmail"), row(2, **WAITS, blocked_by=[1])], []),  # our workers wait for one another
        (  # but not for as long: an audit, a migration, a worker
            [
                row(1, application="inmail audit"),
                row(2, application="inmail migrate", blocked_by=[1], waits_since=NOW - timedelta(seconds=55)),
                row(3, **WAITS, blocked_by=[2]),
            ],
            [(1, 2)],
        ),
        ([row(1, application="inmail", state="idle in transaction"), row(2, **WAITS, blocked_by=[1])], [(1, 1)]),
        ([row(2, **WAITS, blocked_by=[0])], [(0, 1)]),  # a prepared transaction
        ([row(2, **WAITS, blocked_by=[9])], [(9, 1)]),  # of another database, or just gone
        ([row(1), row(2, blocked_by=[1], tables=["lots"]), row(3, **WAITS, blocked_by=[2, 1])], [(1, 1)]),
        ([row(1, blocked_by=[2], **WAITS), row(2, blocked_by=[1], **WAITS)], []),  # a deadlock, which Postgres ends
    ],
)
def test_holders_are_told_from_sessions(sessions: list[dict[str, Any]], expected: list[tuple[int, int]]) -> None:
    """Each with how many sessions of ours wait for it."""
    assert expected == [(each.pid, each.waiting) for each in find_holders(sessions)]
    assert all(each.text and each.do for each in find_holders(sessions))


def test_who_was_waited_for_stays_the_first_between_two_tries() -> None:
    """Workers give up after 2 s and try again: meanwhile a transaction that lasts longer is no likelier cause."""
    cause, bystander = row(1, rows=["lots"]), row(2, rows=["lots"], xact_start=NOW - timedelta(hours=1))
    memory = LockMemory(lambda: 0.0)

    waited = memory.recall(find_holders([cause, bystander, row(3, **WAITS, blocked_by=[1])]))
    between = memory.recall(find_holders([cause, bystander]))

    assert [(1, 1), (2, 0)] == [(each.pid, each.waiting) for each in waited]
    assert [(1, 1), (2, 0)] == [(each.pid, each.waiting) for each in between]


def test_the_ledger_waits_from_the_first_try_on() -> None:
    """Each session gives up after 2 s and begins anew: its own wait would be told as "for 1 s", for hours."""
    seconds = [0.0]
    memory = LockMemory(lambda: seconds[0])
    told = []
    for seconds[0] in (0.0, 14.0, 15.0):
        waits = [] if seconds[0] == 15.0 else [row(3, **WAITS, blocked_by=[1])]
        told += memory.recall(find_holders([row(1, rows=["lots"]), *waits]))

    assert [3, 17, 18] == [round(each.waiting_seconds) for each in told]


async def test_a_statement_of_the_ledger_that_takes_postgres_long_is_told(
    settings: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its pid, for how long it has run and what it waits for; a stranger's is not ours to tell."""
    monkeypatch.setattr(postgres_statements, "_SECONDS", 0.2)
    held = "lock table accounts in row exclusive mode"  # as a batch does: also the stranger's is in the question
    memory = LockMemory(clock=iter(range(1000)).__next__)
    found: list[str | None] = []

    async def told() -> bool:
        await memory.read(database)
        found[:] = [memory.statement]
        return memory.statement is not None

    async with session(settings, held) as stranger, session(settings, held, application="inmail") as worker:
        sleeping = [asyncio.create_task(each.execute("select pg_sleep(60)")) for each in (stranger, worker)]
        await eventually(told, "the statement")
        pid = worker.get_server_pid()
    await asyncio.gather(*sleeping, return_exceptions=True)

    assert f"s (pid {pid}, waits for Timeout PgSleep)" in str(found[0])
    assert "a statement of the ledger has run in Postgres for " in str(found[0])
