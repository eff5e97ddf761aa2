"""The lane: one assigned partition being worked. The only file that knows offsets and transactions.

To open a lane, in this order: start its two transactional producers, which fences the last owner in Kafka; raise its
epoch, which fences it in Postgres; read the committed offset and seek. Kafka's committed offset says how far answers
are published, the lane's row how far outcomes are stored: what lies between is published first.

Then, batch after batch: decide in one Postgres transaction, publish in one Kafka transaction. A batch may be decided
while the one before it is published, but transactions follow one another: two at once could leave the older offset
as the last one written. After any doubtful error the lane begins again; deciding twice finds the first answers.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from infra.clock import EPOCH, from_milliseconds
from infra.kafka import create_lane_producer, partition_of
from infra.postgres import Pool, is_transient
from infra.settings import Settings
from schemas.catalogue import Undecodable, decode, fingerprint
from schemas.results import DeadLetterReason
from workers.dead_letter import dead_letter
from workers.job import Batch, Job, Message
from workers.ledger.model import Request

__all__ = ["Lane", "LaneError"]

_INBOX_CHUNKS = 2
_BACKOFF_SECONDS = (0.05, 5.0)
_STOP_SECONDS = 2.0
_TIMESTAMPS = range(946_684_800_000, 7_258_118_400_000)  # milliseconds of 2000 to 2199


class LaneError(Exception):
    """The lane cannot go on and trying again would not help. The message says what an operator can do."""


class _LostError(Exception):
    """A newer owner has raised the epoch."""


class _Decided(NamedTuple):
    """A batch whose outcomes are stored and whose answers are to publish."""

    messages: list[Message]
    next_offset: int


class Lane:
    """One partition's owner, from assignment to revocation.

    `run` is its task. `offer` feeds it, `stop` asks it to finish what it holds; neither waits.
    """

    def __init__(
        self, job: Job, tp: TopicPartition, consumer: AIOKafkaConsumer, pool: Pool, settings: Settings
    ) -> None:
        self.tp = tp
        self._job = job
        self._consumer = consumer
        self._pool = pool
        self._settings = settings
        self._log = structlog.get_logger("inmail.lane").bind(topic=tp.topic, partition=tp.partition)
        self._stopping = asyncio.Event()
        self._filled = asyncio.Event()
        self._inbox: deque[tuple[list[ConsumerRecord], int]] = deque()
        self._ready = False
        self._producers: list[AIOKafkaProducer] = []
        self._epoch = 0
        self._as_of = EPOCH
        self._offset = 0  # after the last record decided
        self._offered = 0  # after the last record in the inbox
        self._failures = 0
        self._interrupted: KafkaError | None = None

    # -- for the worker that owns the consumer --------------------------------------------------------------------

    @property
    def hungry(self) -> bool:
        """Whether records may be offered: the lane has sought its offset and has room."""
        return self._ready and not self._stopping.is_set() and len(self._inbox) < _INBOX_CHUNKS

    def offer(self, records: list[ConsumerRecord], position: int) -> None:
        """Take records that the consumer drained, and where it stands after them.

        The position may pass the last record: control markers of transactions take offsets too, and a lag that
        counted them would never be 0.
        """
        if self._ready and (records or position > self._offered):
            self._inbox.append((records, position))
            self._offered = position
            self._filled.set()

    def interrupt(self, error: KafkaError) -> None:
        """Begin again after the batch at hand: the poll failed, and opening finds out why."""
        if self._ready:
            self._ready = False
            self._interrupted = error
            self._filled.set()

    def stop(self) -> None:
        """Finish the batch at hand, publish it, and return from `run`."""
        self._stopping.set()
        self._filled.set()

    # -- the protocol ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            LaneError: when only an operator can decide how to go on.

        """
        while not self._stopping.is_set():
            try:
                await self._open()
                await self._work()
            except (_LostError, KafkaError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                if isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError)) and not is_transient(
                    error
                ):
                    raise
                await self._back_off(error)
            finally:
                self._ready = False
                await self._discard_producers()

    async def _open(self) -> None:
        self._inbox.clear()
        self._interrupted = None
        ids = [f"{self._job.group}.{self.tp.topic}.{self.tp.partition}.{turn}" for turn in (0, 1)]
        self._producers = [create_lane_producer(self._settings, id_) for id_ in ids]
        started = await asyncio.gather(*(each.start() for each in self._producers), return_exceptions=True)
        for failure in filter(None, started):
            raise failure
        async with self._pool.acquire() as connection:
            row = await connection.fetchrow(
                "insert into lanes as l (consumer_group, topic, partition, epoch) values ($1, $2, $3, 1)"
                " on conflict (consumer_group, topic, partition) do update set epoch = l.epoch + 1"
                " returning epoch, next_offset, as_of",
                self._job.group,
                self.tp.topic,
                self.tp.partition,
            )
        assert row is not None  # noqa: S101 - an upsert returns its row
        self._epoch, stored, self._as_of = row["epoch"], row["next_offset"], row["as_of"] or EPOCH
        published = await self._consumer.committed(self.tp)
        oldest = (await self._consumer.beginning_offsets([self.tp]))[self.tp]
        self._offset = await self._starting_offset(published, stored, oldest)
        self._consumer.seek(self.tp, self._offset)
        self._offered = self._offset
        self._ready = True
        self._log.info("lane_open", epoch=self._epoch, offset=self._offset, stored=stored)

    async def _starting_offset(self, published: int | None, stored: int | None, oldest: int) -> int:
        """Return where to read on; publish from the books what can no longer be read."""
        place = f"{self.tp.topic}, partition {self.tp.partition}"
        if published is None:
            raise LaneError(
                f"group {self._job.group} has no offset in {place}: run `inmail topics apply`, which starts a new"
                " group at the oldest record, or set one with kafka-consumer-groups --reset-offsets"
            )
        if stored is not None and published > stored:
            raise LaneError(
                f"group {self._job.group} has published up to offset {published} of {place}, but the books end at"
                f" {stored}: was the database restored from a backup, or the group moved ahead? To decide the"
                f" records between, set the group's offset to {stored}"
            )
        if published >= oldest:
            return published
        if stored is None or stored < oldest:
            raise LaneError(
                f"retention removed {place} up to offset {oldest}, but group {self._job.group} has decided up to"
                f" {published if stored is None else stored} only: those records are lost to it. To go on without"
                f" them, set the group's offset and the lane's next_offset to {oldest}"
            )
        self._log.warning("publishing_from_books", offset=published, end=oldest)
        async with self._pool.acquire() as connection:
            messages = await self._job.recall(connection, self.tp.partition, published, oldest)
        await self._publish(_Decided(messages, oldest))
        return oldest

    async def _work(self) -> None:
        publishing: asyncio.Task[None] | None = None
        try:
            while (batch := await self._take()) is not None:
                decided = await self._decide(*batch)
                await _finished(publishing)
                publishing = asyncio.create_task(self._publish(decided))
            await _finished(publishing)
        finally:
            if publishing is not None and not publishing.done():
                await asyncio.wait([publishing])
            if publishing is not None and not publishing.cancelled():
                publishing.exception()  # seen: what ended the loop is already on its way up

    async def _take(self) -> tuple[list[ConsumerRecord], int] | None:
        """Return what is there, up to the size of a batch, and the offset after it; None when asked to stop."""
        while not (self._inbox or self._interrupted or self._stopping.is_set()):
            self._filled.clear()
            await self._filled.wait()
        if self._stopping.is_set():
            return None
        if self._interrupted is not None:
            raise self._interrupted
        records, position = self._inbox.popleft()
        limit = self._settings.batch_records
        if len(records) <= limit:
            return records, position
        self._inbox.appendleft((records[limit:], position))
        return records[:limit], records[limit].offset

    async def _decide(self, records: list[ConsumerRecord], next_offset: int) -> _Decided:
        """Store the outcomes of a batch and how far the lane has read, in one transaction."""
        requests, letters, as_of = self._decode(records)
        async with self._pool.acquire() as connection, connection.transaction():
            moved = await connection.execute(
                "update lanes set next_offset = greatest(next_offset, $5), as_of = greatest(as_of, $6)"
                " where consumer_group = $1 and topic = $2 and partition = $3 and epoch = $4",
                self._job.group,
                self.tp.topic,
                self.tp.partition,
                self._epoch,
                next_offset,
                as_of,
            )
            if moved != "UPDATE 1":
                raise _LostError(f"epoch {self._epoch} has a successor")
            answers = await self._job.decide(connection, Batch(self.tp.topic, self.tp.partition, requests))
        self._as_of, self._offset = as_of, next_offset
        return _Decided(answers + letters, next_offset)

    def _decode(self, records: list[ConsumerRecord]) -> tuple[list[Request[Any]], list[Message], Any]:
        requests, letters, as_of = [], [], self._as_of
        for record in records:
            try:
                as_of = max(as_of, _timestamp(record))
                event = decode(record.topic, record.key, record.value)
                self._job.screen(event)
            except Undecodable as problem:
                self._log.warning(
                    "dead_letter", offset=record.offset, reason=problem.reason, error=problem.error
                )
                letters.append(dead_letter(record, problem))
                continue
            account_id = event.subject or ""
            requests.append(Request(event, account_id, event.id, fingerprint(event), as_of, record.offset))
        return requests, letters, as_of

    async def _publish(self, decided: _Decided) -> None:
        """Publish a batch's answers and its offset in one transaction of the producer whose turn it is."""
        self._producers.reverse()  # the other one's last transaction may still be writing its markers
        producer = self._producers[0]
        async with asyncio.timeout(self._settings.transaction_seconds):
            await producer.begin_transaction()
            deliveries = await self._send(producer, decided.messages)
            await producer.send_offsets_to_transaction({self.tp: decided.next_offset}, self._job.group)
            # Each delivery is looked at: a commit does not tell that a record in it failed.
            await asyncio.gather(*deliveries)
        await _bounded(producer.commit_transaction(), self._settings.transaction_seconds)
        self._failures = 0

    async def _send(self, producer: AIOKafkaProducer, messages: list[Message]) -> list[asyncio.Future[Any]]:
        by_partition: dict[TopicPartition, list[Message]] = {}
        counts: dict[str, int] = {}
        for message in messages:
            partition = message.partition
            if partition is None:
                if message.topic not in counts:
                    counts[message.topic] = len(await producer.partitions_for(message.topic))
                partition = partition_of(message.key or b"", counts[message.topic])
            by_partition.setdefault(TopicPartition(message.topic, partition), []).append(message)
        deliveries = []
        for tp, group in by_partition.items():
            batch = producer.create_batch()
            for message in group:
                if batch.append(timestamp=None, key=message.key, value=message.value) is None:
                    deliveries.append(await producer.send_batch(batch, tp.topic, partition=tp.partition))
                    batch = producer.create_batch()
                    batch.append(timestamp=None, key=message.key, value=message.value)
            deliveries.append(await producer.send_batch(batch, tp.topic, partition=tp.partition))
        return deliveries

    # -- trouble --------------------------------------------------------------------------------------------------

    async def _back_off(self, error: BaseException) -> None:
        """Wait before the lane begins again, longer after each failure in a row, or until it is stopped."""
        least, most = _BACKOFF_SECONDS
        seconds = min(most, least * 2**self._failures) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        self._failures += 1
        self._log.warning(
            "lane_begins_again",
            offset=self._offset,
            error=repr(error),
            seconds=round(seconds, 3),
            tries=self._failures,
        )
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _discard_producers(self) -> None:
        producers, self._producers = self._producers, []
        for producer in producers:
            await _quietly(producer.stop, _STOP_SECONDS)


def _timestamp(record: ConsumerRecord) -> datetime:
    """Return the broker's time of a record.

    Raises:
        Undecodable: when a producer gave one that results could not carry. (A topic with LogAppendTime takes none.)

    """
    if not _TIMESTAMPS.start <= record.timestamp < _TIMESTAMPS.stop:
        raise Undecodable(
            DeadLetterReason.INVALID_EVENT,
            f"record timestamp: expected milliseconds of the years 2000 to 2199, got {record.timestamp}",
        )
    return from_milliseconds(record.timestamp)


async def _finished(publishing: asyncio.Task[None] | None) -> None:
    """Wait for the batch before, and raise what it raised.

    Waits beside the task instead of awaiting it, so that whoever cancels this lane does not cancel a commit: an
    interrupted one leaves its producer without a way out.
    """
    if publishing is not None:
        await asyncio.wait([publishing])
        publishing.result()


async def _bounded(work: Coroutine[Any, Any, None], seconds: float) -> None:
    """Wait for work that must not be cancelled, at most so long.

    Raises:
        KafkaError: when it is not done by then. It goes on by itself; its producer is to be discarded.

    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait([task], timeout=seconds)
    if not done:
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
        raise KafkaError(f"no answer to a commit within {seconds} s")
    task.result()


async def _quietly(stop: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """Stop a producer whose errors no longer matter: the next owner fences it in any case."""
    task = asyncio.ensure_future(stop())
    done, _ = await asyncio.wait([task], timeout=seconds)
    for finished in done:
        if (error := finished.exception()) is not None:
            structlog.get_logger("inmail.lane").debug("producer_stop_failed", error=repr(error))
