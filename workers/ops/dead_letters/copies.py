"""The dead letters that redriven messages became: each is searched for from when its message was sent again."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from infra.kafka.backwards import ReadBudget
from infra.kafka.cluster_queries import LATEST, ClusterQueries, open_cluster_queries
from infra.kafka.peek import read_through
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS
from workers.ops.dead_letters.letters import MessagePosition, parse_dead_letter
from workers.ops.dead_letters.pages import kafka_time

__all__ = ["FoundCopies", "find_copies"]

_CLOCKS_DIFFER: Final = timedelta(minutes=1)  # an operator's and the broker's


@dataclass(slots=True)
class FoundCopies:
    """What a search found, and what it did not search to the end."""

    places: dict[MessagePosition, str] = field(default_factory=dict)  # of the dead letters, by their message
    unsearched: set[MessagePosition] = field(default_factory=set)  # they may have become dead letters, or not


async def find_copies(
    settings: Settings, copies: Mapping[MessagePosition, datetime], budget: ReadBudget | None = None
) -> FoundCopies:
    """Return the places of the dead letters that redriven messages became, as far as the budget reaches.

    A dead letter is in the partition with the number of its message's, so that only what came in since is read. A
    partition that cannot be read is not searched, and keeps no other from being so.

    Args:
        settings: where Kafka is.
        copies: when each message was sent, by its position.
        budget: how much may be read, an equal share of each partition; None: all.

    Raises:
        KafkaError: when the cluster cannot be reached.

    """
    found = FoundCopies()
    parts: dict[int, dict[MessagePosition, datetime]] = defaultdict(dict)
    for position, at in copies.items():
        parts[position[1]][position] = at
    if not parts:
        return found
    async with open_cluster_queries(settings) as lookup:
        since = {
            TopicPartition(DEAD_LETTERS, number): kafka_time(min(part.values()) - _CLOCKS_DIFFER)
            for number, part in parts.items()
        }
        starts, ends = await lookup.offsets(since), await lookup.offsets(dict.fromkeys(since, LATEST), committed=True)
        for place in since:
            share = None if budget is None else ReadBudget(budget.offsets // len(since), budget.bytes // len(since))
            missing = set(parts[place.partition])
            if place not in starts or place not in ends:
                found.unsearched |= missing
                continue
            start, end = starts[place], ends[place]
            if start >= 0:  # otherwise nothing came in since
                part = await _search(lookup, place, (start, end), missing, share)
                found.places |= part.places
                found.unsearched |= part.unsearched
    return found


async def _search(
    lookup: ClusterQueries,
    place: TopicPartition,
    span: tuple[int, int],
    missing: set[MessagePosition],
    share: ReadBudget | None,
) -> FoundCopies:
    """Search offsets of a partition for what is missing, as far as its share of the budget reaches."""
    found = FoundCopies()
    start, end = span
    until = end if share is None else min(end, start + share.offsets)
    is_whole = until >= end
    try:
        async for record in read_through(lookup, place, start, until, strict=True):
            letter = parse_dead_letter(record)
            position = letter.origin_topic, letter.origin_partition, letter.origin_offset
            if position in missing:
                missing.remove(position)
                found.places[position] = letter.place
            if share is not None:
                share.bytes -= len(record.value or b"")
            if not missing:
                break
            if share is not None and share.bytes <= 0 and record.offset + 1 < end:
                is_whole = False
                break
    except KafkaError:
        is_whole = False
    if not is_whole:
        found.unsearched = missing
    return found
