"""The rows of lanes in Postgres: who owns each, how far it has stored, and what other lanes of its number go by."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from aiokafka import TopicPartition

from infra.clock import EPOCH
from infra.first_of import end_in_time
from infra.postgres import Connection, Pool
from infra.retry import suppress_retriable
from workers.errors import FencedError
from workers.lane.numbering import why_not_held
from workers.topology import last_owner

__all__ = ["LaneRow", "LaneRows", "Progress"]

_RELEASE_SECONDS = 2.0

_READ = """
select u.partition, l.epoch, l.owner, l.owner_epoch, holds_number(u.partition) as is_held, n.state, n.since
from unnest($3::integer[]) as u (partition)
left join lanes as l on l.consumer_group = $1 and l.topic = $2 and l.partition = u.partition
left join shard_numbers as n on n.number = u.partition
"""
# The epoch that is inserted is the one after the epoch that was read: a row with any other has a newer owner. And a
# number may have begun to leave this server since then: whoever moves it raises the epochs of its lanes in the
# transaction that says so, so that either this statement waits for that one's rows, or sees what it says.
_ACQUIRE = """
insert into lanes as l
    (consumer_group, topic, partition, epoch, awaited, published, published_time, owner, owner_epoch)
select $1, $2, u.partition, u.epoch, true, u.published, u.published_time, $7, u.epoch
from unnest($3::integer[], $4::bigint[], $5::bigint[], $6::timestamptz[])
    as u (partition, epoch, published, published_time)
where holds_number(u.partition)
on conflict (consumer_group, topic, partition) do update
set epoch = excluded.epoch, awaited = true, held = null, owner = excluded.owner, owner_epoch = excluded.epoch,
    published = greatest(l.published, excluded.published),
    published_time = case when excluded.published > coalesce(l.published, -1)
        then excluded.published_time else l.published_time end
where l.epoch = excluded.epoch - 1
returning partition, epoch, next_offset, as_of, least(l.published, next_offset) as published,
    case when l.published <= next_offset then published_time end as published_time, maybe_published,
    doubted, topic_id, nullif(topic_since, '-infinity') as topic_since, halted
"""
_OWNED = (
    " where l.consumer_group = $1 and l.topic = $2 and l.partition = u.partition"
    " and l.epoch = u.epoch and l.owner = u.owner"
)
# A row behind what was stored is of a server that took over without the last commits; ahead, an answer was lost.
_ADVANCE = f"""
update lanes as l
set next_offset = greatest(l.next_offset, u.next_offset), as_of = greatest(l.as_of, u.as_of),
    published = u.published, published_time = u.published_time,
    maybe_published = greatest(l.maybe_published, u.next_offset), doubted = u.doubted,
    head = coalesce(u.head, l.head), waits_for = case when u.head is null then l.waits_for end,
    awaited = l.awaited or u.next_offset is not null,
    paused = case when u.next_offset is null then l.paused end, held = case when u.next_offset is null then l.held end
from unnest(
    $3::integer[], $4::bigint[], $5::text[], $6::bigint[], $7::timestamptz[], $8::bigint[], $9::timestamptz[],
    $10::bigint[], $11::timestamptz[], $12::bigint[]
) as u (partition, epoch, owner, next_offset, as_of, published, published_time, stored, head, doubted)
{_OWNED} and coalesce(l.next_offset, 0) >= u.stored
"""  # noqa: S608 - constants
_COUNT = """
select count(*)
from lanes as l
inner join unnest($3::integer[], $4::bigint[], $5::text[]) as u (partition, epoch, owner)
    on l.partition = u.partition and l.epoch = u.epoch and l.owner = u.owner
where l.consumer_group = $1 and l.topic = $2
"""
# A row that somebody keeps locked is passed over: whoever writes this works other lanes as well.
_FREE = " and exists (select from lanes where ctid = l.ctid for no key update skip locked)"
_WAIT = f"""
update lanes as l
set head = u.head, waits_for = u.waits_for, waits_since = case
    when (l.head, l.waits_for) is distinct from (u.head, u.waits_for) then clock_timestamp() else l.waits_since end
from unnest($3::integer[], $4::bigint[], $5::text[], $6::timestamptz[], $7::text[])
    as u (partition, epoch, owner, head, waits_for)
{_OWNED} {_FREE}
"""  # noqa: S608 - constants
_RESUME = f"""
update lanes as l set halted = null, topic_id = coalesce(l.topic_id, $6), doubted = u.doubted
from unnest($3::integer[], $4::bigint[], $5::text[], $7::bigint[]) as u (partition, epoch, owner, doubted) {_OWNED}
"""  # noqa: S608 - constants
_RELEASE = f"""
update lanes as l
set awaited = false, published = u.published, published_time = u.published_time,
    maybe_published = coalesce(u.maybe_published, u.published), doubted = u.doubted, owner = null
from unnest($3::integer[], $4::bigint[], $5::text[], $6::bigint[], $7::timestamptz[], $8::bigint[], $9::bigint[])
    as u (partition, epoch, owner, published, published_time, maybe_published, doubted)
{_OWNED}
"""  # noqa: S608 - constants
_OF_ONE = " where consumer_group = $1 and topic = $2 and partition = $3 and epoch = $4 and owner = $5"
_UNAWAIT = "update lanes set awaited = false" + _OF_ONE  # noqa: S608 - constants
_HOLD = "update lanes as l set held = $6, held_offset = $7, held_time = $8" + _OF_ONE + _FREE  # noqa: S608
_PAUSE = "update lanes set paused = $6" + _OF_ONE  # noqa: S608
_HALT = "update lanes set halted = $6" + _OF_ONE  # noqa: S608


@dataclass(slots=True)
class LaneRow:
    """What an owner knows of one lane's row."""

    partition: int
    owner: str | None = None  # under whose name it was acquired, until it was given back
    epoch: int = 0  # of that owner; 0: there was none
    last_epoch: int = 0  # of the owner before, as it was read; 0: there was none
    last_owner: str | None = None  # to fence before the lane is acquired; None: the owner has given the lane back
    next_offset: int | None = None  # after the last record whose outcome it knows stored; None before the first
    as_of: datetime = EPOCH  # the latest broker's time up to which outcomes are stored
    published: int | None = None  # up to where the owner knows its answers published; noted with its writes
    published_time: datetime | None = None  # no later answer was received before; None: not known
    maybe_published: int | None = None  # up to where answers may be published; None: not beyond `published`
    doubted: int | None = None  # the group's offset as brokers tell it, while that is not believed; None: it is
    topic_id: UUID | None = None  # of the topic that was read; None: no lane has noted it yet
    topic_since: datetime | None = None  # watermark at which it followed another one; None: it is the first
    halted: str | None = None  # why the lane could not go on
    not_held: str | None = None  # why the lane is not for this server's workers


class Progress(NamedTuple):
    """How far a transaction brings a lane: the offset after it and its watermark. None: it is a step of a batch."""

    row: LaneRow
    next_offset: int | None = None
    as_of: datetime | None = None
    head: datetime | None = None  # of the record after them, where that has to wait


class LaneRows:
    """Reads and writes rows of one group and topic. An epoch that is over commits nothing, nor does another owner."""

    def __init__(self, pool: Pool, group: str, topic: str) -> None:
        self._pool = pool
        self.group, self.topic = group, topic

    async def read(self, rows: Iterable[LaneRow]) -> None:
        """Note of each lane its last owner and that owner's epoch: `acquire` sees whether it is the same still.

        Of a lane whose number this server does not hold, note why; its last owner may work other lanes still.
        """
        by_partition = {row.partition: row for row in rows}
        for last in await self._pool.fetch(_READ, self.group, self.topic, list(by_partition)):
            row = by_partition[last["partition"]]
            place = TopicPartition(self.topic, row.partition)
            row.last_epoch, row.last_owner, row.not_held = 0, None, None
            if not last["is_held"]:
                row.not_held = why_not_held(row.partition, last["state"], last["since"])
            elif last["epoch"] is not None:
                row.last_epoch, owner, owner_epoch = last["epoch"], last["owner"], last["owner_epoch"]
                row.last_owner = last_owner(self.group, place, row.last_epoch, owner, owner_epoch)

    async def acquire(self, rows: Sequence[LaneRow], owner: str) -> list[LaneRow]:
        """Raise the epochs of lanes, in one statement, and write their owner; return those that were acquired.

        A lane whose epoch is no longer the one that `read` saw is not: its newer owner may have published what this
        one has not seen. Nor is a lane whose number this server does not hold.
        """
        by_partition = {row.partition: row for row in rows}
        # What this one knows is true as long as nobody had the row meanwhile: another owner, or a rewind.
        known = [row if row.epoch == row.last_epoch else LaneRow(row.partition) for row in rows]
        epochs = [row.last_epoch + 1 for row in rows]
        published, times = [row.published for row in known], [row.published_time for row in known]
        acquired = await self._pool.fetch(
            _ACQUIRE, self.group, self.topic, list(by_partition), epochs, published, times, owner
        )
        for found in acquired:
            row = by_partition[found["partition"]]
            row.owner = owner
            row.epoch, row.next_offset, row.as_of = found["epoch"], found["next_offset"], found["as_of"] or EPOCH
            # Whoever sets back how far is stored, as errors tell operators to, need not set this back as well.
            row.published, row.maybe_published = found["published"], found["maybe_published"]
            row.published_time, row.doubted = found["published_time"], found["doubted"]
            row.topic_id, row.topic_since, row.halted = found["topic_id"], found["topic_since"], found["halted"]
        return [by_partition[found["partition"]] for found in acquired]

    @asynccontextmanager
    async def fenced(self, progress: Sequence[Progress]) -> AsyncIterator[Connection]:
        """Open a transaction that only the owner of some lanes can commit, and that notes how far they have read.

        Raises:
            FencedError: when one of them has a newer owner, or the books have lost what this one stored.

        """
        rows = [each.row for each in progress]
        async with self._pool.acquire() as connection, connection.transaction():
            moved = await connection.execute(
                _ADVANCE,
                *self._key(rows),
                [each.next_offset for each in progress],
                [each.as_of for each in progress],
                [row.published for row in rows],
                [row.published_time for row in rows],
                [row.next_offset or 0 for row in rows],
                [each.head for each in progress],
                [row.doubted for row in rows],
            )
            if moved != f"UPDATE {len(rows)}":
                raise FencedError(f"{self._name(rows)} has a newer owner, or lost what was stored")
            yield connection
        for row, next_offset, *_ in progress:
            row.next_offset = max(row.next_offset or 0, next_offset or 0)

    async def are_owned(self, rows: Sequence[LaneRow]) -> bool:
        """Tell whether lanes still have this owner."""
        return bool(await self._pool.fetchval(_COUNT, *self._key(rows)) == len(rows))

    async def announce_waiting(self, waits: Sequence[tuple[LaneRow, datetime, str]]) -> bool:
        """Tell other lanes with which time each of these waits for them, and operators for which group.

        Return whether that was written of all: not of a row that somebody keeps locked.

        Raises:
            FencedError: when one of them has a newer owner. Unnoticed it would wait for lanes that wait for its word.

        """
        rows = [row for row, _, _ in waits]
        heads, groups = [head for _, head, _ in waits], [group for _, _, group in waits]
        if await self._pool.execute(_WAIT, *self._key(rows), heads, groups) == f"UPDATE {len(rows)}":
            return True
        await self._require_owned(rows)
        return False

    async def resume(self, rows: Sequence[LaneRow], topic_id: UUID) -> None:
        """Note which topic lanes read, where no lane has before, that they are not halted, and what is not believed."""
        is_news = [row.topic_id is None or row.halted is not None or row.doubted is not None for row in rows]
        if changed := [row for row, news in zip(rows, is_news, strict=True) if news]:
            await self._pool.execute(_RESUME, *self._key(changed), topic_id, [row.doubted for row in changed])
        for row in changed:
            row.topic_id, row.halted = topic_id, None

    async def release(self, rows: Sequence[LaneRow]) -> bool:
        """Give lanes back of which nothing is under way: nobody fences their owner then, or waits for their ticks.

        Return whether that was written in time. Where it was not, the next owner fences this one.
        """
        published, times = [row.published for row in rows], [row.published_time for row in rows]
        maybe = [row.maybe_published for row in rows]
        doubted = [row.doubted for row in rows]
        writing = self._pool.execute(_RELEASE, *self._key(rows), published, times, maybe, doubted)
        for row in rows:
            row.owner = None
        with suppress_retriable():
            return await end_in_time(writing, _RELEASE_SECONDS)
        return False

    async def release_waiters(self, connection: Connection, row: LaneRow) -> None:
        """Let the other lanes not wait for ticks of a lane until it stores something."""
        await connection.execute(_UNAWAIT, *self._key_of(row))

    async def halt(self, row: LaneRow, reason: str) -> None:
        """Tell who looks from outside why a lane cannot go on."""
        row.halted = reason
        await self._pool.execute(_HALT, *self._key_of(row), reason)

    async def hold(self, row: LaneRow, reason: str, offset: int, time: datetime) -> None:
        """Tell operators that a record is held, which, and why, until a batch is stored; not where its row is locked.

        Raises:
            FencedError: when there is a newer owner.

        """
        if await self._pool.execute(_HOLD, *self._key_of(row), reason, offset, time) != "UPDATE 1":
            await self._require_owned([row])

    async def _require_owned(self, rows: Sequence[LaneRow]) -> None:
        if not await self.are_owned(rows):
            raise FencedError(f"{self._name(rows)} has a newer owner")

    async def pause(self, row: LaneRow, reason: str) -> None:
        """Tell who looks from outside that a batch is held, and why, until one is stored."""
        await self._pool.execute(_PAUSE, *self._key_of(row), reason)

    def _key(self, rows: Sequence[LaneRow]) -> tuple[str, str, list[int], list[int], list[str | None]]:
        # The owner beside the epoch: after a restore from a backup, epochs are given a second time.
        partitions, epochs = [row.partition for row in rows], [row.epoch for row in rows]
        return self.group, self.topic, partitions, epochs, [row.owner for row in rows]

    def _key_of(self, row: LaneRow) -> tuple[str, str, int, int, str | None]:
        return self.group, self.topic, row.partition, row.epoch, row.owner

    def _name(self, rows: Sequence[LaneRow]) -> str:
        return f"one of {self.topic}/{', '.join(str(row.partition) for row in rows)}"
