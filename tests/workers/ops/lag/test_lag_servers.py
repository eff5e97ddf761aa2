"""Lag where several Postgres servers hold the books: whose rows count, and what is said of those that do not answer."""

from collections.abc import Awaitable, Callable

import pytest

from infra.postgres import Connection
from infra.settings import Settings
from tests.conftest import Connect
from tests.workers.two_servers import TwoServers, prepare_servers, set_state
from workers.jobs.send import SendJob
from workers.ops.lag import Status, observer
from workers.ops.lag.lanes import LaneWatcher, NoteKind
from workers.ops.lag.servers import ServersLaneWatcher, lane_watcher

_LANE = (
    "insert into lanes (consumer_group, topic, partition, epoch, next_offset) values"
    " ('inmail-send', 'inmail.send-requests', $1, 1, $2)"
)


@pytest.fixture
async def lanes(servers: TwoServers) -> TwoServers:
    """Two servers with a lane of each number on both; only the holder's row tells what was read, 10 and the number."""
    for number in range(4):
        await servers.first.execute(_LANE, number, 10 + number if number < 3 else 7)
        await servers.second.execute(_LANE, number, 10 + number if number == 3 else 7)
    return servers


async def _read(watcher: LaneWatcher | ServersLaneWatcher) -> dict[int, int]:
    """Return how far each number's lane has read."""
    try:
        return {key[1].partition: row.next_offset for key, row in sorted((await watcher.read()).items())}
    finally:
        await watcher.close()


async def test_a_lane_is_told_by_the_server_that_holds_its_number(lanes: TwoServers) -> None:
    """Rows that stayed behind where the number was, or is to come to, are passed over; nothing else is to be said."""
    watcher = lane_watcher(lanes.both)

    assert {0: 10, 1: 11, 2: 12, 3: 13} == await _read(watcher)
    assert (None, {}) == (watcher.trouble, watcher.notes)


async def test_one_server_is_asked_no_more_than_ever(settings: Settings, database: Connection) -> None:
    """Whatever its tables say of numbers: rows of all of them are told, without a note."""
    await set_state(database, 1, "left", database)
    await database.execute(_LANE, 1, 5)

    watcher = lane_watcher(settings)

    assert isinstance(watcher, LaneWatcher)
    assert {1: 5} == await _read(watcher)
    assert (None, None, {}) == (watcher.trouble, watcher.shard, watcher.notes)


async def test_a_server_that_is_away_takes_only_its_own_numbers_with_it(lanes: TwoServers) -> None:
    """Its numbers are named, with the server and why; the other's lanes are told as ever."""
    watcher = lane_watcher(lanes.without_second())

    assert {0: 10, 1: 11, 2: 12} == await _read(watcher)
    words = "the books on Postgres at localhost:1/inmail cannot be read ("
    assert watcher.trouble is not None
    assert watcher.trouble.startswith(words)
    assert watcher.trouble.endswith("): no lane of partitions 3 is told to pause or wait")
    assert {3: NoteKind.AWAY} == {number: note.kind for number, note in watcher.notes.items()}
    assert [True, False] == [(watcher.statement_of(number) or "").startswith(words) for number in (3, 0)]


@pytest.mark.whole
async def test_one_server_by_two_addresses_is_told_once(lanes: TwoServers) -> None:
    """Its lanes are told; the second address stands where the server of the other numbers should."""
    watcher = lane_watcher(lanes.repeated())

    assert {0: 10, 1: 11, 2: 12} == await _read(watcher)
    assert watcher.trouble is not None
    assert watcher.trouble.startswith("INMAIL_DATABASE_SHARDS: Postgres at ")
    assert ": name each server that holds the books once: no lane of partitions 3 is told" in watcher.trouble
    assert {3: NoteKind.AWAY} == {number: note.kind for number, note in watcher.notes.items()}


async def test_a_number_that_nobody_holds_or_two_is_told_so(lanes: TwoServers) -> None:
    """In words that name it, and the servers where there are two; its rows do not count."""
    watcher = lane_watcher(lanes.both)
    await set_state(lanes.first, 2, "left", lanes.second)
    await set_state(lanes.second, 1, "held")

    read = await _read(watcher)

    assert {0: 10, 3: 13} == read
    assert {1: NoteKind.UNHELD, 2: NoteKind.UNHELD} == {number: each.kind for number, each in watcher.notes.items()}
    assert "no server of INMAIL_DATABASE_SHARDS holds partition number 2, so nobody works it" in watcher.notes[2].text
    assert watcher.notes[1].text.count("Postgres at ") == 2
    assert "hold partition number 1, so nobody works it: see `inmail shards list`" in watcher.notes[1].text


async def test_a_number_under_way_is_told_by_where_it_comes_from(lanes: TwoServers) -> None:
    """Its lanes stand there until the number has left, whichever server is listed first; then they have arrived."""
    await lanes.move_back()
    watcher = lane_watcher(lanes.both)

    leaving = await _read(watcher)
    moving = watcher.notes[3]
    await set_state(lanes.second, 3, "left", lanes.first)
    left = await _read(watcher)

    assert (13, 7) == (leaving[3], left[3])
    assert [(NoteKind.MOVING, "the move of partition number 3 from server to server")] * 2 == [moving, watcher.notes[3]]


async def test_rows_where_a_number_arrives_do_not_stand_for_a_server_that_is_away(lanes: TwoServers) -> None:
    """While its rows are copied the number is where it comes from: what the other has says nothing yet."""
    await lanes.move_back()
    watcher = lane_watcher(lanes.without_second())

    read = await _read(watcher)

    assert {0: 10, 1: 11, 2: 12} == read
    assert {3: NoteKind.AWAY} == {number: note.kind for number, note in watcher.notes.items()}
    assert "the books on Postgres at localhost:1/inmail cannot be read (" in watcher.notes[3].text


async def test_a_lock_is_told_with_its_server_and_only_of_its_numbers(lanes: TwoServers, connect: Connect) -> None:
    """Who keeps a table of the second server is no reason for lanes of the first, also when it cannot be read."""
    holder = await connect(lanes.alone[1])
    watcher = lane_watcher(lanes.both)
    await watcher.read()
    async with holder.transaction():
        await holder.execute("lock table lanes in access exclusive mode")
        pid = await holder.fetchval("select pg_backend_pid()")
        # A table that is locked is told once its transaction is a second old.
        while not watcher.locks:
            await watcher.read()

        (lock,) = watcher.locks
        assert (pid, "Postgres at ") == (lock.pid, lock.server[:12])
        assert f" on {lock.server}, " in lock.text
        assert lock.server == lock.summary()["server"]
        assert ([lock], []) == (list(watcher.locks_of(3)), list(watcher.locks_of(0)))
    await watcher.close()


async def test_lag_says_that_nobody_works_a_number_also_when_nothing_is_unread(
    cluster: Settings, other_books: Callable[[], Awaitable[Settings]], connect: Connect
) -> None:
    """Its partition stands worst of its group, and others are as they are."""
    first, second = await connect(cluster), await other_books()
    await first.execute("delete from partitioning")  # of the lanes that the fixture has worked
    servers = await prepare_servers(cluster, second, first, await connect(second))
    await servers.second.execute("delete from shard_numbers")

    async with observer(servers.both, [SendJob.group], remembers=False) as found:
        await found.refresh()

    (group,) = found.groups
    status = {each.partition: each.status for each in group.partitions}
    assert (Status.STOPPED, False) == (status[3], Status.STOPPED in {status[number] for number in (0, 1, 2)})
    assert "no server of INMAIL_DATABASE_SHARDS holds partition number 3" in group.reason
