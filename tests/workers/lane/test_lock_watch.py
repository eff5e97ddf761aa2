"""Whom a worker blames while a lane makes no progress."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from infra.lock_holder import LockHolder
from infra.settings import load_settings
from workers.lane import lock_watch, server_checks
from workers.lane.lock_watch import LockWatch
from workers.telemetry.health import Health

ROWS = LockHolder(8, "ada", "psql", state="active", seconds=60.0, rows_of=("accounts",))
TABLE = LockHolder(7, "ada", "psql", state="active", seconds=60.0, tables=("accounts",))
LOCKED = asyncpg.LockNotAvailableError("canceling statement due to lock timeout")
AWAY = KafkaConnectionError("away")


@pytest.mark.parametrize(
    ("error", "holders", "blamed"),
    [
        (AWAY, [ROWS], None),
        (AWAY, [TABLE, ROWS], 7),
        (LOCKED, [ROWS], 8),
        (LOCKED, [TABLE, ROWS], 7),
        (LOCKED, [], None),
    ],
)
async def test_rows_that_somebody_holds_explain_only_an_error_of_a_lock(
    error: Exception, holders: list[LockHolder], blamed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that Kafka keeps is not Postgres' trouble, whatever transaction lasts there meanwhile."""

    async def ask(_: object) -> list[LockHolder]:
        return holders

    monkeypatch.setattr(lock_watch, "ask_lock_holders", ask)
    health = Health(60.0)
    health.lane(TopicPartition("t", 0)).fails(error)

    told = await LockWatch(load_settings(), "g", health).trouble()

    assert (told is None) is (blamed is None)
    assert f"pid {blamed} " in (told or "pid None ")


async def test_who_holds_locks_is_not_asked_of_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question would take a connection of its own as long as the check of the pool."""
    seen: dict[str, str | None] = {}
    done = asyncio.Event()

    async def away(_: object) -> tuple[str, None]:
        return "away", None

    async def ask(_: object) -> None:
        pytest.fail("asked")

    def serves(server: str, error: str | None) -> None:
        seen[server] = error
        done.set()

    monkeypatch.setattr(server_checks, "_SERVERS_SECONDS", 0.0)
    monkeypatch.setattr(server_checks, "_postgres", away)
    monkeypatch.setattr(LockWatch, "trouble", ask)
    assignor = SimpleNamespace(shard=SimpleNamespace(is_alone=True), has_news=False)
    clients = SimpleNamespace(
        health=SimpleNamespace(serves=serves, is_locked=lambda _: None), pool=None, assignor=assignor
    )
    job = SimpleNamespace(group="g")
    watching = asyncio.create_task(
        server_checks.watch_servers(cast("Any", job), load_settings(), cast("Any", clients), lambda _: None)
    )
    watching.add_done_callback(lambda _: done.set())
    await asyncio.wait_for(done.wait(), 5)
    watching.cancel()

    assert seen == {"Postgres": "away"}
