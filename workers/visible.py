"""Which answers can be read: looked up where the brokers' word on how far a lane has published is in doubt.

A broker of 4.2.1 that was started again after a crash may tell of less than was published (docs/kafka-versions.md). It
may also be right, and what the lane has noted as published is gone. Only the result topics tell the one from the other:
so the lane goes back to what it was told of, and publishes what cannot be read.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime, timedelta

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError
from pydantic_core import from_json

from infra.clock import EARLIEST, nearest_instant, to_milliseconds, utc_now
from infra.kafka import reader
from infra.postgres import Pool
from infra.settings import Settings
from infra.transactions import Message
from schemas.catalogue import OUTPUT_TOPICS
from workers.job import Job
from workers.ops.records import all_partitions, read_records, read_to

__all__ = ["Visible", "find_visible"]

_EARLIER = timedelta(seconds=60)  # a result's time may be its worker's
_POLL_MILLISECONDS = 100

Offsets = dict[TopicPartition, int]
Kind = tuple[str, bool]  # an event's id, and whether it repeats an answer


class Visible:
    """What a read_committed reader finds, of a lane that is in doubt up to an offset."""

    def __init__(self, found: "Counter[Kind]", end: int) -> None:
        self._found = found
        self._end = end

    def missing(self, messages: Sequence[Message], offsets: Offsets) -> tuple[list[Message], Offsets]:
        """Return of a batch what cannot be read, and its offset where the group cannot be beyond it.

        What can be read is counted off: a repeat has the id of what it repeats.
        """
        missing = []
        for message in messages:
            kind = _kind(message.value)
            if kind and self._found[kind]:
                self._found[kind] -= 1
            else:
                missing.append(message)
        if messages:
            structlog.get_logger("inmail.lane").warning(
                "answers_looked_for", found=len(messages) - len(missing), missing=len(missing)
            )
        return missing, {place: offset for place, offset in offsets.items() if offset >= self._end}


async def find_visible(settings: Settings, pool: Pool, job: Job, partition: int, span: tuple[int, int]) -> Visible:
    """Return what can be read of the answers to a span of offsets in a job's partition: its first, and that after it.

    Reads the result topics from the time of the oldest of them on, up to where they end now.

    Raises:
        KafkaTimeoutError: when the end is not reached for longer than a transaction may stay open.
        KafkaError: when the brokers cannot be asked.
        NotSetUpError: when a topic does not exist.

    """
    async with pool.acquire() as connection:
        answers = await job.recall(connection, partition, *span)
    times = [datetime.fromisoformat(from_json(each.value)["time"]) for each in answers]
    # The books hold no dead letters and no repeats: those are later than the records that they answer.
    times += await _first_time(settings, TopicPartition(job.topic, partition), span)
    since = max(min([*times, utc_now()]), EARLIEST)  # a record's time may be any, and then it was a dead letter
    places = await all_partitions(settings, OUTPUT_TOPICS)
    found: Counter[Kind] = Counter()
    async with reader(settings, None, "read_uncommitted") as all_, reader(settings) as consumer:
        ends = await all_.end_offsets(places)
        consumer.assign(places)
        starts = await consumer.offsets_for_times(dict.fromkeys(places, to_milliseconds(since - _EARLIER)))
        unread = {place: start.offset for place, start in starts.items() if start and start.offset < ends[place]}
        for place in places:
            consumer.seek(place, unread.get(place, ends[place]))
        try:
            async with (
                asyncio.timeout(3 * settings.transaction_seconds),
                aclosing(read_to(consumer, unread, ends, _POLL_MILLISECONDS)) as records,
            ):
                found.update([kind async for record in records if (kind := _kind(record.value))])
        except TimeoutError:
            raise KafkaTimeoutError(
                "the result topics could not be read to their end: is a transaction open?"
            ) from None
    return Visible(found, span[1])


async def _first_time(settings: Settings, place: TopicPartition, span: tuple[int, int]) -> list[datetime]:
    """Return the time of the first record of a span that can still be read, if any can."""
    async with aclosing(read_records(settings, [place], start=span[0])) as records:
        async for record in records:
            return [nearest_instant(record.timestamp)] if record.offset < span[1] else []
    return []


def _kind(value: bytes | None) -> Kind | None:
    """Return what an event is known by; None of what is none, as anybody may have written to the topic."""
    try:
        event = from_json(value or b"")
        return event["id"], bool(event["data"].get("repeat"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
