"""Deciding the topics again into other books, without publishing: by the jobs' own code, in the one order.

The three topics of a partition's number are read as one (`merged.py`), and what may be decided together is (`runs.py`).
Each transaction writes into the other books' lanes how far it has come, so what was stopped or killed goes on where it
was (`rerun_lanes.py`). Some numbers go side by side. Nothing of the live books is written but the record of the
operation.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from math import inf

from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.kafka.clients import admin_client, count_partitions, reader
from infra.migrate import migrate
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.job import Job
from workers.jobs.record_times import TimePolicy, read_time_policy
from workers.jobs.send import SendJob
from workers.ledger.plans import Catalogue
from workers.ledger.store import FUNCTIONS
from workers.ops.compare.comparison import Comparison, compare
from workers.ops.operations import Intent, OngoingOperation, Operator, recorded
from workers.ops.replay.merge_topics import PartitionCursor, read_in_time_order
from workers.ops.replay.parallel_batches import BatchCombiner
from workers.ops.replay.rebuild_lanes import TargetLanes
from workers.ops.replay.rebuild_plan import RebuildPlan, RebuildRequest, target_settings

__all__ = ["Operator", "rebuild"]

SIDE_BY_SIDE = 4  # partitions' numbers: each waits for Kafka and Postgres most of the time
_NOTE_SECONDS = 1.0


async def rebuild(  # noqa: PLR0913 - what, how and by whom, and how to stop it
    settings: Settings,
    asked: RebuildRequest,
    plan: RebuildPlan,
    *,
    who: Operator,
    stop: asyncio.Event,
    rate: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[OngoingOperation, Comparison | None]:
    """Decide again what a plan names, and compare the books; return the operation, and what differs if all was read.

    Args:
        settings: where Kafka and the live books are.
        asked: what is to be decided again.
        plan: what was agreed to.
        who: who it is, and why.
        stop: ends it between two transactions. The same again goes on from there.
        rate: records a second at most.
        progress: called with the number of records read.

    Raises:
        RefusedError: when another run is under way, or has gone on with these books since the plan was made.
        NotSetUpError, KafkaError, OSError, asyncpg.PostgresError: when it cannot go on. The same again goes on.

    """
    target = target_settings(settings, asked)
    intent = Intent(asked.verb, *who, asked.arguments(settings), plan.summary())
    async with admin_client(settings) as admin:
        partitions = (await count_partitions(admin, [SEND_REQUESTS]))[SEND_REQUESTS]
    async with recorded(settings, intent) as operation, _other_books(target, asked, intent, partitions):
        await _Rebuild(settings, asked, operation, _ReadRate(rate, stop), progress).read(plan)
        operation.stopped = stop.is_set()
        if operation.stopped:
            return operation, None
        comparison = await compare(settings, target, since=asked.start, until=asked.until)
        operation.result["differences"] = comparison.counts()
    return operation, comparison


@asynccontextmanager
async def _other_books(target: Settings, asked: RebuildRequest, intent: Intent, partitions: int) -> AsyncIterator[None]:
    """Bring the other books to this version, and note there what they hold."""
    async with _connected(target) as connection:
        if asked.schema is not None:
            await connection.execute(f"create schema if not exists {asked.schema}")  # a name that the plan has checked
        await migrate(connection, [FUNCTIONS])
        # No lane opens here, which would otherwise write by how many partitions accounts are numbered.
        await connection.execute("insert into partitioning (partitions) values ($1) on conflict do nothing", partitions)
    async with recorded(target, intent):
        yield


@asynccontextmanager
async def _connected(target: Settings) -> AsyncIterator[Connection]:
    connection = await connect_database(target)
    try:
        # What a crash of the server takes is read again: its lanes go back with it.
        await connection.execute("set synchronous_commit = off")
        yield connection
    finally:
        await connection.close()


class _Everything:
    """What a tick asks about its neighbours: in the one order they have read all that comes before it."""

    async def end_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return ends that each neighbour has reached."""
        return dict.fromkeys(places, 0)


def _jobs(catalogue: Catalogue, settings: Settings) -> dict[str, Job]:
    jobs: list[Job] = [BillingJob(catalogue), SendJob(catalogue), ExpiryJob(_Everything(), catalogue, settings)]
    return {job.topic: job for job in jobs}


class _ReadRate:
    """How fast records may be read, and whether to stop."""

    def __init__(self, rate: float | None, stop: asyncio.Event) -> None:
        self._rate = rate
        self._stop = stop
        self._clock = asyncio.get_running_loop().time
        self._next = self._clock()

    def at_once(self, most: int) -> int:
        """Return how many records may go into one transaction: a second's worth, of all that go side by side."""
        return most if self._rate is None else max(1, min(most, round(self._rate / SIDE_BY_SIDE)))

    async def stops(self, done: int) -> bool:
        """Wait as long as so many records take; tell whether it is time to stop."""
        if self._rate is not None:
            self._next = max(self._next, self._clock() - 1.0) + done / self._rate
            try:
                await asyncio.wait_for(self._stop.wait(), max(0.0, self._next - self._clock()))
            except TimeoutError:
                return False
        return self._stop.is_set()


class _Rebuild:
    """One run: reads, decides, and writes down how far it has come."""

    def __init__(
        self,
        settings: Settings,
        asked: RebuildRequest,
        operation: OngoingOperation,
        pace: _ReadRate,
        progress: Callable[[int], None],
    ) -> None:
        first, other = asked.catalogues(settings)
        self._jobs, self._other_jobs = _jobs(first, settings), _jobs(other, settings)
        self._settings, self._asked = settings, asked
        self._operation = operation
        self._pace = pace
        self._progress = progress
        self._passed: Counter[int] = Counter()  # records, by partition
        self._letters: Counter[str] = Counter()
        self._noted_at = 0.0
        operation.result |= {"read": 0, "dead_letters": {}}

    async def read(self, plan: RebuildPlan) -> None:
        """Read the partitions' numbers, some side by side, until asked to stop.

        They have no account in common; those of a producer that put one into two have no order anyway.
        """
        numbers = sorted({span.partition for span in plan.spans})
        left = iter(numbers)
        times = await self._time_policies(plan)
        tasks = [asyncio.create_task(self._read_next(plan, times, left)) for _ in numbers[:SIDE_BY_SIDE]]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _time_policies(self, plan: RebuildPlan) -> dict[TopicPartition, TimePolicy]:
        """Return whose word for a time is taken, as the live lanes take it."""
        async with _connected(self._settings) as live:
            return {
                place: await read_time_policy(live, self._settings.topic_record_time, place)
                for place in (TopicPartition(span.topic, span.partition) for span in plan.spans)
            }

    async def _read_next(
        self, plan: RebuildPlan, times: Mapping[TopicPartition, TimePolicy], left: Iterator[int]
    ) -> None:
        """Read one number after another of those that nobody has begun."""
        async with (
            _connected(target_settings(self._settings, self._asked)) as connection,
            reader(self._settings) as consumer,
        ):
            for partition in left:
                sources = plan.sources(partition, times, self._asked.until)
                lanes = TargetLanes(connection, partition, sources)
                await lanes.open()
                if await self._read_partition(consumer, lanes, partition, sources):
                    return

    async def _read_partition(
        self, consumer: AIOKafkaConsumer, lanes: TargetLanes, partition: int, sources: Sequence[PartitionCursor]
    ) -> bool:
        """Decide what is left of a partition's number; tell whether it is time to stop."""
        total = sum(source.end - source.position for source in sources)
        most = self._pace.at_once(self._settings.batch_records)
        runs = BatchCombiner()
        async with aclosing(read_in_time_order(consumer, sources)) as records:
            async for record, as_of in records:
                runs.add(self._job(record.topic, as_of), record)
                if runs.count >= most:
                    await self._note(partition, runs.count, await lanes.store(runs.runs))
                    if await self._pace.stops(runs.count):
                        return True
                    runs = BatchCombiner()
        ends = {source.place.topic: (source.end, source.as_of) for source in sources}
        await self._note(partition, runs.count, await lanes.store(runs.runs, ends))
        # Markers of transactions count too, and what came too late to be meant.
        self._passed[partition] = total
        self._progress(self._passed.total())
        return await self._pace.stops(runs.count)

    def _job(self, topic: str, as_of: datetime) -> Job:
        since = self._asked.since
        return (self._jobs if since is not None and as_of < since else self._other_jobs)[topic]

    async def _note(self, partition: int, count: int, letters: Counter[str]) -> None:
        self._letters += letters
        self._passed[partition] += count
        self._progress(self._passed.total())
        result = self._operation.result
        result["read"] += count
        result["dead_letters"] = dict(self._letters)
        now = asyncio.get_running_loop().time()
        if now - self._noted_at > _NOTE_SECONDS:
            self._noted_at = inf  # one note at a time
            await self._operation.note()
            self._noted_at = now
