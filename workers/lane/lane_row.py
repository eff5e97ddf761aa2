"""A lane's row in Postgres: who owns it, how far it has stored, and what the other lanes of its number go by."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from infra.clock import EPOCH
from infra.postgres import Connection, Pool
from infra.retry import ignoring_retriable
from workers.errors import BreakerError, FencedError

__all__ = ["LaneRow"]

_NOTE = (
    "update lanes set next_offset = greatest(next_offset, $5), as_of = greatest(as_of, $6),"
    " published = $7, awaited = awaited or $5 is not null, paused = case when $5 is null then paused end"
    " where consumer_group = $1 and topic = $2 and partition = $3 and epoch = $4"
)
_EPOCH = "select epoch from lanes where consumer_group = $1 and topic = $2 and partition = $3"
_WAIT = (
    "update lanes set head = $5, waits_for = $6, waits_since = clock_timestamp()"
    " where consumer_group = $1 and topic = $2 and partition = $3 and epoch = $4"
)
_PAUSE = "update lanes set paused = $5 where consumer_group = $1 and topic = $2 and partition = $3 and epoch = $4"
_HALT = "update lanes set halted = $5 where consumer_group = $1 and topic = $2 and partition = $3 and epoch = $4"
_GO_ON = (
    "update lanes set halted = null, topic_id = coalesce(topic_id, $5)"
    " where consumer_group = $1 and topic = $2 and partition = $3 and epoch = $4"
)
_LEAVE = (
    "update lanes set awaited = false, published = $5"
    " where consumer_group = $1 and topic = $2 and partition = $3 and epoch = $4"
)


class LaneRow:
    """The row of one lane. Whoever takes it fences the last owner: an epoch that is over commits nothing."""

    def __init__(self, pool: Pool, group: str, topic: str, partition: int) -> None:
        self._pool = pool
        self.group, self.topic, self.partition = group, topic, partition
        self.epoch = 0  # of this owner; 0: it has none
        self._seen = 0
        self.published: int | None = None  # up to where the owner knows its answers published; noted with its writes
        self.topic_id: UUID | None = None  # of the topic that was read; None: no lane has noted it yet
        self.topic_since: datetime | None = None  # watermark at which it followed another one; None: it is the first
        self.halted: str | None = None  # why the lane could not go on

    async def look(self) -> None:
        """Note the epoch of the last owner, for `take` to see whether it is still the same."""
        self._seen = await self._pool.fetchval(_EPOCH, *self._key) or 0

    async def take(self) -> tuple[int | None, datetime]:
        """Raise the epoch; return the offset after what is stored, and the broker's time up to which it is.

        Raises:
            FencedError: when somebody has raised it since `look`. Two producers do not start at one instant: an
                owner that started both and took the lane in between could still commit with one of them.

        """
        row = await self._pool.fetchrow(
            "insert into lanes as l (consumer_group, topic, partition, epoch, awaited, published)"
            " values ($1, $2, $3, 1, true, $4) on conflict (consumer_group, topic, partition)"
            " do update set epoch = l.epoch + 1, awaited = true, published = greatest(l.published, $4)"
            " where l.epoch = $5 returning epoch, next_offset, as_of, least(l.published, next_offset) as published,"
            " topic_id, nullif(topic_since, '-infinity') as topic_since, halted",
            *self._key,
            self.published,
            self._seen,
        )
        if row is None:
            raise FencedError(f"epoch {self._seen} of {self.topic}/{self.partition} ended while producers started")
        self.epoch = row["epoch"]
        # Whoever sets back how far is stored, as errors tell operators to, need not set this back as well.
        self.published = row["published"]
        self.topic_id, self.topic_since, self.halted = row["topic_id"], row["topic_since"], row["halted"]
        return row["next_offset"], row["as_of"] or EPOCH

    async def go_on(self, topic_id: UUID) -> None:
        """Note which topic the lane reads, where no lane has before, and that it is not halted."""
        if self.topic_id is None or self.halted is not None:
            await self._pool.execute(_GO_ON, *self._key, self.epoch, topic_id)
        self.topic_id, self.halted = topic_id, None

    async def halt(self, reason: str) -> None:
        """Tell who looks from outside why the lane cannot go on."""
        self.halted = reason
        await self._pool.execute(_HALT, *self._key, self.epoch, reason)

    @asynccontextmanager
    async def fenced(self, next_offset: int | None = None, as_of: datetime | None = None) -> AsyncIterator[Connection]:
        """Open a transaction that only the lane's owner can commit, and that notes how far the lane has read.

        Raises:
            FencedError: when there is a newer owner.
            BreakerError: when the breaker trips inside it, which is noted in the row.

        """
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                moved = await connection.execute(_NOTE, *self._key, self.epoch, next_offset, as_of, self.published)
                if moved != "UPDATE 1":
                    raise FencedError(f"epoch {self.epoch} of {self.topic}/{self.partition} is over")
                yield connection
        except BreakerError as error:
            await self._pause(str(error))
            raise

    async def wait_with(self, head: datetime, neighbour: str) -> None:
        """Tell the other lanes with which time this one waits for them; and who looks from outside, for which group."""
        await self._pool.execute(_WAIT, *self._key, self.epoch, head, neighbour)

    async def be_not_awaited(self, connection: Connection | None = None) -> None:
        """Let the other lanes not wait for ticks of this one until it stores something."""
        await (connection or self._pool).execute(_LEAVE, *self._key, self.epoch, self.published)

    async def _pause(self, reason: str) -> None:
        """Tell who looks from outside that a batch is held, and why, until one is stored. The worker ends anyway."""
        with ignoring_retriable():
            await self._pool.execute(_PAUSE, *self._key, self.epoch, reason)

    @property
    def name(self) -> str:
        """The lane's name in Kafka: the stem of its transactional ids."""
        return f"{self.group}.{self.topic}.{self.partition}"

    @property
    def _key(self) -> tuple[str, str, int]:
        return self.group, self.topic, self.partition
