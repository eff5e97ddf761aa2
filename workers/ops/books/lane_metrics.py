"""Each lane's stored and published progress, from the ledger's database and Kafka's committed offsets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from infra.clock import utc_now
from infra.kafka.clients import committed_offsets
from infra.postgres import Connection
from workers.ops.books.lanes import LaneProgress
from workers.ops.books.shards import Holdings

__all__ = ["LaneReader", "LaneState", "MisplacedRecords", "read_misplaced"]


_MISPLACED = """
select topic, source, sum(records)::bigint as records, max(last_at) as last_at
from misplaced_records
where partition <> all($1::integer[])
group by topic, source
order by topic, source
"""


class MisplacedRecords(NamedTuple):
    """Records of a topic that one source sent to other partitions than their accounts' own."""

    topic: str
    source: str
    records: int
    last_at: datetime


async def read_misplaced(connection: Connection, holdings: Holdings) -> list[MisplacedRecords]:
    """Return them by topic and source, of the partitions that the server holds.

    Raises:
        OSError, asyncpg.PostgresError: when the books cannot be read.

    """
    return [MisplacedRecords(*row) for row in await connection.fetch(_MISPLACED, holdings.foreign)]


class LaneState(NamedTuple):
    """The state of one lane at a reading."""

    topic: str
    partition: int
    unpublished: int  # number of input records with a stored outcome and no published answer
    unpublished_seconds: float  # for how long the same records have been seen unpublished
    watermark_age: float | None  # seconds; None if the lane has stored nothing


class _Waiting(NamedTuple):
    offset: int  # next offset to decide when unpublished records were first seen
    since: datetime


@dataclass(slots=True)
class LaneReader:
    """Reads the lanes periodically, and remembers since when outcomes have waited for publication."""

    clock: Callable[[], datetime] = utc_now
    _waiting: dict[TopicPartition, _Waiting] = field(default_factory=dict)

    async def read(self, lanes: Sequence[LaneProgress], admin: AIOKafkaAdminClient) -> list[LaneState]:
        """Return the state of each lane.

        Stored offsets are read before committed ones, so that answers published in between do not count as waiting.

        Args:
            lanes: what the lanes have stored.
            admin: an open client.

        Raises:
            KafkaError: when the brokers do not answer.

        """
        committed: dict[TopicPartition, int | None] = {}
        for group in dict.fromkeys(lane.group for lane in lanes):
            places = [TopicPartition(lane.topic, lane.partition) for lane in lanes if lane.group == group]
            committed |= await committed_offsets(admin, group, places)
        return self.measure(lanes, committed)

    def measure(self, lanes: Sequence[LaneProgress], committed: Mapping[TopicPartition, int | None]) -> list[LaneState]:
        """Return each lane's state, given what the lanes have stored and the groups' committed offsets."""
        now = self.clock()
        states = []
        for lane in lanes:
            stored, place = lane.next_offset, TopicPartition(lane.topic, lane.partition)
            published = committed[place]
            unpublished = 0 if published is None else max(0, (stored or 0) - published)
            seconds = self._waiting_seconds(place, stored or 0, published or 0, now) if unpublished else 0.0
            if not unpublished:
                self._waiting.pop(place, None)
            age = None if lane.as_of is None else max(0.0, (now - lane.as_of).total_seconds())
            states.append(LaneState(lane.topic, lane.partition, unpublished, seconds, age))
        return states

    def _waiting_seconds(self, place: TopicPartition, stored: int, published: int, now: datetime) -> float:
        waiting = self._waiting.get(place)
        if waiting is None or published >= waiting.offset:
            waiting = self._waiting[place] = _Waiting(stored, now)
        return (now - waiting.since).total_seconds()
