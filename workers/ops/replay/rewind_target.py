"""Finds the offsets that a rewind sets: those of an offset, a time or a request, or those before an earlier rewind.

An offset that does not exist, or that would skip unread records, is refused with the allowed range.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, assert_never
from uuid import UUID

from aiokafka import TopicPartition
from asyncpg import Record

from infra.clock import EPOCH
from infra.kafka.clients import admin_client, committed_offsets, count_partitions, partitions_of, reader
from infra.postgres import Connection
from infra.settings import Settings
from infra.terminal import format_instant
from workers.ledger.model import WorkerName
from workers.ops.books.statement_page import ANSWERS_OF_REQUEST
from workers.ops.operations import RefusedError
from workers.topology import GROUP_OF, TOPIC_OF

__all__ = [
    "VERB",
    "NoTargetError",
    "PartitionState",
    "RewindTarget",
    "TargetKind",
    "find_targets",
    "move_problem",
    "read_partition_states",
    "read_rewind",
]

VERB = "rewind"


class NoTargetError(RefusedError):
    """None of the given partitions has the target. Others may, where another server holds them."""


class TargetKind(StrEnum):
    """The kinds of rewind targets."""

    OFFSET = "offset"
    TIME = "time"  # the first record at or after a time
    REQUEST = "request"  # the record of a decided request
    UNDO = "undo"  # forward to the group's offsets before a rewind


@dataclass(frozen=True, slots=True)
class RewindTarget:
    """The target of a rewind, in some or all partitions."""

    kind: TargetKind
    value: int | datetime | UUID  # for UNDO: the number of the rewind's operation
    partitions: tuple[int, ...] = ()  # empty: all

    def summary(self) -> dict[str, Any]:
        """Return the target for JSON."""
        value = self.value if isinstance(self.value, int) else str(self.value)
        return {"to": self.kind.value, "value": value, "partitions": list(self.partitions)}


class PartitionState(NamedTuple):
    """The offsets of one partition; each is that of the next record."""

    partition: int
    oldest: int
    end: int
    committed_offset: int  # of the group: answers are published up to here
    stored: int  # of the lane: outcomes are stored up to here
    since: datetime | None = None  # its rows of the topic as it is have a later as_of; None: all have


async def read_partition_states(
    settings: Settings, connection: Connection, worker: WorkerName, partitions: Sequence[int]
) -> dict[int, PartitionState]:
    """Return the state of some partitions, or of all if none are named.

    Raises:
        RefusedError: when a partition does not exist, or the group has no committed offset in it.
        NotSetUpError: when the topic does not exist.

    """
    topic, group = TOPIC_OF[worker], GROUP_OF[TOPIC_OF[worker]]
    async with admin_client(settings) as admin:
        count = (await count_partitions(admin, [topic]))[topic]
        if unknown := [number for number in partitions if number >= count]:
            raise RefusedError(f"{topic} has no partition {unknown[0]}: its partitions are 0 to {count - 1}")
        places = [place for place in partitions_of(topic, count) if not partitions or place.partition in partitions]
        committed = await committed_offsets(admin, group, places)
    async with reader(settings, None, "read_uncommitted") as consumer:
        oldest = await consumer.beginning_offsets(places)
        ends = await consumer.end_offsets(places)
    rows = await connection.fetch(
        "select partition, next_offset, nullif(topic_since, '-infinity') as since from lanes"
        " where consumer_group = $1 and topic = $2",
        group,
        topic,
    )
    stored = {row["partition"]: (row["next_offset"] or 0, row["since"]) for row in rows}
    found = {}
    for place in places:
        if (committed_offset := committed[place]) is None:
            raise RefusedError(f"group {group} has no offset in {topic}/{place.partition}: run `inmail topics apply`")
        number = place.partition
        found[number] = PartitionState(
            number, oldest[place], ends[place], committed_offset, *stored.get(number, (0, None))
        )
    return found


async def find_targets(  # noqa: PLR0913, PLR0917 - where, what, and what is known of it
    settings: Settings,
    connection: Connection,
    worker: WorkerName,
    target: RewindTarget,
    places: Mapping[int, PartitionState],
    rewound: Record | None,
) -> dict[int, int]:
    """Return the target offset in each partition.

    Args:
        settings: where Kafka is.
        connection: to the server that holds the partitions.
        worker: the worker whose group to rewind.
        target: the target.
        places: the partitions' states.
        rewound: for UNDO: what `read_rewind` found, on whichever server.

    Raises:
        NoTargetError: when none of these partitions has the time or the request.
        RefusedError: when the target does not exist.

    """
    match target.kind:
        case TargetKind.OFFSET:
            return dict.fromkeys(places, int(target.value))  # type: ignore[arg-type] # as the kind says
        case TargetKind.TIME:
            return await _find_time(settings, connection, worker, target.value, places)  # type: ignore[arg-type] # as the kind says
        case TargetKind.REQUEST:
            return await _find_request(connection, worker, target.value, places)  # type: ignore[arg-type] # the same
        case TargetKind.UNDO:
            return await _find_start_of_rewind(connection, worker, target.value, places, rewound)  # type: ignore[arg-type] # the same
        case _:
            assert_never(target.kind)


async def _find_time(
    settings: Settings, connection: Connection, worker: WorkerName, time: datetime, places: Mapping[int, PartitionState]
) -> dict[int, int]:
    topic = TOPIC_OF[worker]
    asked = -(-(time - EPOCH) // timedelta(milliseconds=1))  # rounded up, so that no earlier record is included
    taken = [await _newest_deleted(connection, worker, place) for place in places.values()]
    if (newest := max(filter(None, taken), default=None)) is not None and newest >= time:
        raise RefusedError(
            f"retention has deleted records of {topic} from {format_instant(time)} or later: allowed are times after"
            f" {format_instant(newest)}. To publish stored answers again: `inmail replay reemit`"
        )
    async with reader(settings, None, "read_uncommitted") as consumer:
        found = await consumer.offsets_for_times({TopicPartition(topic, number): asked for number in places})
    targets = {place.partition: first.offset for place, first in found.items() if first is not None}
    if not targets:
        raise NoTargetError(f"{topic} has no record from {format_instant(time)} or later")
    return targets


async def _newest_deleted(connection: Connection, worker: WorkerName, place: PartitionState) -> datetime | None:
    """Return the time of a partition's newest decided record that retention has deleted, None if there is none.

    The oldest remaining record does not tell this time: between the two, the partition may have been quiet for long.
    """
    query = (
        "select as_of from ticks where 'expiry' = $1 and partition = $2 and source_offset < $3"
        " and as_of > coalesce($4::timestamptz, '-infinity') order by source_offset desc limit 1"
        if worker is WorkerName.EXPIRY
        else "select as_of from journal where worker = $1 and source_partition = $2 and source_offset < $3"
        " and as_of > coalesce($4::timestamptz, '-infinity') order by source_offset desc limit 1"
    )
    newest: datetime | None = await connection.fetchval(query, worker.value, place.partition, place.oldest, place.since)
    return newest


async def _find_request(
    connection: Connection, worker: WorkerName, request: UUID, places: Mapping[int, PartitionState]
) -> dict[int, int]:
    query = (
        "select t.partition, min(t.source_offset) from ticks as t"
        " join unnest($3::integer[], $4::timestamptz[]) as p (partition, since) on t.partition = p.partition"
        " where t.request_id = $1 and 'expiry' = $2 and t.code <> 'key_conflict'"
        " and t.as_of > coalesce(p.since, '-infinity') group by t.partition"
        if worker is WorkerName.EXPIRY
        else "select j.source_partition, min(j.source_offset) from ("
        " select * from journal where request_id = $1 and is_answer and code <> 'key_conflict'"
        " and code <> 'balance_not_current'"
        " union all select * from journal where request_id = $1 and is_answer and code = 'balance_not_current'"
        ") as j"
        " join unnest($3::integer[], $4::timestamptz[]) as p (partition, since) on j.source_partition = p.partition"
        " where j.worker = $2 and j.as_of > coalesce(p.since, '-infinity') group by j.source_partition"
    )
    since = [place.since for place in places.values()]
    rows = await connection.fetch(query, request, worker.value, list(places), since)
    if not rows:
        others = await connection.fetch(
            f"select distinct worker, source_partition from ({ANSWERS_OF_REQUEST}) as j",  # noqa: S608 - a constant
            request,
        )
        before = " before the topic was created again"
        known = "".join(
            f"; {row[0]} decided it in partition {row[1]}"
            f"{before if row[0] == worker.value and row[1] in places else ''}"
            for row in others
        )
        raise NoTargetError(f"{worker.value} has no stored outcome of request {request} in these partitions{known}")
    return {row[0]: row[1] for row in rows}


async def read_rewind(connection: Connection, number: int) -> Record | None:
    """Return the record of a rewind by its operation's number, None if it is not on this server."""
    return await connection.fetchrow(
        "select arguments, result, started_at from operations where operation = $1 and verb = $2", number, VERB
    )


async def _find_start_of_rewind(
    connection: Connection,
    worker: WorkerName,
    number: int,
    places: Mapping[int, PartitionState],
    row: Record | None,
) -> dict[int, int]:
    if row is None or row["arguments"]["worker"] != worker.value:
        raise RefusedError(f"operation {number} is not a rewind of {worker.value}: see `inmail operations list`")
    moves = row["result"].get("moves", [])
    ended = await connection.fetch(
        "select distinct partition from ended_topics where consumer_group = $1 and ended_at > $2",
        GROUP_OF[TOPIC_OF[worker]],
        row["started_at"],
    )
    if gone := sorted({each["partition"] for each in ended} & {each["partition"] for each in moves} & set(places)):
        raise RefusedError(
            f"operation {number} was of another topic: {TOPIC_OF[worker]} was created again since, or lost records, as"
            f" partition {gone[0]} has it; its offsets are none of the topic as it is"
        )
    return {each["partition"]: each["from"] for each in moves if each["partition"] in places}


def move_problem(kind: TargetKind, place: PartitionState, offset: int) -> str | None:
    """Return why a group's offset may not be set to an offset; None if it may.

    Only UNDO may move forward, up to the group's offset before the rewind: the answers up to there are published. To
    skip other records would lose their answers.
    """
    allowed = (
        f"allowed is {place.oldest} to {place.committed_offset}"
        if place.oldest <= place.committed_offset
        else "nothing is allowed"
    )
    where = f"partition {place.partition}: "
    if offset < place.oldest:
        return (
            f"{where}retention has deleted offset {offset} ({allowed}; `inmail replay reemit` publishes stored answers)"
        )
    if offset > place.end:
        return f"{where}there is no offset {offset}, it ends at {place.end} ({allowed})"
    if kind is TargetKind.OFFSET and offset > place.committed_offset:
        return (
            f"{where}{offset} would skip {offset - place.committed_offset} unanswered records"
            f" ({allowed}; the worker reads these records by itself)"
        )
    if kind is TargetKind.UNDO and offset > place.stored:
        return f"{where}outcomes are stored up to {place.stored}, not to {offset}: is this the database of the rewind?"
    return None
