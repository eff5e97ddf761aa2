"""Rebuilds the ledger: decides all input records again, in decision order, into a target database.

The three topics of a partition number are read as one stream (`merge_topics.py`), combined into batches
(`parallel_batches.py`), and decided by the workers' own code. Each transaction moves the target's lanes, so a stopped
or killed rebuild can be resumed (`rebuild_lanes.py`). Several partition numbers are decided concurrently. Nothing is
published, and the live database gets only the record of the operation.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from math import inf

from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.first_of import run_until_first
from infra.kafka.clients import admin_client, count_partitions, reader
from infra.migrate import migrate
from infra.postgres import Connection, open_database
from infra.rate_limit import RateLimit
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
from workers.ops.operations import Intent, OngoingOperation, Operator, recorded_operation
from workers.ops.replay.merge_topics import PartitionCursor, read_in_time_order
from workers.ops.replay.parallel_batches import BatchCombiner
from workers.ops.replay.rebuild_lanes import TargetLanes
from workers.ops.replay.rebuild_plan import RebuildPlan, RebuildRequest, target_settings

__all__ = ["rebuild"]

SIDE_BY_SIDE = 4  # partition numbers decided concurrently: each mostly waits for Kafka and Postgres
_NOTE_SECONDS = 1.0


async def rebuild(  # noqa: PLR0913 - what, how and by whom, and how to stop it
    settings: Settings,
    request: RebuildRequest,
    plan: RebuildPlan,
    *,
    who: Operator,
    stop: asyncio.Event,
    rate: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
    noted_on: Settings | None = None,
) -> tuple[OngoingOperation, Comparison | None]:
    """Decide the records of a plan again and compare the ledgers; return the operation and, at the end, the comparison.

    Args:
        settings: where Kafka and the live database are.
        request: the records to decide, and the rules.
        plan: the accepted plan.
        who: the operator.
        stop: ends the rebuild between two transactions, or the comparison; the same command resumes it.
        rate: maximum number of records a second; None: no limit.
        progress: called with the number of records read.
        noted_on: where the operation is recorded; None: with the live database.

    Raises:
        RefusedError: when another rebuild is running, or has changed the target since the plan was made, or a number
            has moved from or to the server since.
        NotSetUpError, KafkaError, OSError, asyncpg.PostgresError: when the rebuild fails; the same command resumes it.

    """
    target = target_settings(settings, request)
    intent = Intent(request.verb, *who, request.arguments(settings), plan.summary())
    async with admin_client(settings) as admin:
        partitions = (await count_partitions(admin, [SEND_REQUESTS]))[SEND_REQUESTS]
    noted = recorded_operation(noted_on or settings, intent)
    async with noted as operation, _open_target(target, request, intent, partitions):
        await _Rebuild(settings, request, operation, RateLimit(rate, stop), progress).read(plan)
        operation.stopped = stop.is_set()
        if operation.stopped:
            return operation, None
        comparison = await _compare(settings, target, request, stop)
        operation.stopped = comparison is None
        if comparison is not None:
            operation.result["differences"] = comparison.counts()
    return operation, comparison


async def _compare(
    settings: Settings, target: Settings, request: RebuildRequest, stop: asyncio.Event
) -> Comparison | None:
    """Return the comparison of the ledgers, which takes minutes of large ones; None if a stop is requested before."""
    found: list[Comparison] = []

    async def read() -> None:
        numbers, since, until = request.numbers, request.start, request.until
        found.append(await compare(settings, target, since=since, until=until, numbers=numbers))

    await run_until_first(read(), stop.wait())
    return found[0] if found else None


@asynccontextmanager
async def _open_target(
    target: Settings, request: RebuildRequest, intent: Intent, partitions: int
) -> AsyncIterator[None]:
    """Migrate the target, and record the operation there too."""
    async with _connect_target(target) as connection:
        if request.schema is not None:
            await connection.execute(f"create schema if not exists {request.schema}")  # the plan has checked the name
        await migrate(connection, [FUNCTIONS])
        # No lane opens here, which would otherwise write by how many partitions accounts are numbered.
        await connection.execute("insert into partitioning (partitions) values ($1) on conflict do nothing", partitions)
        if request.numbers:  # a record of another number is a dead letter, as it is to the live lanes
            await connection.execute("update shard set ordinal = 1, holds_all = false")
            await connection.execute(
                "insert into shard_numbers (number, state) select unnest($1::integer[]), 'held' on conflict do nothing",
                request.numbers,
            )
    async with recorded_operation(target, intent):
        yield


@asynccontextmanager
async def _connect_target(target: Settings) -> AsyncIterator[Connection]:
    async with open_database(target) as connection:
        # After a crash of the server, lost transactions are decided again: the lanes' rows are lost with them.
        # A migration of its tables may have to wait for another one.
        await connection.execute("set synchronous_commit = off; set lock_timeout = 0")
        yield connection


def _jobs(catalogue: Catalogue, settings: Settings) -> dict[str, Job]:
    jobs: list[Job] = [BillingJob(catalogue), SendJob(catalogue), ExpiryJob(catalogue, settings)]
    return {job.topic: job for job in jobs}


class _Rebuild:
    """One rebuild: reads and decides records, and records its progress."""

    def __init__(
        self,
        settings: Settings,
        request: RebuildRequest,
        operation: OngoingOperation,
        limit: RateLimit,
        progress: Callable[[int], None],
    ) -> None:
        first, other = request.catalogues(settings)
        self._jobs, self._other_jobs = _jobs(first, settings), _jobs(other, settings)
        self._settings, self._request = settings, request
        self._operation = operation
        self._rate_limit = limit
        self._progress = progress
        self._passed: Counter[int] = Counter()  # records, by partition
        self._letters: Counter[str] = Counter()
        self._noted_at = 0.0
        operation.result |= {"read": 0, "dead_letters": {}}

    async def read(self, plan: RebuildPlan) -> None:
        """Decide the partition numbers, several concurrently, until a stop is requested.

        Partition numbers share no accounts, except those of a producer with another partitioner, which have no order.
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
        async with _connect_target(self._settings) as live:
            return {
                place: await read_time_policy(live, self._settings.topic_record_time, place)
                for place in (TopicPartition(span.topic, span.partition) for span in plan.spans)
            }

    async def _read_next(
        self, plan: RebuildPlan, times: Mapping[TopicPartition, TimePolicy], left: Iterator[int]
    ) -> None:
        """Decide partition numbers, one after another, while any is left."""
        async with (
            _connect_target(target_settings(self._settings, self._request)) as connection,
            reader(self._settings) as consumer,
        ):
            for partition in left:
                cursors = plan.cursors(partition, times, self._request.until)
                lanes = TargetLanes(connection, partition, cursors)
                await lanes.open()
                if await self._read_partition(consumer, lanes, partition, cursors):
                    return

    async def _read_partition(
        self, consumer: AIOKafkaConsumer, lanes: TargetLanes, partition: int, cursors: Sequence[PartitionCursor]
    ) -> bool:
        """Decide the remaining records of a partition number; return whether a stop is requested."""
        total = sum(cursor.end - cursor.position for cursor in cursors)
        most = self._rate_limit.batch_size(self._settings.batch_records, SIDE_BY_SIDE)
        batches = BatchCombiner()
        async with aclosing(read_in_time_order(consumer, cursors)) as records:
            async for record, as_of in records:
                batches.add(self._job(record.topic, as_of), record)
                if batches.count >= most:
                    await self._record_progress(partition, batches.count, await lanes.store(batches.batches))
                    if await self._rate_limit.after(batches.count):
                        return True
                    batches = BatchCombiner()
        ends = {cursor.place.topic: (cursor.end, cursor.as_of) for cursor in cursors}
        await self._record_progress(partition, batches.count, await lanes.store(batches.batches, ends))
        # Transaction markers and records after `until` count too.
        self._passed[partition] = total
        self._progress(self._passed.total())
        return await self._rate_limit.after(batches.count)

    def _job(self, topic: str, as_of: datetime) -> Job:
        since = self._request.since
        return (self._jobs if since is not None and as_of < since else self._other_jobs)[topic]

    async def _record_progress(self, partition: int, count: int, letters: Counter[str]) -> None:
        self._letters += letters
        self._passed[partition] += count
        self._progress(self._passed.total())
        result = self._operation.result
        result["read"] += count
        result["dead_letters"] = dict(self._letters)
        now = asyncio.get_running_loop().time()
        if now - self._noted_at > _NOTE_SECONDS:
            self._noted_at = inf  # one save at a time
            await self._operation.save_progress()
            self._noted_at = now
