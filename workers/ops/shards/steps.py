"""The steps by which a number goes from one server to another: what both say of it, and who still writes.

Both servers say of a number what they have of it (`shard_numbers`), one after the other, and never both that they hold
it: the one that gives it says so first. Whoever takes up a move that was broken off reads these words.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final
from uuid import UUID

from asyncpg import Record

from infra.postgres import Connection
from infra.shards import NumberState
from workers.ops.numbers import set_partition_count
from workers.ops.operations import RefusedError
from workers.ops.shards.servers import ShardSession
from workers.topology import GROUP_OF, TOPIC_OF_GROUP

__all__ = [
    "agree_on_count",
    "mark_arriving",
    "mark_held",
    "mark_leaving",
    "mark_left",
    "take_back",
    "wait_for_writers",
]

_POLL_SECONDS: Final = 0.1
_WRITERS_SECONDS: Final = 60.0

_ARRIVING: Final = """
insert into shard_numbers as n (number, state, other_shard, move) values ($1, 'arriving', $2, $3)
on conflict (number) do update
set state = excluded.state, other_shard = excluded.other_shard, move = excluded.move, since = clock_timestamp()
where n.state = 'left'
"""
_LEAVING: Final = """
insert into shard_numbers as n (number, state, other_shard, move)
select $1, 'leaving', $2, $3 where holds_number($1)
on conflict (number) do update
set state = excluded.state, other_shard = excluded.other_shard, move = excluded.move, since = clock_timestamp()
where n.state = 'held'
"""
# Whoever owns a lane stores nothing more with its epoch, and is still named as its last owner, whom the next one fences
# in Kafka (`last_owner`). A lane that never had an owner gets a row, so that none can begin.
_STOP_LANES: Final = """
insert into lanes as l (consumer_group, topic, partition, epoch, owner_epoch)
select u.consumer_group, u.topic, $1, 1, 1 from unnest($2::text[], $3::text[]) as u (consumer_group, topic)
on conflict (consumer_group, topic, partition) do update
set epoch = l.epoch + 1, head = null, held = null,
    owner_epoch = case l.owner_epoch when l.epoch then l.epoch + 1 else l.owner_epoch end
"""
# All lanes of the number wait meanwhile: a process that hangs does not keep them.
_IDLE_AT_MOST: Final = "set local idle_in_transaction_session_timeout = '10s'"
_LOCK_LANES: Final = "select from lanes where partition = $1 order by consumer_group for update"
# An id of its own is above every id that was assigned before it. A snapshot's xmax is not: it follows the highest id
# that has ended, and an open transaction may have a higher one.
_HORIZON: Final = "select pg_current_xact_id()::text::bigint"
# Transactions that have written, and began to before one. Those of another database cannot write to this one. Which
# session locks a transaction's id every user may see, also where `pg_stat_activity` hides `backend_xid`.
_WRITERS: Final = """
select x.id::text as transaction, p.gid, l.pid, a.usename, a.application_name
from pg_snapshot_xip(pg_current_snapshot()) as x (id)
left join pg_locks as l
    on l.locktype = 'transactionid' and l.transactionid = x.id::xid and l.mode = 'ExclusiveLock' and l.granted
left join pg_stat_activity as a on a.pid = l.pid
left join pg_prepared_xacts as p on p.transaction = x.id::xid
where x.id::text::bigint < $1 and coalesce(a.datname, p.database, current_database()) = current_database()
order by x.id::text::bigint
"""
_LEFT: Final = (
    "update shard_numbers set state = 'left', since = clock_timestamp()"
    " where number = $1 and state = 'leaving' and move = $2"
)
_NOT_ARRIVING: Final = (
    "update shard_numbers set state = 'left', since = clock_timestamp()"
    " where number = $1 and state = 'arriving' and move = $2"
)
_HELD: Final = (
    "update shard_numbers set state = 'held', other_shard = null, since = clock_timestamp()"
    " where number = $1 and state = $2 and move = $3"
)


async def mark_arriving(target: ShardSession, source: ShardSession, number: int, move: UUID) -> None:
    """Note on a server that a move of a number to it has begun."""
    done = await target.connection.execute(_ARRIVING, number, source.server.shard.shard_id, move)
    _check(done == "INSERT 0 1", target, number)


async def mark_leaving(
    source: ShardSession,
    target: ShardSession,
    number: int,
    move: UUID,
    published: Callable[[], Awaitable[None]],
) -> None:
    """Note on the server that holds a number that it leaves, and end its lanes' epochs, all at once.

    Args:
        source: the server that holds it.
        target: where it goes to.
        number: the partition number.
        move: the id of the move.
        published: checks, while the lanes can store nothing, that another server can go on with them.

    """
    groups = list(GROUP_OF.values())
    async with source.connection.transaction():
        await source.connection.execute(_IDLE_AT_MOST)
        await source.connection.execute(_LOCK_LANES, number)
        await published()
        await source.connection.execute(_STOP_LANES, number, groups, [TOPIC_OF_GROUP[group] for group in groups])
        done = await source.connection.execute(_LEAVING, number, target.server.shard.shard_id, move)
        _check(done == "INSERT 0 1", source, number)


async def agree_on_count(source: ShardSession, target: ShardSession) -> None:
    """Let the server that a number goes to number accounts as the one that it comes from does.

    It may have been prepared before the books had a count. Its lanes would hold at accounts that nothing there numbers,
    and would find no account of the number.

    Raises:
        RefusedError: when it numbers its own accounts by another count.

    """
    counted = await source.connection.fetchval("select partitions from partitioning")
    if counted is None:  # no lane has opened: there are no accounts
        return
    if (there := await set_partition_count(target.connection, counted)) != counted:
        raise RefusedError(
            f"{source.server.name} numbers accounts by {counted} partitions, {target.server.name} by {there}: `inmail"
            " topics apply` with all servers in INMAIL_DATABASE_SHARDS gives one without accounts the others' count"
        )


async def wait_for_writers(connection: Connection) -> None:
    """Wait until all transactions that may have begun to write to this database before now have ended.

    A lane takes its transaction's id before it looks which numbers the server holds.

    Raises:
        RefusedError: when one has not ended after a minute. The message names it.

    """
    deadline = monotonic() + _WRITERS_SECONDS
    horizon = await connection.fetchval(_HORIZON)
    while writers := await connection.fetch(_WRITERS, horizon):
        if monotonic() > deadline:
            raise RefusedError(
                f"a transaction that has written is open for more than {_WRITERS_SECONDS:.0f} s, and what it wrote may"
                f" be of the number: {', '.join(map(_writer, writers))}. End it (`inmail doctor` names sessions that"
                " are idle in a transaction), and run the same command again"
            )
        await asyncio.sleep(_POLL_SECONDS)


def _writer(row: Record) -> str:
    """Return who keeps a transaction open, in words."""
    if row["gid"] is not None:
        return f"prepared transaction {row['gid']!r}"
    if row["pid"] is None:
        return f"transaction {row['transaction']}"
    return f"pid {row['pid']} of user {row['usename']} ({row['application_name'] or 'without a name'})"


async def mark_left(source: ShardSession, number: int, move: UUID) -> None:
    """Note on the server that a number has left it: from then on it is the other server's, and nobody's yet."""
    _check(await source.connection.execute(_LEFT, number, move) == "UPDATE 1", source, number)


async def mark_held(source: ShardSession, target: ShardSession, number: int, move: UUID) -> None:
    """Note on the server that a number has arrived at that it holds it, if the other one has given it up."""
    there = await source.connection.fetchrow("select state, move from shard_numbers where number = $1", number)
    _check(there is not None and tuple(there) == (NumberState.LEFT, move), source, number)
    await _hold(target, number, NumberState.ARRIVING, move)


async def take_back(holder: ShardSession, other: ShardSession | None, number: int) -> None:
    """Give up a move to another server whose number did not come there: its holder goes on with all of it."""
    if other is not None and (there := other.server.shard.numbers.get(number)) is not None:
        await other.connection.execute(_NOT_ARRIVING, number, there.move)
    said = holder.server.shard.numbers.get(number)
    if said is not None and said.state is NumberState.LEAVING and said.move is not None:
        await _hold(holder, number, NumberState.LEAVING, said.move)


async def _hold(session: ShardSession, number: int, state: NumberState, move: UUID) -> None:
    _check(await session.connection.execute(_HELD, number, state.value, move) == "UPDATE 1", session, number)


def _check(kept: object, session: ShardSession, number: int) -> None:
    if not kept:
        raise RefusedError(
            f"{session.server.name} has something else of number {number} than when this command began: see `inmail"
            " shards list`, and run the same command again"
        )
