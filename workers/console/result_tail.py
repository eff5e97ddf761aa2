"""Reads what comes to the result topics between two samples: outcomes by code, dead letters by reason, latencies.

A reader of Kafka and not a counter of the workers: it sees what downstream services see, whichever process wrote it. It
reads at most 100 records of each partition a sample; where more came, their shares stand for all. Latency is the
broker's time of the answer minus the time as of which it was decided, which is the broker's time of the record: where
records carry their producers' times instead, as in the demo and in backfills, there is none to measure.
"""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from infra.clock import nearest_instant
from infra.kafka.clients import reader
from infra.kafka.records import all_partitions
from infra.settings import RecordTime, Settings
from schemas.catalogue import CREDIT_EVENTS, DEAD_LETTERS, EXPIRY_TICKS, SEND_RESULTS
from schemas.dead_letters import DeadLetterReason
from workers.console.published_marks import PublishedMarks
from workers.console.time_series import latency_class
from workers.ledger.model import Code

__all__ = ["ResultTail", "Results"]

_MAX_RECORDS: Final = 100  # of a partition and sample
_PARTITION_BYTES: Final = 64 * 1024
_WAIT_MS: Final = 50  # a broker's answer about ends waits behind a fetch so long at most
_READ_SECONDS: Final = 1.0  # of a sample; what is left then is read with the next
_CLOSE_SECONDS: Final = 2.0
_SKEW_SECONDS: Final = (
    1.0  # by which brokers' clocks may differ; an answer that is earlier was decided as of a far time
)
_TOPICS: Final = (SEND_RESULTS, CREDIT_EVENTS, DEAD_LETTERS)
_CODES: Final = frozenset(Code)
_REASONS: Final = frozenset(DeadLetterReason)
OTHER: Final = "other"  # anybody with the right may write to a topic: their words name no series


@dataclass(slots=True)
class Results:
    """The results since the sample before; numbers are estimates where more came than were read."""

    outcomes: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)


class ResultTail:
    """A consumer at the ends of the result topics. What is published again is no news, by the marks given to it."""

    def __init__(self, settings: Settings, marks: PublishedMarks | None = None) -> None:
        self._settings = settings
        self._marks = marks or PublishedMarks()
        self._clients = AsyncExitStack()
        self._consumer: AIOKafkaConsumer | None = None
        self._positions: dict[TopicPartition, int] = {}  # from where the next sample counts

    async def read(self) -> Results | None:
        """Return the results since the last call that raised no error; None for the first, which only finds the ends.

        Raises:
            NotSetUpError: when a topic does not exist.
            KafkaError: when the cluster cannot be reached.

        """
        try:
            return await self._read()
        except (KafkaError, OSError, TimeoutError, asyncio.CancelledError):
            await self.close()  # a client that failed once may never answer again
            raise

    async def _read(self) -> Results | None:
        consumer = self._consumer or await self._open()
        ends: dict[TopicPartition, int] = await consumer.end_offsets(list(consumer.assignment()))
        if not self._positions:
            self._positions = dict(ends)
            return None
        known = self._positions
        before = {place: min(known.get(place, end), end) for place, end in ends.items()}  # less: a topic made anew
        starts = {place: max(before[place], end - _MAX_RECORDS) for place, end in ends.items()}
        unread = {place: start for place, start in starts.items() if start < ends[place]}
        for place, start in unread.items():
            consumer.seek(place, start)
        records, reached = await self._fetch(consumer, unread, ends)
        self._positions = ends | reached  # only now: what an error or the time limit kept from being read is read again
        results = Results()
        for place, found in records.items():
            read = self._positions[place] - starts[place]
            _count(results, self._marks, place.topic, found, (self._positions[place] - before[place]) / max(read, 1))
        if self._settings.topic_record_time is not RecordTime.APPEND:
            results.latencies.clear()
        return results

    async def _open(self) -> AIOKafkaConsumer:
        places = await all_partitions(self._settings, _TOPICS)
        opened = reader(self._settings, wait_ms=_WAIT_MS, partition_bytes=_PARTITION_BYTES)
        self._consumer = consumer = await self._clients.enter_async_context(opened)
        consumer.assign(places)
        return consumer

    async def _fetch(
        self, consumer: AIOKafkaConsumer, unread: dict[TopicPartition, int], ends: dict[TopicPartition, int]
    ) -> tuple[dict[TopicPartition, list[ConsumerRecord]], dict[TopicPartition, int]]:
        """Return the records before the ends, as far as a second suffices, and where partitions with more were left."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + _READ_SECONDS
        found: dict[TopicPartition, list[ConsumerRecord]] = {place: [] for place in unread}
        while unread and clock() < deadline:
            for place, records in (await consumer.getmany(*unread, timeout_ms=_WAIT_MS)).items():
                found[place] += [each for each in records if each.offset < ends[place]]
            for place in list(unread):
                if await consumer.position(place) >= ends[place]:
                    del unread[place]
        return found, {place: await consumer.position(place) for place in unread}

    async def close(self) -> None:
        """Close the consumer. What comes until the next call is counted by it."""
        self._consumer = None
        with suppress(TimeoutError):  # a client may hang on closing when its broker is gone
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._clients.aclose()


def _count(results: Results, marks: PublishedMarks, topic: str, records: list[ConsumerRecord], weight: float) -> None:
    """Count the records of one partition, each as `weight` records. A dead letter that is published again is none."""
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for record in records:
        data = _data_of(record.value)
        at = nearest_instant(record.timestamp)
        if topic == DEAD_LETTERS:
            if marks.were_published(data.get("origin"), at):
                continue
            reason = data.get("reason")
            reasons[_known(reason, _REASONS)] += 1
        elif "horizon" not in data:  # the answer to a tick: it tells of the clock, not of requests
            code = data.get("code")
            outcomes["repeat" if data.get("repeat") is True else _known(code, _CODES)] += 1
            latency = None if marks.were_published(data.get("source"), at) else _latency_of(at, data)
            if latency is not None:
                results.latencies[latency_class(latency)] += 1
    for counted, totals in ((outcomes, results.outcomes), (reasons, results.dead_letters)):
        for name, count in counted.items():
            totals[name] += round(count * weight)


def _known(word: object, words: frozenset[str]) -> str:
    """Return a word that is one of ours; `OTHER` for anything else that a foreign record may hold, as a list."""
    return word if isinstance(word, str) and word in words else OTHER


def _data_of(value: bytes | None) -> dict[str, Any]:
    """Return an event's body; an empty one for any other record."""
    try:
        event = orjson.loads(value or b"")
        data = event["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return {}
    return data if isinstance(data, dict) else {}


def _latency_of(at: datetime, data: dict[str, Any]) -> float | None:
    """Return the seconds from a record to its first answer; None for ticks, repeats, and what is no answer of ours.

    None also of an answer that is earlier than brokers' clocks differ: its lane had accepted a time far ahead.
    """
    source = data.get("source")
    if data.get("repeat") is not False or not isinstance(source, dict) or source.get("topic") == EXPIRY_TICKS:
        return None
    try:
        seconds = (at - datetime.fromisoformat(data["as_of"])).total_seconds()
    except (KeyError, TypeError, ValueError):  # no event of ours
        return None
    return seconds if seconds >= -_SKEW_SECONDS else None
