"""A move that is killed anywhere leaves no two holders, and the same command brings it to the same end."""

import asyncio
import os
from collections.abc import Callable
from itertools import count
from typing import Any

import asyncpg
import pytest

from infra.clock import utc_now
from infra.settings import Settings
from tests.whole import ALL
from tests.workers.ops.shards.servers import Servers, content_of, move, shards_of
from workers.ops.books.audit import audit
from workers.ops.shards import servers as sessions
from workers.ops.shards.move import MoveReport, MoveStep

_CALLS = ("execute", "fetch", "fetchrow", "fetchval", "copy_from_query", "copy_to_table")
_WRITES = ("COMMIT", "insert", "update")
_EVERYWHERE = os.environ.get("SHARD_KILLS") == "all"  # at each call, and not only after those whose effect stays
_STRIDE = 1 if ALL or _EVERYWHERE else 3
_FIRST = 1 + utc_now().toordinal() % _STRIDE  # another third each day
_POINTS = 17  # commits and writes of a move


class KilledError(Exception):
    """The process is killed here."""


class Killer:
    """Counts calls of the servers by sessions that move, and kills at one of them."""

    def __init__(self, connect: Callable[..., Any]) -> None:
        self._connect = connect
        self.at = self.count = 0  # 0: nowhere

    async def connect(self, settings: Settings, *, patient: bool = False) -> Any:
        """Connect as the code does."""
        connection = await self._connect(settings, patient=patient)
        if patient:  # a session that moves, and not one that looks
            for name in _CALLS:
                setattr(connection, name, self._counted(connection, getattr(connection, name)))
        return connection

    def _counted(self, connection: Any, call: Any) -> Any:
        async def counted(*arguments: Any, **options: Any) -> Any:
            if _EVERYWHERE and str(arguments[0]).startswith("COMMIT"):  # which is lost
                self._pass(connection)
            done = await call(*arguments, **options)
            if _EVERYWHERE or (not connection.is_in_transaction() and str(arguments[0]).strip().startswith(_WRITES)):
                self._pass(connection)
            return done

        return counted

    def _pass(self, connection: Any) -> None:
        if connection.is_closed():
            return
        self.count += 1
        if self.count == self.at:
            connection.terminate()
            raise KilledError

    def begin(self, at: int) -> None:
        """Begin to count, and kill at a call."""
        self.at, self.count = at, 0


async def _kill(servers: Servers, killer: Killer, at: int, to: str) -> bool:
    """Move a number until it is killed; tell whether it was."""
    killer.begin(at)
    try:
        await move(servers, [1], to)
    except (KilledError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError):
        return True
    finally:
        killer.at = 0
    return False


async def test_a_move_that_is_killed_goes_on(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after each commit, or each third, there and back: one holder or none, then all of it where it goes."""
    killer = Killer(sessions.connect_database)
    monkeypatch.setattr(sessions, "connect_database", killer.connect)
    whole = await content_of(servers.first, 1) | {"lanes": []}
    holders, ends = [], []
    source, target = servers.first, servers.second
    for at in count(_FIRST, _STRIDE):
        to = str(int(target is servers.second))
        if not await _kill(servers, killer, at, to):
            break
        holders.append(sum(shard.holds(1) for shard in await shards_of(servers)))
        await move(servers, [1], to)
        there = await content_of(target, 1)
        ends.append((there | {"lanes": []}, len(there["lanes"]), any((await content_of(source, 1)).values())))
        source, target = target, source

    points = killer.count  # of the move that nothing killed
    assert points > _POINTS if _EVERYWHERE else points == _POINTS
    assert len(ends) == len(range(_FIRST, points + 1, _STRIDE))
    assert {0, 1} == set(holders)
    assert all(end == (whole, 3, False) for end in ends)
    for settings in (source, target):
        found = await audit(settings)
        assert found.totals.balanced
        assert [] == list(found.failures())


@pytest.mark.parametrize("within", [MoveStep.COPY_AHEAD, MoveStep.COPY])
async def test_a_move_that_is_killed_within_a_copy_goes_on(servers: Servers, within: MoveStep) -> None:
    """What was copied is gone with its transaction; the lanes go on where they had not stopped."""
    whole = await content_of(servers.first, 1) | {"lanes": []}
    steps: list[MoveStep] = []

    def die(done: int, total: int) -> None:
        if steps[-1] is within and done > total // 2:
            raise KilledError

    with pytest.raises(KilledError):
        await move(servers, [1], "1", MoveReport(step=lambda _, step: steps.append(step), rows=die))
    holds = [shard.holds(1) for shard in await shards_of(servers)]
    copied = any((await content_of(servers.second, 1)).values())
    await asyncio.wait_for(move(servers, [1], "1"), 30)

    ahead = within is MoveStep.COPY_AHEAD
    assert holds == [ahead, False]
    assert copied is not ahead
    assert whole == await content_of(servers.second, 1) | {"lanes": []}
