"""Dead letters at known places: these are read, and not all that lies behind the first of them."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import LeaderNotAvailableError, OffsetOutOfRangeError

from infra.kafka.cluster_queries import EARLIEST, LATEST, ClusterQueries, open_cluster_queries
from infra.kafka.peek import read_through
from infra.kafka.records import all_partitions
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS
from workers.ops.dead_letters.letters import DeadLetter, LetterFilter, parse_dead_letter

__all__ = ["Place", "chosen_offsets", "read_chosen"]

Place = tuple[int, int]
"""Partition and offset of a dead letter."""

_CLOSE: Final = 64  # offsets
_FETCH_BYTES: Final = 64 * 1024  # that one letter is fetched with: what a request brings beside it is waste
_MOST_FETCHES: Final = 16  # of one request: a mebibyte


def chosen_offsets(selection: LetterFilter, places: Iterable[Place] | None = None) -> dict[int, list[int]] | None:
    """Return the offsets that can match, in order, by partition; None: any.

    Args:
        selection: the filter.
        places: the only ones to read; None: all.

    """
    chosen = [set(each) for each in (places, selection.places) if each is not None]
    if selection.partition is not None and selection.offset is not None:
        chosen.append({(selection.partition, selection.offset)})
    if not chosen:
        return None
    offsets = defaultdict(list)
    for partition, offset in sorted(set.intersection(*chosen)):
        offsets[partition].append(offset)
    return dict(offsets)


async def read_chosen(settings: Settings, chosen: Mapping[int, Sequence[int]]) -> AsyncGenerator[DeadLetter, None]:
    """Yield the dead letters at some offsets, of those that are there, each partition's in order.

    Close the generator with `contextlib.aclosing` when leaving early.

    Args:
        settings: where Kafka is.
        chosen: the offsets, in order, by partition.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached, or a partition cannot be read.

    """
    places = [place for place in await all_partitions(settings, [DEAD_LETTERS]) if chosen.get(place.partition)]
    async with open_cluster_queries(settings) as lookup:
        for place in places:
            async with aclosing(_read_partition(lookup, place, chosen[place.partition])) as letters:
                async for letter in letters:
                    yield letter


async def _read_partition(
    lookup: ClusterQueries, place: TopicPartition, offsets: Sequence[int]
) -> AsyncGenerator[DeadLetter, None]:
    oldest = await lookup.offsets({place: EARLIEST})
    end = await lookup.offsets({place: LATEST}, committed=True)
    if place not in oldest or place not in end:
        raise LeaderNotAvailableError(f"{place.topic} {place.partition} cannot be read now")
    there = [offset for offset in offsets if oldest[place] <= offset < end[place]]
    wanted = set(there)
    for first, last in _spans(there):
        start, most = first, _FETCH_BYTES * min(last - first + 1, _MOST_FETCHES)
        while True:
            try:
                async for record in read_through(lookup, place, start, last + 1, most, strict=True):
                    start = record.offset + 1
                    if record.offset in wanted:
                        yield parse_dead_letter(record)
                break
            except OffsetOutOfRangeError:  # retention has removed it meanwhile
                left = (await lookup.offsets({place: EARLIEST})).get(place, -1)
                if left <= start:
                    raise
                start = left


def _spans(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and the last of offsets that are close together: what lies between them is read along."""
    spans: list[tuple[int, int]] = []
    for offset in offsets:
        if spans and offset - spans[-1][1] <= _CLOSE:
            spans[-1] = spans[-1][0], offset
        else:
            spans.append((offset, offset))
    return spans
