"""The lane: one assigned partition being worked. The only file that knows how offsets and transactions fit together.

To open a lane, in this order: start its two transactional producers, which fences the last owner in Kafka; raise its
epoch, which fences it in Postgres; read the committed offset and seek. Kafka's committed offset says how far answers
are published, the lane's row how far outcomes are stored: what lies between is published first.

Then, batch after batch: decide in one Postgres transaction, publish in one Kafka transaction. A batch may be decided
while the one before it is published, but transactions follow one another: two at once could leave the older offset
as the last one written. After any doubtful error the lane begins again; deciding twice finds the first answers.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra.clock import EPOCH
from infra.kafka import committed_offsets
from infra.postgres import Connection, Pool, is_transient
from infra.settings import Settings
from infra.transactions import Message, TransactionPair
from workers.dead_letter import dead_letters
from workers.inbox import Inbox, Taken
from workers.job import Batch, Job
from workers.sorting import sort_records

__all__ = ["Clients", "Lane", "LaneError"]

_BACKOFF_SECONDS = (0.05, 5.0)


class LaneError(Exception):
    """The lane cannot go on and trying again would not help. The message says what an operator can do."""


class _SucceededError(Exception):
    """A newer owner has raised the epoch."""


class Clients(NamedTuple):
    """What the lanes of a worker share."""

    consumer: AIOKafkaConsumer
    admin: AIOKafkaAdminClient
    pool: Pool


class _Decided(NamedTuple):
    """A batch whose outcomes are stored and whose answers are to publish."""

    messages: list[Message]
    next_offset: int


class Lane:
    """One partition's owner, from assignment to revocation: `run` is its task, the inbox its only way in."""

    def __init__(self, job: Job, tp: TopicPartition, clients: Clients, settings: Settings) -> None:
        self.inbox = Inbox()
        self._job = job
        self._tp = tp
        self._row = (job.group, tp.topic, tp.partition)  # key of the lane's row
        self._consumer, self._admin, self._pool = clients
        self._settings = settings
        self._log = structlog.get_logger("inmail.lane").bind(topic=tp.topic, partition=tp.partition)
        self._stopping = False
        self._failures = 0  # in a row

    def stop(self) -> None:
        """Finish the batch at hand, publish it, and return from `run`."""
        self._stopping = True
        self.inbox.stop()

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            LaneError: when only an operator can decide how to go on.
            PostgresError: when the database refuses what it should take: an invariant is broken.

        """
        while not self._stopping:
            self._producers = TransactionPair(self._settings, ".".join(map(str, self._row)))
            doubtful: Exception | None = None
            try:
                await self._open()
                await self._work()
            except (_SucceededError, KafkaError, OSError) as error:
                doubtful = error
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                if not is_transient(error):
                    raise
                doubtful = error
            finally:
                self.inbox.close()
                await self._producers.discard()
            if doubtful is not None:
                await self._back_off(doubtful)

    async def _open(self) -> None:
        await self._producers.start()
        row = await self._pool.fetchrow(
            "insert into lanes as l (consumer_group, topic, partition, epoch) values ($1, $2, $3, 1)"
            " on conflict (consumer_group, topic, partition) do update set epoch = l.epoch + 1"
            " returning epoch, next_offset, as_of",
            *self._row,
        )
        assert row is not None  # noqa: S101 - an upsert returns its row
        self._epoch, stored, self._as_of = row["epoch"], row["next_offset"], row["as_of"] or EPOCH
        published = (await committed_offsets(self._admin, self._job.group, [self._tp]))[self._tp]
        oldest = (await self._consumer.beginning_offsets([self._tp]))[self._tp]
        end = (await self._consumer.end_offsets([self._tp]))[self._tp]
        published = self._checked(published, stored, oldest, end)
        start = max(published, oldest)
        if published < oldest:
            self._log.warning("publishing_from_books", offset=published, end=oldest)
            async with self._pool.acquire() as connection:
                messages = await self._job.recall(connection, self._tp.partition, published, oldest)
            await self._publish(_Decided(messages, oldest))
        self._consumer.seek(self._tp, start)
        self.inbox.open(start)
        self._log.info("lane_open", epoch=self._epoch, offset=start, stored=stored)

    def _checked(self, published: int | None, stored: int | None, oldest: int, end: int) -> int:
        """Return how far answers are published; refuse to guess where records were lost or an offset never was."""
        group, topic, partition = self._row
        place = f"{topic}/{partition}"
        if published is None:
            raise LaneError(
                f"group {group} has no offset for {place}: run `inmail topics apply`, which starts a group at the"
                " oldest record, or near the end of the books if there are any"
            )
        if published > end:
            raise LaneError(
                f"the offset of group {group} for {place} is {published}, but the partition ends at {end}: was the"
                " topic made anew, or records lost? Set the group's offset to where it should go on"
            )
        if (stored or 0) > end:
            raise LaneError(
                f"the books have read {place} up to offset {stored}, but the partition ends at {end}: was the topic"
                " made anew, or records lost? Set the group's offset and next_offset of the lane's row to where it"
                " should go on"
            )
        if published > max(stored or 0, oldest):
            raise LaneError(
                f"group {group} has published {place} up to offset {published}, but the books end at {stored or 0}: is"
                " INMAIL_DATABASE_URL the right database, was it restored from a backup, or the group moved ahead? To"
                f" decide the records between, set the group's offset to {max(stored or 0, oldest)}; to go on without"
                f" them, set next_offset of the lane's row to {published}"
            )
        if published < oldest and (stored or 0) < oldest:
            raise LaneError(
                f"retention removed {place} up to offset {oldest}, and group {group} has decided it up to"
                f" {stored or 0} only: the records between are lost to it. To go on without them, set both the group's"
                f" offset and next_offset of the lane's row to {oldest}"
            )
        return published

    async def _work(self) -> None:
        publishing: asyncio.Task[None] | None = None
        try:
            most = 1 if self._job.in_steps else self._settings.batch_records
            while (taken := await self.inbox.take(most)) is not None:
                decided = await self._decide(taken)
                await _finished(publishing)
                publishing = asyncio.create_task(self._publish(decided))
                publishing.add_done_callback(self._wake)
            await _finished(publishing)
        finally:
            if publishing is not None:
                await asyncio.wait([publishing])
                publishing.exception()  # seen: whatever ended the loop is on its way up already

    async def _decide(self, taken: Taken) -> _Decided:
        """Store the outcomes of a batch, and how far the lane has read, in one transaction."""
        requests, refused, as_of = sort_records(taken.records, self._as_of)
        batch = Batch(self._tp.topic, self._tp.partition, requests)
        left = self._job.in_steps
        while left:
            async with self._fenced() as connection:
                left = await self._job.step(connection, batch)
        async with self._fenced(taken.next_offset, as_of) as connection:
            answers, refused_by_job = await self._job.decide(connection, batch)
        self._as_of = as_of
        return _Decided(answers + dead_letters(taken.records, refused | refused_by_job), taken.next_offset)

    @asynccontextmanager
    async def _fenced(self, next_offset: int | None = None, as_of: datetime | None = None) -> AsyncIterator[Connection]:
        """Open a transaction that only the lane's owner can commit, and that notes how far the lane has read."""
        async with self._pool.acquire() as connection, connection.transaction():
            moved = await connection.execute(
                "update lanes set next_offset = greatest(next_offset, $5), as_of = greatest(as_of, $6)"
                " where consumer_group = $1 and topic = $2 and partition = $3 and epoch = $4",
                *self._row,
                self._epoch,
                next_offset,
                as_of,
            )
            if moved != "UPDATE 1":
                raise _SucceededError(f"epoch {self._epoch} of {self._tp} is over")
            yield connection

    async def _publish(self, decided: _Decided) -> None:
        """Publish a batch's answers, its dead letters and the offset after it, in one transaction."""
        await self._producers.publish(decided.messages, {self._tp: decided.next_offset}, self._job.group)
        self._failures = 0

    def _wake(self, publishing: asyncio.Task[None]) -> None:
        """Let the lane see that publishing failed: it may be waiting for records that never come."""
        error = None if publishing.cancelled() else publishing.exception()
        if isinstance(error, Exception):
            self.inbox.interrupt(error)

    async def _back_off(self, error: BaseException) -> None:
        """Wait before the lane begins again, longer after each failure in a row, or until it is stopped."""
        least, most = _BACKOFF_SECONDS
        seconds = min(most, least * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        self._failures += 1
        self._log.warning("lane_begins_again", error=repr(error), seconds=round(seconds, 3), failures=self._failures)
        await self.inbox.stopped(seconds)


async def _finished(publishing: asyncio.Task[None] | None) -> None:
    """Wait for the batch before, and raise what it raised.

    Waits beside the task instead of awaiting it: whoever cancels this lane must not cancel a commit.
    """
    if publishing is not None:
        await asyncio.wait([publishing])
        publishing.result()
