"""Topics that a lane had read before its topic was created again, or lost records: their last answers, from the books.

What was decided of them is final, and their records are gone. So what was stored and may not be published is published
before the lane reads what is there now.
"""

from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiokafka import TopicPartition

from infra.clock import EPOCH
from infra.kafka.transactions import Message
from infra.postgres import Pool
from infra.settings import Settings
from schemas.catalogue import BALANCES
from workers.jobs.job import Job, StoredRange
from workers.lane.lane_rows import LaneRow, LaneRows, Progress
from workers.lane.readback import Doubt, PublishedAnswers, scan_published

__all__ = ["EndedTopics"]

# Of each the watermark at which it ended, the one before, from where to where answers may not be published, and the
# time before which no broker received one of these.
_UNPUBLISHED = """
select e.as_of, e.since, e.unpublished_from, e.next_offset, e.published_time
from (
    select x.*, lag(x.as_of) over (order by x.as_of) as since
    from ended_topics as x
    where x.consumer_group = $1 and x.topic = $2 and x.partition = $3
) as e
where e.unpublished_from is not null
order by e.as_of
"""
_PUBLISHED = (
    "update ended_topics set unpublished_from = null"
    " where consumer_group = $1 and topic = $2 and partition = $3 and as_of = $4"
)


Publish = Callable[[Sequence[Message]], Awaitable[object]]


class EndedTopics:
    """The topics that lanes have read before the one that is there now."""

    def __init__(self, settings: Settings, pool: Pool, job: Job, rows: LaneRows) -> None:
        self._settings = settings
        self._pool = pool
        self._job = job
        self._rows = rows

    async def publish(self, row: LaneRow, publish: Publish, progress: Callable[[], None]) -> None:
        """Publish from the books what a reader does not see of one lane's answers; nothing where there are none.

        Raises:
            KafkaError, OSError, asyncpg.PostgresError: when a server does not answer. Done again, it finds the rest.

        """
        key = (self._rows.group, self._rows.topic, row.partition)
        for as_of, since, start, end, published_time in await self._pool.fetch(_UNPUBLISHED, *key):
            found: PublishedAnswers | None = None
            answers = 0
            for part in StoredRange(start, end, since, as_of).split(self._settings.batch_records):
                async with self._rows.fenced([Progress(row)]) as connection:
                    messages = await self._job.replay_answers(connection, row.partition, part)
                if messages and found is None:  # looked for once: whole topics may have to be read
                    doubt = Doubt(range(start, end), published_time or EPOCH, is_of_topic=False)
                    found = await self._scan(row, doubt, progress)
                missing = found.drop_published(messages, {})[0] if found is not None else messages
                if missing:
                    await publish(missing)
                answers += sum(message.topic != BALANCES for message in missing)
                progress()
            if found is not None:
                structlog.get_logger("inmail.lane").info(
                    "ended_topic_published", topic=self._rows.topic, partition=row.partition, answers=answers
                )
            await self._pool.execute(_PUBLISHED, *key, as_of)

    async def _scan(self, row: LaneRow, doubt: Doubt, progress: Callable[[], None]) -> PublishedAnswers:
        place = TopicPartition(self._rows.topic, row.partition)
        return (await scan_published(self._settings, {place: doubt}, progress))[place]
