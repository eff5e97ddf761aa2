"""How far each lane has stored and published, read from the books and from Kafka's committed offsets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from infra.clock import utc_now
from infra.kafka.clients import committed_offsets
from infra.postgres import Connection

__all__ = ["LaneReader", "LaneState", "MisplacedRecords", "read_misplaced"]

_LANES = "select consumer_group, topic, partition, next_offset, as_of from lanes order by consumer_group, partition"


_MISPLACED = """
select topic, source, sum(records)::bigint as records, max(last_at) as last_at
from misplaced_records
group by topic, source
order by topic, source
"""


class MisplacedRecords(NamedTuple):
    """Records of a topic that one source sent to other partitions than their accounts' own."""

    topic: str
    source: str
    records: int
    last_at: datetime


async def read_misplaced(connection: Connection) -> list[MisplacedRecords]:
    """Return them by topic and source.

    Raises:
        OSError, asyncpg.PostgresError: when the books cannot be read.

    """
    return [MisplacedRecords(*row) for row in await connection.fetch(_MISPLACED)]


class LaneState(NamedTuple):
    """One lane at a reading."""

    topic: str
    partition: int
    unpublished: int  # input records whose outcomes are stored and whose answers are not published
    unpublished_seconds: float  # for how long that has been seen of the same ones
    watermark_age: float | None  # seconds; None where it has stored nothing


class _Waiting(NamedTuple):
    offset: int  # stored up to here, and not published when it was first seen
    since: datetime


@dataclass(slots=True)
class LaneReader:
    """Reads the lanes again and again, and remembers since when outcomes wait to be published."""

    clock: Callable[[], datetime] = utc_now
    _waiting: dict[TopicPartition, _Waiting] = field(default_factory=dict)

    async def read(self, connection: Connection, admin: AIOKafkaAdminClient) -> list[LaneState]:
        """Return every lane. What it has stored is read first: what is published meanwhile does not count as waiting.

        Raises:
            OSError, asyncpg.PostgresError, KafkaError: when a server does not answer.

        """
        rows = await connection.fetch(_LANES)
        committed: dict[TopicPartition, int | None] = {}
        for group in dict.fromkeys(row["consumer_group"] for row in rows):
            places = [TopicPartition(r["topic"], r["partition"]) for r in rows if r["consumer_group"] == group]
            committed |= await committed_offsets(admin, group, places)
        return self.judge([tuple(row)[1:] for row in rows], committed)

    def judge(
        self, rows: Sequence[tuple[str, int, int | None, datetime | None]], committed: dict[TopicPartition, int | None]
    ) -> list[LaneState]:
        """Return the lanes, given their rows (topic, partition, next offset, as_of) and the groups' offsets."""
        now = self.clock()
        states = []
        for topic, partition, stored, as_of in rows:
            place = TopicPartition(topic, partition)
            published = committed[place]
            unpublished = 0 if published is None else max(0, (stored or 0) - published)
            seconds = self._waits(place, stored or 0, published or 0, now) if unpublished else 0.0
            if not unpublished:
                self._waiting.pop(place, None)
            age = None if as_of is None else max(0.0, (now - as_of).total_seconds())
            states.append(LaneState(topic, partition, unpublished, seconds, age))
        return states

    def _waits(self, place: TopicPartition, stored: int, published: int, now: datetime) -> float:
        waiting = self._waiting.get(place)
        if waiting is None or published >= waiting.offset:
            waiting = self._waiting[place] = _Waiting(stored, now)
        return (now - waiting.since).total_seconds()
