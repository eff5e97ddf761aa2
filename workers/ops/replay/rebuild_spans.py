"""The offsets that a rebuild reads of each input partition, and how many records nobody can read any more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from aiokafka import TopicPartition

from infra.clock import EPOCH, to_milliseconds
from infra.kafka.clients import admin_client, reader
from infra.kafka.records import partition_counts
from infra.kafka.topic_ids import topic_ids
from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.lanes import read_lanes
from workers.ops.operations import RefusedError
from workers.topology import WORKER_OF

__all__ = [
    "Positions",
    "Span",
    "plan_spans",
    "read_ended",
    "read_positions",
    "read_topic_ids",
    "refuse_lost",
    "refuse_recreated",
    "refuse_set_back",
]

Positions = Mapping[TopicPartition, tuple[int, datetime]]  # of lanes: the next offset, and the latest broker time

_ENDED: Final = (
    "select topic, partition, sum(next_offset)::bigint as records from ended_topics"
    " where next_offset > 0 and ($1::timestamptz is null or as_of >= $1) group by 1, 2"
)
_ANOTHER: Final = "use another database or schema"


@dataclass(frozen=True, slots=True)
class Span:
    """The offsets [start, end) to read of one input partition."""

    topic: str
    partition: int
    start: int
    end: int
    as_of: datetime  # the latest broker time before the start
    lost: int  # number of unread records before the start that nobody can read any more
    ended: int  # of these, the ones of a topic that ended: it was created again, or a broker lost its records


async def read_positions(connection: Connection) -> Positions:
    """Return how far the lanes of a ledger have read."""
    return {
        TopicPartition(lane.topic, lane.partition): (lane.next_offset, lane.as_of or EPOCH)
        for lane in await read_lanes(connection)
        if lane.next_offset is not None
    }


async def read_topic_ids(connection: Connection) -> Mapping[TopicPartition, UUID]:
    """Return of which topics the lanes of a ledger have read, by Kafka's ids; without lanes that do not know it."""
    return {
        TopicPartition(lane.topic, lane.partition): lane.topic_id
        for lane in await read_lanes(connection)
        if lane.next_offset and lane.topic_id is not None
    }


async def read_ended(connection: Connection, start: datetime | None) -> Mapping[TopicPartition, int]:
    """Return how many records the lanes have read of topics that ended; of those that ended since a time, if given."""
    rows = await connection.fetch(_ENDED, start)
    return {TopicPartition(row["topic"], row["partition"]): row["records"] for row in rows}


async def plan_spans(  # noqa: PLR0913 - what the live ledger and the target have read
    settings: Settings,
    numbers: Sequence[int],
    start: datetime | None,
    *,
    live: Positions,
    ended: Mapping[TopicPartition, int],
    target: Positions,
) -> tuple[Span, ...]:
    """Return what to read of each input partition, from where the target stands to where the live ledger stands.

    Args:
        settings: where Kafka is.
        numbers: the partition numbers; none for all.
        start: only records from this time on, where the target has read nothing yet.
        live: how far the live lanes have read.
        ended: how many records they have read of topics that ended.
        target: how far the target's lanes have read, if it was begun.

    Raises:
        RefusedError: when the topics no longer have what the live ledger has read, or not where the target stands; when
            the live ledger has read nothing of topics that have had records, and the target would match it.
        NotSetUpError: when the topics do not exist.
        KafkaError: when Kafka cannot be reached or refuses.

    """
    counts = await partition_counts(settings, WORKER_OF)
    places = [TopicPartition(topic, number) for topic, count in counts.items() for number in numbers or range(count)]
    async with reader(settings) as consumer:
        oldest = await consumer.beginning_offsets(places)
        newest = await consumer.end_offsets(places)
        firsts = dict.fromkeys(places, 0) | (await _first_offsets(consumer, places, start, newest))
    if not numbers:  # one of several servers may hold numbers that nobody has written to yet
        _check_live(newest, live)
    spans = []
    for place in places:
        end = live.get(place, (0, EPOCH))[0]
        if end > newest[place]:
            raise RefusedError(
                f"the live ledger has decided {place.topic}/{place.partition} up to offset {end}, but it ends at"
                f" {newest[place]}: was the topic created again? Its decided records cannot be read any more"
            )
        first, as_of = target.get(place, (firsts[place], EPOCH))
        begin = min(max(first, oldest[place]), end)
        if place in target:
            _check_target(place, first, begin, end)
        gone = ended.get(place, 0)
        spans.append(Span(place.topic, place.partition, begin, end, as_of, max(0, begin - first) + gone, gone))
    return tuple(spans)


def _check_live(newest: Mapping[TopicPartition, int], live: Positions) -> None:
    """Refuse a live ledger that has read nothing of topics that have had records; it may have read what ended only."""
    if any(newest.values()) and not any(offset or as_of > EPOCH for offset, as_of in live.values()):
        raise RefusedError(
            "the live ledger has read nothing of its topics, which have had records: is INMAIL_DATABASE_URL the right"
            " database? To decide books that are lost again, see docs/operate.md#back-up-and-restore"
        )


def _check_target(place: TopicPartition, stands: int, begin: int, end: int) -> None:
    """Refuse a target that cannot go on where it stands."""
    name = f"{place.topic}/{place.partition}"
    if begin > stands:
        raise RefusedError(
            f"the target has decided {name} up to offset {stands}, and the records before {begin} are deleted:"
            f" retention has passed where the target stands: {_ANOTHER}"
        )
    if begin < stands:
        raise RefusedError(
            f"the target has decided {name} up to offset {stands}, and the live ledger up to {end} only: if the topic"
            f" was created again, {_ANOTHER}; else run the command again once the live ledger has read as far"
        )


async def refuse_recreated(settings: Settings, numbers: Sequence[int], read: Mapping[TopicPartition, UUID]) -> None:
    """Refuse to read topics that are not those which the live lanes have read: other records have their offsets.

    Args:
        settings: where Kafka is.
        numbers: the partition numbers; none for all.
        read: the ids of the topics that the live lanes have read.

    Raises:
        RefusedError: when a topic was created again, and its lanes do not go on with it yet. A topic that is gone is
            for `plan_spans` to tell.
        KafkaError: when Kafka cannot be reached or refuses.

    """
    async with admin_client(settings) as admin:
        ids = await topic_ids(admin, list(WORKER_OF))
    for place, topic_id in read.items():
        if (not numbers or place.partition in numbers) and ids.get(place.topic, topic_id) != topic_id:
            raise RefusedError(
                f"{place.topic} was deleted and created again, and the records that the live ledger has decided are"
                " gone with the one before: run `inmail topics apply` first, with which its lanes go on, then this"
                " command again"
            )


def refuse_lost(spans: Sequence[Span]) -> None:
    """Refuse spans whose first records nobody can read any more.

    Raises:
        RefusedError: when there are any. The message says which and how many.

    """
    ended = sum(span.ended for span in spans)
    deleted = sum(span.lost for span in spans) - ended
    causes = []
    if deleted:
        worst = max(spans, key=lambda span: span.lost - span.ended)
        causes.append(
            f"retention has deleted {deleted:,} records, {worst.topic}/{worst.partition} up to offset {worst.start}"
        )
    if ended:
        worst = max(spans, key=lambda span: span.ended)
        causes.append(
            f"{ended:,} records that the live ledger has decided are gone with topics that were created again or lost"
            f" records, {worst.ended:,} of them of {worst.topic}/{worst.partition}"
        )
    if causes:
        raise RefusedError(
            f"{'; '.join(causes)}: the target would lack their effects. To decide the remaining records all the same,"
            " give --partial"
        )


def refuse_set_back(spans: Sequence[Span], set_backs: Mapping[TopicPartition, Sequence[int]]) -> None:
    """Refuse spans within which an operator has set the clock back.

    What is decided again goes by the times in the topics: from a record of a time far ahead on, all that follow would
    be decided as of that time, those as well that the lane has decided as of their own since.

    Raises:
        RefusedError: when there is such a span.

    """
    for span in spans:
        for offset in set_backs.get(TopicPartition(span.topic, span.partition), ()):
            if span.start < offset < span.end:
                raise RefusedError(
                    f"the clock of {span.topic}/{span.partition} was set back at offset {offset} (`inmail clock"
                    " set-back`): decided again, the records after it would get times as far ahead as one before it,"
                    " and other outcomes. It is possible again once retention has taken the records before it"
                )


async def _first_offsets(
    consumer: Any,  # noqa: ANN401 - aiokafka has no types
    places: Sequence[TopicPartition],
    start: datetime | None,
    newest: Mapping[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """Return the first offset at a time or later in each partition; an empty mapping for no time."""
    if start is None:
        return {}
    found = await consumer.offsets_for_times(dict.fromkeys(places, to_milliseconds(start)))
    return {place: newest[place] if found[place] is None else found[place].offset for place in places}
