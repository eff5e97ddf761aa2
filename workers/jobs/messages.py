"""The record in which a worker publishes an event: the one place that gives it its headers."""

from typing import Final

from schemas.envelope import EVENT_HEADERS, ORIGIN_HEADER
from workers.jobs.job import Message, Place

__all__ = ["event_message"]

_HEADERS: Final = list(EVENT_HEADERS)  # one list for all: whoever adds headers makes another


def event_message(  # noqa: PLR0913 - a record
    topic: str,
    key: bytes | None,
    event: bytes,
    partition: int | None,
    origin: Place | None,
    *,
    repeat: bool = False,
) -> Message:
    """Return the record of an event that goes out.

    Args:
        topic: where it goes.
        key: the account id; None where it has none.
        event: the event as the value of a record.
        partition: the partition; None: by key.
        origin: the place of the input record that it answers; None where there is none.
        repeat: whether it is an answer given before, to another record.

    """
    headers = _HEADERS
    if repeat and origin is not None:
        headers = [*_HEADERS, (ORIGIN_HEADER, b"%d/%d" % origin)]
    return Message(topic, key, event, partition, origin, headers)
