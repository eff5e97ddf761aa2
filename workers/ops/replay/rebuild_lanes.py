"""Decides the batches of one partition number into the target database, and moves its lanes there."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import asyncpg

from infra.clock import LATEST
from infra.postgres import Connection, is_refusal
from workers.jobs.bisection import decide_bisected
from workers.jobs.decoding import decode_records
from workers.jobs.job import Batch, Decision, Job
from workers.ops.operations import RefusedError
from workers.ops.replay.merge_topics import PartitionCursor
from workers.ops.replay.parallel_batches import CombinedBatch
from workers.topology import GROUP_OF

__all__ = ["ReadPositions", "TargetLanes"]

_ATTEMPTS = 5

Decide = Callable[[Job, Connection, Batch], Awaitable[Decision]]
ReadPositions = dict[str, tuple[int, datetime]]  # by topic: the next offset to decide, and the latest broker time


async def _decide(job: Job, connection: Connection, batch: Batch) -> Decision:
    return await job.decide(connection, batch)


class TargetLanes:
    """The three lanes of a partition number in the target database."""

    def __init__(self, connection: Connection, partition: int, cursors: Sequence[PartitionCursor]) -> None:
        self._connection = connection
        self._partition = partition
        self._times = {cursor.place.topic: cursor.times for cursor in cursors}
        self._read = {cursor.place.topic: (cursor.position, cursor.as_of) for cursor in cursors}

    async def open(self) -> None:
        """Insert the lanes' rows unless they exist."""
        await self._connection.executemany(
            "insert into lanes (consumer_group, topic, partition, epoch, next_offset, as_of)"
            " values ($1, $2, $3, 1, $4, $5) on conflict do nothing",
            [(GROUP_OF[topic], topic, self._partition, *read) for topic, read in self._read.items()],
        )

    async def store(self, batches: Sequence[CombinedBatch], ends: ReadPositions | None = None) -> Counter[str]:
        """Decide batches and move the lanes, in one transaction; bisect batches that the database refuses.

        Args:
            batches: the batches in decision order.
            ends: the lanes' final positions, if after the batches' last records.

        Returns:
            the number of dead letters by reason.

        Raises:
            RefusedError: when another rebuild has moved the lanes.
            OSError, asyncpg.PostgresError: when the database cannot be reached or refuses.

        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._store_whole_or_bisected(batches, ends or {})
            except asyncpg.DeadlockDetectedError:
                # Two partition numbers lock the same account if a producer uses another partitioner.
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError  # unreachable: an attempt returned or raised

    async def _store_whole_or_bisected(self, batches: Sequence[CombinedBatch], ends: ReadPositions) -> Counter[str]:
        try:
            return await self._store(batches, _decide, ends)
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            return await self._store(batches, decide_bisected, ends)

    async def _store(self, batches: Sequence[CombinedBatch], decide: Decide, ends: ReadPositions) -> Counter[str]:
        read = dict(self._read)
        letters: Counter[str] = Counter()
        async with self._connection.transaction():
            for job, records in ((combined.job, combined.records) for combined in batches):
                found = decode_records(records, read[job.topic][1], self._times[job.topic])
                read[job.topic] = (records[-1].offset + 1, found.as_of)
                batch = Batch(found.requests, read_to=LATEST)
                while job.step is not None and await job.step(self._connection, batch):
                    pass  # no other transaction waits for these accounts
                decision = await decide(job, self._connection, batch)
                letters.update(each.reason.value for each in (found.refused | decision.refused).values())
            read |= ends
            for topic, (next_offset, as_of) in read.items():
                await self._move_lane(topic, next_offset, as_of)
        self._read = read
        return letters

    async def _move_lane(self, topic: str, next_offset: int, as_of: datetime) -> None:
        moved = await self._connection.execute(
            "update lanes set next_offset = $4, as_of = $5"
            " where consumer_group = $1 and topic = $2 and partition = $3 and next_offset = $6",
            GROUP_OF[topic],
            topic,
            self._partition,
            next_offset,
            as_of,
            self._read[topic][0],
        )
        if moved != "UPDATE 1":
            raise RefusedError(
                f"another rebuild has moved {topic}/{self._partition} since the plan was made: run the command again"
            )
