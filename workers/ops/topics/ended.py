"""Topics that ended under the books: deleted and created again, or without records that the books have read.

What the books decided of them stays. Each lane goes on with what is there now, under a later watermark than all its
rows so far: so rows of the one and of the other topic are told apart though their offsets are the same.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from infra.clock import to_milliseconds, utc_now
from infra.kafka.clients import partitions_of, reader
from infra.kafka.records import read_to
from infra.kafka.topic_ids import topic_ids
from infra.postgres import Connection, open_database
from infra.settings import RecordTime, Settings
from schemas.catalogue import INPUT_TOPICS
from workers.ops.books.shards import naming_server
from workers.ops.clock_decisions import end_decisions
from workers.ops.numbers import all_holdings, open_of_books

__all__ = ["UNPUBLISHED_AT_MOST", "EndedTopic", "end_topic", "find_ended", "rows_of_lanes", "start_lanes"]

UNPUBLISHED_AT_MOST = 2 * 10_000  # records: one batch being decided, one being published, as large as they may be
_CLOCKS_DIFFER = timedelta(minutes=1)  # of brokers

_LANES = """
select topic, partition, topic_id, coalesce(next_offset, 0) as next_offset, as_of
from lanes
where next_offset is not null or topic_id is not null
order by topic, partition
"""

# A tick may have booked some of its steps before its lane has read past it.
_END = """
with l as (
    select
        x.*,
        coalesce(t.as_of, x.as_of, nullif(x.topic_since, '-infinity'), '1970-01-01 00:00Z') as ended_as_of,
        greatest(x.next_offset, t.next_offset) as ended_offset
    from lanes as x
    left join lateral (
        select max(y.as_of) as as_of, max(y.source_offset) + 1 as next_offset
        from ticks as y
        where
            x.topic = 'inmail.expiry-ticks' and y.partition = x.partition and y.code = 'booking'
            and y.as_of > coalesce(x.as_of, x.topic_since)
    ) as t on true
    where x.consumer_group = $1 and x.topic = $2 and x.partition = $3
    for update of x
),

kept as (
    insert into ended_topics (
        consumer_group, topic, partition, as_of, topic_id, next_offset, unpublished_from, ended_at, published_time
    )
    select
        consumer_group, topic, partition, ended_as_of, topic_id, ended_offset,
        nullif(least(greatest(coalesce(published, ended_offset - $6), 0), ended_offset), ended_offset), $7,
        published_time
    from l
    where ended_offset is not null
)

update lanes as x
set
    epoch = x.epoch + 1,
    owner_epoch = case x.owner_epoch when x.epoch then x.epoch + 1 else x.owner_epoch end,
    topic_id = $4,
    next_offset = $5,
    published = $5,
    published_time = null,
    maybe_published = null,
    doubted = null,
    topic_since = case when l.ended_offset is null then x.topic_since else l.ended_as_of end,
    as_of = case when l.ended_offset is null then x.as_of else l.ended_as_of + interval '1 millisecond' end,
    head = null,
    held = null,
    paused = null,
    halted = null
from l
where x.consumer_group = l.consumer_group and x.topic = l.topic and x.partition = l.partition
"""
_TOPIC_ID = "select topic_id from lanes where consumer_group = $1 and topic = $2 and partition = $3"
# Their offsets are those of records that nobody can read any more.
_FORGET = "delete from decided_ahead where consumer_group = $1 and partition = $2"
# What was counted stays counted; of the new records each is to count, though offsets up to there were counted before.
_COUNT_FROM = (
    "update misplaced_records set last_offset = $3 - 1 where topic = $1 and partition = $2 and last_offset >= $3"
)


# A lane whose group has no offset begins where its row says that answers are published to.
_START = """
insert into lanes as l (consumer_group, topic, partition, epoch, next_offset, published)
values ($1, $2, $3, 1, $4, $4)
on conflict (consumer_group, topic, partition)
do update set published = coalesce(l.published, $4), next_offset = coalesce(l.next_offset, $4)
"""
_HAS_LANES = "select exists (select from lanes where consumer_group = $1 and topic = $2)"


class EndedTopic(NamedTuple):
    """A topic whose lanes have to go on with what is there now, and where."""

    text: str
    starts: Mapping[int, int]  # offset by partition; where that is gone, the oldest


async def find_ended(
    settings: Settings, admin: AIOKafkaAdminClient, existing: Collection[str]
) -> dict[str, EndedTopic]:
    """Return the input topics that are not, or not all, what the books have read.

    Args:
        settings: where Kafka and the books are.
        admin: an open client.
        existing: the topics that are there. One that the books have read and that is not among them is to be created.

    Raises:
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or the books cannot be reached or refuse.

    """
    rows = await _read_lanes(settings)
    ids = await topic_ids(admin, sorted(existing))
    found = {}
    for topic in INPUT_TOPICS:
        lanes = [row for row in rows if row["topic"] == topic and row["partition"] < settings.topic_partitions]
        if topic not in existing:
            ended = _recreated(lanes, "it is gone")
        elif others := [row for row in lanes if row["topic_id"] not in (None, ids.get(topic))]:
            ended = _recreated(others, f"it was deleted and created again with the id {ids.get(topic)}")
        else:
            ended = await _lost(settings, topic, lanes)
        if ended is not None:
            found[topic] = ended
    return found


def _recreated(lanes: Sequence[Any], how: str) -> EndedTopic | None:
    """Return a topic that is another one: all that it holds is new."""
    if not lanes:
        return None
    read = sum(row["next_offset"] for row in lanes)
    text = f"{how}, and the books have read {read:,} records of the one before: go on with the new topic"
    return EndedTopic(f"{text} from its oldest record", {row["partition"]: 0 for row in lanes})


async def _lost(settings: Settings, topic: str, lanes: Sequence[Any]) -> EndedTopic | None:
    """Return a topic that ends before what the books have read of it: records are lost, new ones have their offsets.

    What came since is what follows the last record of before the lane's watermark; of times far ahead, which were set
    aside or held, nothing can be told. A minute before it is read again: what was decided gets its first answer once
    more. A watermark that lies ahead itself tells of no record when it came, so all are read again.
    """
    now = utc_now()
    places = partitions_of(topic, settings.topic_partitions)
    async with reader(settings, None, "read_uncommitted") as consumer:
        ends = await consumer.end_offsets(places)
        behind = [row for row in lanes if row["next_offset"] > ends[TopicPartition(topic, row["partition"])]]
        if not behind:
            return None
        starts = {}
        for row in behind:
            place = TopicPartition(topic, row["partition"])
            starts[place.partition] = 0
            reached = row["as_of"]
            if (
                settings.topic_record_time is RecordTime.APPEND
                and reached is not None
                and reached < now + _CLOCKS_DIFFER
            ):
                since = to_milliseconds(reached - _CLOCKS_DIFFER)
                starts[place.partition] = await _end_before(consumer, place, max(0, since), ends)
    gone = ", ".join(
        f"{row['partition']} (at {ends[TopicPartition(topic, row['partition'])]:,}, read up to {row['next_offset']:,})"
        for row in behind
    )
    text = f"it ends before what the books have read in partition {gone}: records were lost, or it was created again"
    return EndedTopic(f"{text}: go on with what came since", starts)


async def _end_before(
    consumer: AIOKafkaConsumer, place: TopicPartition, since: int, ends: dict[TopicPartition, int]
) -> int:
    """Return the offset after the last record of before a time in milliseconds. One of a later time may precede it."""
    first = (await consumer.offsets_for_times({place: since}))[place]
    if first is None:
        return int(ends[place])
    start: int = first.offset
    consumer.assign([place])
    consumer.seek(place, start)
    async with aclosing(read_to(consumer, {place: start}, ends)) as records:
        async for record in records:
            if record.timestamp < since:
                start = record.offset + 1
    return start


async def _read_lanes(settings: Settings) -> list[Any]:
    """Return how far the lanes have read, of which topics; nothing where there are no books yet."""
    return await rows_of_lanes(settings, _LANES)


async def rows_of_lanes(settings: Settings, query: str, *arguments: object) -> list[Any]:
    """Return rows about lanes from every server, each lane's from the server that holds its number; none before books.

    Raises:
        ServerError: when one of several servers does not answer.
        OSError, asyncpg.PostgresError: of the only server.

    """
    found = []
    for server, holdings in await all_holdings(settings):
        with naming_server(server):
            try:
                async with open_database(server) as connection:
                    rows = await connection.fetch(query, *arguments)
            except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
                continue
        found += [row for row in rows if holdings.has_number(row["partition"])]
    return found


async def end_topic(
    connection: Connection, group: str, topic: str, topic_id: UUID | None, starts: Mapping[int, int]
) -> None:
    """Let lanes go on with what is there of a topic now, from an offset each; their owners are fenced."""
    now: datetime = utc_now()
    async with connection.transaction():
        for partition, start in sorted(starts.items()):
            is_same = topic_id == await connection.fetchval(_TOPIC_ID, group, topic, partition)
            await connection.execute(_END, group, topic, partition, topic_id, start, UNPUBLISHED_AT_MOST, now)
            await connection.execute(_FORGET, group, partition)
            await connection.execute(_COUNT_FROM, topic, partition, start)
            if not is_same:  # of a topic that lost its end, what operators decided about may be there
                await end_decisions(connection, topic, partition, start)


async def start_lanes(settings: Settings, group: str, topic: str, starts: Mapping[int, int]) -> bool:
    """Let lanes that wait for a first offset begin while their workers run; tell whether the group has lanes at all.

    Args:
        settings: where Kafka and the books are.
        group: whose lanes they are.
        topic: that they read.
        starts: offset by partition; where that is gone, the oldest.

    """
    places = [TopicPartition(topic, number) for number in starts]
    async with reader(settings) as consumer:
        oldest = await consumer.beginning_offsets(places)
    rows = [(group, topic, place.partition, max(oldest[place], starts[place.partition])) for place in places]
    ours = False
    for server, holdings in await all_holdings(settings):
        async with open_of_books(server) as connection:
            if await connection.fetchval(_HAS_LANES, group, topic):
                await connection.executemany(_START, [row for row in rows if holdings.has_number(row[2])])
                ours = True
    return ours
