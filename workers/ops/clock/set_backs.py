"""Where clocks were set back: records on both sides of such a place are not decided again as they were.

What is decided again goes by the times in the topics. From a record of a time far ahead on, all that follow would be
decided as of that time, those as well that the lane has decided as of their own since.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from infra.postgres import Connection
from workers.ops.operations import RefusedError

__all__ = ["SetBackPlace", "read_set_backs", "refuse_set_backs"]

# Not those of a topic that has ended: its offsets are others.
_SET_BACKS: Final = """
select s.topic, s.partition, s.next_offset
from clock_set_backs as s
where not exists (
    select from ended_topics as e
    where
        e.consumer_group = s.consumer_group and e.topic = s.topic and e.partition = s.partition
        and e.ended_at > s.set_back_at
)
order by s.topic, s.partition, s.next_offset
"""


class SetBackPlace(NamedTuple):
    """A place at which a lane's clock was set back."""

    topic: str
    partition: int
    next_offset: int  # the record from which on it goes by the earlier time


async def read_set_backs(connection: Connection) -> list[SetBackPlace]:
    """Return where the clocks of a server's lanes were set back, in the topics as they are."""
    return [SetBackPlace(*row) for row in await connection.fetch(_SET_BACKS)]


def refuse_set_backs(set_backs: Sequence[SetBackPlace], spans: Iterable[tuple[str, int, int, int]]) -> None:
    """Refuse to decide again what lies on both sides of such a place.

    Args:
        set_backs: the places.
        spans: topic, partition, first and next offset of what is to be decided again.

    Raises:
        RefusedError: when one of them lies within.

    """
    for topic, partition, start, end in spans:
        for place in set_backs:
            if (topic, partition) == place[:2] and start < place.next_offset < end:
                raise RefusedError(
                    f"the clock of {topic}/{partition} was set back at offset {place.next_offset} (`inmail clock"
                    " set-back`): decided again, the records after it would get times as far ahead as one before it,"
                    " and other outcomes. It is possible again once retention has taken the records before it"
                )
