"""The record in which a worker publishes an event: the one place that gives it its headers."""

from typing import Final

from schemas.envelope import EVENT_HEADERS
from workers.jobs.job import Message, Place

__all__ = ["event_message"]

_HEADERS: Final = list(EVENT_HEADERS)  # one list for all: whoever adds headers makes another


def event_message(topic: str, key: bytes | None, event: bytes, partition: int | None, origin: Place | None) -> Message:
    """Return the record of an event that goes out.

    Args:
        topic: where it goes.
        key: the account id; None where it has none.
        event: the event as the value of a record.
        partition: the partition; None: by key.
        origin: the place of the input record that it answers; None where there is none.

    """
    return Message(topic, key, event, partition, origin, _HEADERS)
