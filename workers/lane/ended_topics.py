"""Topics that a lane had read before its topic was created again, or lost records: their last answers, from the books.

What was decided of them is final, and their records are gone. So what was stored and may not be published is published
before the lane reads what is there now.
"""

from collections.abc import Callable
from datetime import datetime

import structlog
from aiokafka import TopicPartition

from infra.clock import to_milliseconds
from infra.kafka.transactions import Message, TransactionPair
from infra.postgres import Pool
from infra.settings import Settings
from workers.jobs.job import Job, StoredRange
from workers.lane.lane_row import LaneRow
from workers.lane.readback import find_visible

__all__ = ["EndedTopics"]

# Of each the watermark at which it ended, the one before, and from where to where answers may not be published.
_UNPUBLISHED = """
select e.as_of, e.since, e.unpublished_from, e.next_offset
from (
    select x.*, lag(x.as_of) over (order by x.as_of) as since
    from ended_topics as x
    where x.consumer_group = $1 and x.topic = $2 and x.partition = $3
) as e
where e.unpublished_from is not null
order by e.as_of
"""
# When the first of those answers was decided: no answer is older.
_FIRST = """
select min(as_of)
from (
    select as_of from journal
    where worker = $1 and source_partition = $2 and source_offset >= $3 and source_offset < $4
        and as_of > coalesce($5::timestamptz, '-infinity') and as_of <= $6
    union all
    select as_of from ticks
    where $1 = 'expiry' and partition = $2 and source_offset >= $3 and source_offset < $4
        and as_of > coalesce($5::timestamptz, '-infinity') and as_of <= $6
) as x
"""
_PUBLISHED = (
    "update ended_topics set unpublished_from = null"
    " where consumer_group = $1 and topic = $2 and partition = $3 and as_of = $4"
)


class EndedTopics:
    """The topics that one lane has read before the one that is there now."""

    def __init__(self, settings: Settings, pool: Pool, job: Job, row: LaneRow) -> None:
        self._settings = settings
        self._pool = pool
        self._job = job
        self._row = row

    async def publish(self, producers: TransactionPair, progress: Callable[[], None]) -> None:
        """Publish from the books what a reader does not see of their answers; nothing where there are none.

        Raises:
            KafkaError, OSError, asyncpg.PostgresError: when a server does not answer. Done again, it finds the rest.

        """
        row = self._row
        key = (row.group, row.topic, row.partition)
        for as_of, since, start, end in await self._pool.fetch(_UNPUBLISHED, *key):
            async with row.fenced() as connection:
                gone = StoredRange(start, end, since, as_of)
                messages = await self._job.replay_answers(connection, row.partition, gone)
                first = await connection.fetchval(_FIRST, row.group.removeprefix("inmail-"), row.partition, *gone)
            if messages:
                await self._publish(messages, gone, first, producers, progress)
            await self._pool.execute(_PUBLISHED, *key, as_of)

    async def _publish(
        self,
        messages: list[Message],
        gone: StoredRange,
        first: datetime,
        producers: TransactionPair,
        progress: Callable[[], None],
    ) -> None:
        row = self._row
        place = TopicPartition(row.topic, row.partition)
        span, since = (gone.start, gone.end), to_milliseconds(first)
        visible = await find_visible(self._settings, place, span, progress, since=since)
        missing, _ = visible.missing(messages, {})
        if missing:
            await producers.publish(missing, {}, row.group)
        structlog.get_logger("inmail.lane").info(
            "ended_topic_published", topic=row.topic, partition=row.partition, answers=len(missing)
        )
