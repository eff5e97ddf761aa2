"""Deciding the topics again into other books, without publishing: by the jobs' own code, in the one order.

A partition's number after another: its three topics are read as one (`merged.py`), and what may be decided together is
(`runs.py`). Each transaction writes into the other books' lanes how far it has come, so what was stopped or killed goes
on where it was. Nothing of the live books is written but the record of the operation.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import NamedTuple

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.kafka import reader
from infra.migrate import migrate
from infra.postgres import Connection, connect_database, is_refusal
from infra.settings import Settings
from workers.apart import decide_apart
from workers.billing import BillingJob
from workers.expiry import ExpiryJob
from workers.job import Batch, Decision, Job
from workers.ledger.plans import Catalogue
from workers.ledger.store import FUNCTIONS
from workers.ops.compare import Comparison, compare
from workers.ops.merged import Source, read_merged
from workers.ops.operations import Intent, RefusedError, Running, recorded
from workers.ops.rerun_plan import GROUPS, Asked, Plan, target_of
from workers.ops.runs import Run, Runs
from workers.send import SendJob
from workers.sorting import sort_records

__all__ = ["Who", "rerun"]

_NOTE_SECONDS = 1.0

Decide = Callable[[Job, Connection, Batch], Awaitable[Decision]]


class Who(NamedTuple):
    """Who does it, and why."""

    actor: str
    reason: str


async def rerun(  # noqa: PLR0913 - what, how and by whom, and how to stop it
    settings: Settings,
    asked: Asked,
    plan: Plan,
    *,
    who: Who,
    stop: asyncio.Event,
    rate: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Running, Comparison | None]:
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
    target = target_of(settings, asked)
    intent = Intent(asked.verb, *who, asked.arguments(settings), plan.summary())
    async with recorded(settings, intent) as operation, _other_books(target, intent) as connection:
        run = _Rerun(settings, asked, connection, operation, _Pace(rate, stop))
        await run.read(plan, progress)
        operation.stopped = stop.is_set()
        if operation.stopped:
            return operation, None
        comparison = await compare(settings, target, since=asked.start, until=asked.until)
        operation.result["differences"] = comparison.counts()
    return operation, comparison


@asynccontextmanager
async def _other_books(target: Settings, intent: Intent) -> AsyncIterator[Connection]:
    """Bring the other database to this version, note there what it holds, and open it."""
    connection = await connect_database(target)
    try:
        await migrate(connection, [FUNCTIONS])
        # What a crash of the server takes is read again: its lanes go back with it.
        await connection.execute("set synchronous_commit = off")
        async with recorded(target, intent):
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


class _Pace:
    """How fast records may be read, and whether to stop."""

    def __init__(self, rate: float | None, stop: asyncio.Event) -> None:
        self._rate = rate
        self._stop = stop
        self._clock = asyncio.get_running_loop().time
        self._next = self._clock()

    def at_once(self, most: int) -> int:
        """Return how many records may go into one transaction: a second's worth."""
        return most if self._rate is None else max(1, min(most, round(self._rate)))

    async def stops(self, done: int) -> bool:
        """Wait as long as so many records take; tell whether it is time to stop."""
        if self._rate is not None:
            self._next = max(self._next, self._clock() - 1.0) + done / self._rate
            try:
                await asyncio.wait_for(self._stop.wait(), max(0.0, self._next - self._clock()))
            except TimeoutError:
                return False
        return self._stop.is_set()


class _Rerun:
    """One run: reads, decides, and writes down how far it has come."""

    def __init__(
        self, settings: Settings, asked: Asked, connection: Connection, operation: Running, pace: _Pace
    ) -> None:
        first, other = asked.catalogues(settings)
        self._jobs, self._other_jobs = _jobs(first, settings), _jobs(other, settings)
        self._settings, self._asked = settings, asked
        self._connection = connection
        self._operation = operation
        self._pace = pace
        self._letters: Counter[str] = Counter()
        self._noted_at = 0.0
        operation.result |= {"read": 0, "dead_letters": {}}

    async def read(self, plan: Plan, progress: Callable[[int], None]) -> None:
        """Read each partition's number in turn, until asked to stop."""
        passed = 0
        async with reader(self._settings) as consumer:
            for partition in sorted({span.partition for span in plan.spans}):
                sources = plan.sources(partition, self._asked.until)
                total = sum(source.end - source.position for source in sources)
                if await self._read_partition(consumer, partition, sources, passed, progress):
                    return
                passed += total
                progress(passed)

    async def _read_partition(
        self,
        consumer: AIOKafkaConsumer,
        partition: int,
        sources: Sequence[Source],
        passed: int,
        progress: Callable[[int], None],
    ) -> bool:
        """Decide what is left of a partition's number; tell whether it was to stop before its end."""
        lanes = _Lanes(self._connection, partition, sources)
        await lanes.open()
        most = self._pace.at_once(self._settings.batch_records)
        runs = Runs()
        async with aclosing(read_merged(consumer, sources)) as records:
            async for record, as_of in records:
                runs.add(self._job(record.topic, as_of), record)
                if runs.count >= most:
                    await self._store(lanes, runs.runs)
                    passed += runs.count
                    progress(passed)
                    await self._note(runs.count)
                    if await self._pace.stops(runs.count):
                        return True
                    runs = Runs()
        await self._store(lanes, runs.runs, {source.place.topic: (source.end, source.as_of) for source in sources})
        await self._note(runs.count)
        return await self._pace.stops(runs.count)

    def _job(self, topic: str, as_of: datetime) -> Job:
        since = self._asked.since
        return (self._jobs if since is not None and as_of < since else self._other_jobs)[topic]

    async def _store(
        self, lanes: "_Lanes", runs: Sequence[Run], ends: dict[str, tuple[int, datetime]] | None = None
    ) -> None:
        """Decide in one transaction, in parts where the database refuses it whole."""
        try:
            letters = await lanes.store(runs, _decide, ends or {})
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            letters = await lanes.store(runs, decide_apart, ends or {})
        self._letters += letters

    async def _note(self, count: int) -> None:
        result = self._operation.result
        result["read"] += count
        result["dead_letters"] = dict(self._letters)
        now = asyncio.get_running_loop().time()
        if now - self._noted_at > _NOTE_SECONDS:
            self._noted_at = now
            await self._operation.note()


async def _decide(job: Job, connection: Connection, batch: Batch) -> Decision:
    return await job.decide(connection, batch)


class _Lanes:
    """The three lanes of a partition's number in the other books."""

    def __init__(self, connection: Connection, partition: int, sources: Sequence[Source]) -> None:
        self._connection = connection
        self._partition = partition
        self._read = {source.place.topic: (source.position, source.as_of) for source in sources}

    async def open(self) -> None:
        """Make the lanes' rows where there are none."""
        await self._connection.executemany(
            "insert into lanes (consumer_group, topic, partition, epoch, next_offset, as_of)"
            " values ($1, $2, $3, 1, $4, $5) on conflict do nothing",
            [(GROUPS[topic], topic, self._partition, *read) for topic, read in self._read.items()],
        )

    async def store(self, runs: Sequence[Run], decide: Decide, ends: dict[str, tuple[int, datetime]]) -> Counter[str]:
        """Decide, and move the lanes behind what was decided, or to their ends; return the dead letters by reason."""
        read = dict(self._read)
        letters: Counter[str] = Counter()
        async with self._connection.transaction():
            for job, records in ((run.job, run.records) for run in runs):
                found = sort_records(records, read[job.topic][1])
                read[job.topic] = (records[-1].offset + 1, found.as_of)
                batch = Batch(job.topic, self._partition, found.requests)
                while job.in_steps and await job.step(self._connection, batch):
                    pass  # nobody waits for these accounts
                decision = await decide(job, self._connection, batch)
                letters.update(each.reason.value for each in (found.refused | decision.refused).values())
            read |= ends
            for topic, (next_offset, as_of) in read.items():
                await self._move(topic, next_offset, as_of)
        self._read = read
        return letters

    async def _move(self, topic: str, next_offset: int, as_of: datetime) -> None:
        moved = await self._connection.execute(
            "update lanes set next_offset = $4, as_of = $5"
            " where consumer_group = $1 and topic = $2 and partition = $3 and next_offset = $6",
            GROUPS[topic],
            topic,
            self._partition,
            next_offset,
            as_of,
            self._read[topic][0],
        )
        if moved != "UPDATE 1":
            raise RefusedError(
                f"another run has gone on with {topic}/{self._partition} since the plan was made: say it again"
            )
