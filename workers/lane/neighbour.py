"""Another lane that a lane waits for, as its row in Postgres has it: how far it has come, and what it gives."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from aiokafka import TopicPartition

from infra.clock import EARLIEST, LATEST
from infra.postgres import Pool
from schemas.catalogue import EXPIRY_TICKS
from workers.topology import GROUP_OF, TOPIC_RANK

__all__ = ["Neighbour", "read_neighbours"]

_INSTANT = timedelta(milliseconds=1)  # the broker's clock tells no shorter one
_ROWS = """
select l.topic, l.partition, l.consumer_group, l.next_offset, l.as_of, l.head, l.awaited, l.epoch, l.topic_id
from lanes as l
inner join unnest($1::text[], $2::integer[]) as u (topic, partition) using (topic, partition)
"""


class Neighbour(NamedTuple):
    """Another lane, as its row has it."""

    place: TopicPartition
    consumer_group: str
    offset: int | None  # after the last record whose outcome is stored, 0 of another topic; None: none was stored yet
    as_of: datetime
    head: datetime | None
    awaited: bool
    epoch: int

    @property
    def gives_credits(self) -> bool:
        """Whether a record of it may give credits: a grant, or a send that is taken back. A tick gives nobody one."""
        return bool(self.place.topic != EXPIRY_TICKS)

    @property
    def progress(self) -> tuple[int | None, datetime]:
        """How far it has come. It does not get on by a new owner: one that is halted has one every few seconds."""
        return self.offset, self.as_of

    def allows(self, topic: str, end: int, start: int) -> datetime:
        """Return the latest time of a topic's record that may be decided.

        Args:
            topic: the other one, of the lane that asks.
            end: of this lane's partition.
            start: where it begins to read where it has stored nothing, or retention has taken what it had not read.

        """
        if max(self.offset or 0, start) >= end:
            return LATEST
        reached = self.as_of if self.head is None else max(self.head, self.as_of)
        return reached - _INSTANT if self._comes_before(topic) else reached

    def passed(self, topic: str) -> datetime:
        """Return the latest time at which a topic's record is too late for it: decided before by this lane."""
        return self.as_of - _INSTANT if self._comes_before(topic) else self.as_of

    def _comes_before(self, topic: str) -> bool:
        return TOPIC_RANK[self.place.topic] < TOPIC_RANK[topic]


async def read_neighbours(
    pool: Pool, places: Sequence[TopicPartition], topic_ids: Mapping[str, UUID]
) -> list[Neighbour]:
    """Return the lanes of some places; one that never ran has read nothing.

    Nor has one whose topic was deleted and created again: until an operator lets it go on with what is there now, its
    row has the offset of the topic before. Such an offset may be within the new topic, so it does not show by itself.

    Args:
        pool: of the books.
        places: whose lanes they are.
        topic_ids: the ids that topics have now, of those that are known.

    """
    # Ids are as old as the worker's last look at the servers, 5 s at most. Until then the offset of a topic before may
    # count as one of the new topic, and what is unread there is not waited for. No turn asks for ids itself: that would
    # be one more question to a broker in each, and nothing that is known tells when to ask. An offset beyond the end
    # does not, since a lane keeps the ends of when it began to wait, nor does an end that went back, as the new topic
    # may have grown as long. And little is lost: once it is seen, the neighbour's lane is halted until an operator lets
    # it go on, and whoever waits for it goes on without it after INMAIL_ORDER_SECONDS.
    rows = await pool.fetch(_ROWS, [place.topic for place in places], [place.partition for place in places])
    found = {TopicPartition(topic, partition): columns for topic, partition, *columns in map(tuple, rows)}
    return [_neighbour(place, found.get(place), topic_ids.get(place.topic)) for place in places]


def _neighbour(place: TopicPartition, columns: Sequence[Any] | None, topic_id: UUID | None) -> Neighbour:
    if columns is None:
        return Neighbour(place, GROUP_OF[place.topic], None, EARLIEST, None, awaited=False, epoch=0)
    group, offset, as_of, head, awaited, epoch, read_topic_id = columns
    if topic_id is not None and read_topic_id not in (None, topic_id):
        offset = 0
    return Neighbour(place, group, offset, as_of or EARLIEST, head, awaited, epoch)
