"""Reads the first record after an offset in many partitions at once, as a reader of committed records would see it.

A consumer would fetch megabytes of each partition. Here one request fetches 16 KiB of each partition of a broker. A
partition whose next batch is larger gets a request of its own, because a broker returns the first batch whole.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, PartitionRecords
from aiokafka.errors import KafkaTimeoutError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import ConsumerRecord

from infra.clock import nearest_instant
from infra.kafka.cluster_queries import ClusterQueries, group_by_topic
from infra.kafka.lenient_headers import LenientRecords

__all__ = ["Peek", "peek", "read_through"]

_SMALL_BYTES = 16 * 1024
_LARGE_BYTES = 1024 * 1024
_TOGETHER = 200  # partitions in one request
_ROUNDS = 8  # batches without a record that are skipped at most


class Peek(NamedTuple):
    """The first record after an offset. Without a record (`time` is None), there is none before `reached`."""

    reached: int
    time: datetime | None  # of the record at `reached`, as the broker reports it


class _Fetched(NamedTuple):
    place: TopicPartition
    start: int
    end: int  # the first offset that cannot be read
    records: Any
    aborted: Any

    @property
    def is_cut(self) -> bool:
        """Whether the broker left out a batch that is larger than the request's limit."""
        return not self.records.has_next() and self.start < self.end


async def peek(
    lookup: ClusterQueries, starts: Mapping[TopicPartition, int], *, committed: bool
) -> dict[TopicPartition, Peek]:
    """Return the first record after each offset, without partitions that do not answer.

    Args:
        lookup: the open client.
        starts: the offsets to start at.
        committed: skip aborted records, and end where an open transaction begins.

    Raises:
        KafkaError: when a broker does not answer.

    """
    found: dict[TopicPartition, Peek] = {}
    ahead = dict(starts)
    for _ in range(_ROUNDS):
        if not ahead:
            break
        fetched = await _fetch(lookup, ahead, _SMALL_BYTES, _TOGETHER, committed=committed)
        if cut := {each.place: each.start for each in fetched if each.is_cut}:
            fetched = [each for each in fetched if not each.is_cut]
            fetched += await _fetch(lookup, cut, _LARGE_BYTES, 1, committed=committed)
        ahead = {}
        for each in fetched:
            records = _unpack(each, committed=committed)
            first = next(records, None)
            if first is not None:
                found[each.place] = Peek(first.offset, nearest_instant(first.timestamp))
                continue
            reached = max(each.start, records.next_fetch_offset)
            found[each.place] = Peek(reached, None)
            if each.start < reached < each.end:
                ahead[each.place] = reached
    return found


async def read_through(  # noqa: PLR0913 - independent options
    lookup: ClusterQueries,
    place: TopicPartition,
    start: int,
    end: int,
    most: int = _LARGE_BYTES,
    *,
    strict: bool = False,
) -> AsyncIterator[ConsumerRecord]:
    """Yield the committed records of a partition from `start` to before `end`; stop early if it returns no more.

    Args:
        lookup: the open client.
        place: the partition.
        start: the first offset.
        end: the offset to end before.
        most: bytes of a request, which a single larger batch exceeds.
        strict: raise an error in place of stopping early.

    Raises:
        KafkaError: when the broker does not answer; if strict, also when the partition cannot be read.

    """
    while start < end:
        fetched = await _fetch(lookup, {place: start}, most, 1, committed=True, strict=strict)
        reached = start
        if fetched and fetched[0].records.has_next():
            records = _unpack(fetched[0], committed=True)
            for record in records:
                if record.offset >= end:
                    return
                yield record
            reached = records.next_fetch_offset
        if reached <= start:
            if strict:
                raise KafkaTimeoutError(f"{place.topic} {place.partition}/{start} cannot be read now")
            return
        start = reached


def _unpack(fetched: _Fetched, *, committed: bool) -> Any:  # noqa: ANN401 - aiokafka is untyped
    isolation = READ_COMMITTED if committed else READ_UNCOMMITTED
    place, start, _, records, aborted = fetched
    return PartitionRecords(place, records, aborted, start, None, None, False, isolation)


async def _fetch(  # noqa: PLR0913 - independent options
    lookup: ClusterQueries,
    starts: Mapping[TopicPartition, int],
    most: int,
    together: int,
    *,
    committed: bool,
    strict: bool = False,
) -> list[_Fetched]:
    """Fetch at most `most` bytes of each partition; the first partition of a request returns a whole batch at least.

    A partition with an error is left out; if strict, its error is raised.
    """
    isolation = READ_COMMITTED if committed else READ_UNCOMMITTED

    async def ask(node: int, part: Mapping[TopicPartition, int]) -> list[_Fetched]:
        topics = group_by_topic((place, (place.partition, start, most)) for place, start in part.items())
        answer = await lookup.send(node, FetchRequest(0, 0, most * len(part), isolation, topics))
        return list(_parse_answer(answer, starts, committed=committed, strict=strict))

    asked = [
        ask(node, part) for node, places in lookup.group_by_leader(starts).items() for part in _parts(places, together)
    ]
    return [each for answers in await asyncio.gather(*asked) for each in answers]


def _parts(places: Mapping[TopicPartition, int], size: int) -> Iterator[dict[TopicPartition, int]]:
    items = list(places.items())
    yield from (dict(items[first : first + size]) for first in range(0, len(items), size))


def _parse_answer(
    answer: Any,  # noqa: ANN401 - aiokafka is untyped
    starts: Mapping[TopicPartition, int],
    *,
    committed: bool,
    strict: bool,
) -> Iterator[_Fetched]:
    for topic, partitions in answer.topics:
        for partition, error, high, stable, *more, records in partitions:
            place = TopicPartition(topic, partition)
            if error and strict:
                raise for_code(error)(f"{topic} {partition}/{starts[place]} cannot be read")
            if not error:
                aborted = (
                    more[-2] if answer.API_VERSION >= 11 else more[-1]
                )  # version 11 has a preferred replica after it
                end = stable if committed else high
                yield _Fetched(place, starts[place], end, LenientRecords(records or b""), aborted)
