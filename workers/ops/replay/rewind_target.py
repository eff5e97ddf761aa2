"""Where a group is to go back to: an offset, a time, a request, or where it stood before a rewind. And where it stands.

Each is an offset in each partition in the end. One that is not there, or that would pass over unread records, is
refused with the range that is allowed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, assert_never
from uuid import UUID

from aiokafka import TopicPartition

from infra.clock import EPOCH
from infra.kafka.clients import admin_client, committed_offsets, count_partitions, partitions_of, reader
from infra.postgres import Connection
from infra.settings import Settings
from workers.ledger.model import WorkerName
from workers.ops.operations import RefusedError
from workers.topology import GROUP_OF, TOPIC_OF

__all__ = [
    "VERB",
    "PartitionState",
    "RewindTarget",
    "TargetKind",
    "find_targets",
    "group_of",
    "problem_of",
    "read_places",
    "topic_of",
]

VERB = "rewind"


class TargetKind(StrEnum):
    """How a target is named."""

    OFFSET = "offset"
    TIME = "time"  # the first record at or after it
    REQUEST = "request"  # the record that was decided
    UNDO = "undo"  # forward to where a rewind found the group


@dataclass(frozen=True, slots=True)
class RewindTarget:
    """Where to, in which partitions."""

    kind: TargetKind
    value: int | datetime | UUID  # to undo: the number of the rewind's operation
    partitions: tuple[int, ...] = ()  # none: all

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        value = self.value if isinstance(self.value, int) else str(self.value)
        return {"to": self.kind.value, "value": value, "partitions": list(self.partitions)}


class PartitionState(NamedTuple):
    """One partition as its group and the books have it, in offsets of the next record."""

    partition: int
    oldest: int
    end: int
    stands: int  # up to here the group has published
    stored: int  # up to here the books have outcomes


def topic_of(worker: WorkerName) -> str:
    """Return the input topic of a worker."""
    return TOPIC_OF[worker]


def group_of(worker: WorkerName) -> str:
    """Return the consumer group of a worker."""
    return GROUP_OF[TOPIC_OF[worker]]


async def read_places(
    settings: Settings, connection: Connection, worker: WorkerName, partitions: Sequence[int]
) -> dict[int, PartitionState]:
    """Return where a group stands in some partitions, or in all if none are named.

    Raises:
        RefusedError: when there is no such partition, or the group was never started in one.
        NotSetUpError: when the topic does not exist.

    """
    topic, group = topic_of(worker), group_of(worker)
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
        "select partition, next_offset from lanes where consumer_group = $1 and topic = $2", group, topic
    )
    stored = {row["partition"]: row["next_offset"] or 0 for row in rows}
    found = {}
    for place in places:
        if (stands := committed[place]) is None:
            raise RefusedError(f"group {group} was never started in {topic}/{place.partition}: `inmail topics apply`")
        number = place.partition
        found[number] = PartitionState(number, oldest[place], ends[place], stands, stored.get(number, 0))
    return found


async def find_targets(
    settings: Settings,
    connection: Connection,
    worker: WorkerName,
    target: RewindTarget,
    places: Mapping[int, PartitionState],
) -> dict[int, int]:
    """Return the offset that is meant in each partition that is meant.

    Raises:
        RefusedError: when there is none.

    """
    match target.kind:
        case TargetKind.OFFSET:
            return dict.fromkeys(places, int(target.value))  # type: ignore[arg-type] # as the kind says
        case TargetKind.TIME:
            return await _at_time(settings, connection, worker, target.value, places)  # type: ignore[arg-type] # as the kind says
        case TargetKind.REQUEST:
            return await _at_request(connection, worker, target.value, places)  # type: ignore[arg-type] # the same
        case TargetKind.UNDO:
            return await _before(connection, worker, target.value, places)  # type: ignore[arg-type] # the same
        case _:
            assert_never(target.kind)


async def _at_time(
    settings: Settings, connection: Connection, worker: WorkerName, time: datetime, places: Mapping[int, PartitionState]
) -> dict[int, int]:
    topic = topic_of(worker)
    asked = -(-(time - EPOCH) // timedelta(milliseconds=1))  # rounded up: no record before it is meant
    taken = [await _newest_taken(connection, worker, place) for place in places.values()]
    if (newest := max(filter(None, taken), default=None)) is not None and newest >= time:
        raise RefusedError(
            f"retention has taken records of {topic} that are of {time.isoformat()} or later: allowed are times after"
            f" {newest.isoformat()}. The books keep the answers: `inmail replay reemit`"
        )
    async with reader(settings, None, "read_uncommitted") as consumer:
        found = await consumer.offsets_for_times({TopicPartition(topic, number): asked for number in places})
    targets = {place.partition: first.offset for place, first in found.items() if first is not None}
    if not targets:
        raise RefusedError(f"no record of {topic} is of {time.isoformat()} or later")
    return targets


async def _newest_taken(connection: Connection, worker: WorkerName, place: PartitionState) -> datetime | None:
    """Return the time of the newest record that retention has taken of a partition, as the books know it.

    The oldest record that is left does not tell: a quiet partition may have lost nothing for long.
    """
    query = (
        "select as_of from ticks where 'expiry' = $1 and partition = $2 and source_offset < $3"
        " order by source_offset desc limit 1"
        if worker is WorkerName.EXPIRY
        else "select as_of from journal where worker = $1 and source_partition = $2 and source_offset < $3"
        " order by source_offset desc limit 1"
    )
    newest: datetime | None = await connection.fetchval(query, worker.value, place.partition, place.oldest)
    return newest


async def _at_request(
    connection: Connection, worker: WorkerName, request: UUID, places: Mapping[int, PartitionState]
) -> dict[int, int]:
    if worker is WorkerName.EXPIRY:
        rows = await connection.fetch(
            "select partition, min(source_offset) from ticks where request_id = $1 and partition = any($2)"
            " and code <> 'key_conflict' group by partition",
            request,
            list(places),
        )
    else:
        rows = await connection.fetch(
            "select source_partition, min(source_offset) from ("
            " select * from journal where request_id = $1 and is_answer and code <> 'key_conflict'"
            " and code <> 'balance_not_current'"
            " union all select * from journal where request_id = $1 and is_answer and code = 'balance_not_current'"
            ") as j where worker = $2 and source_partition = any($3) group by source_partition",
            request,
            worker.value,
            list(places),
        )
    if not rows:
        others = await connection.fetch(
            "select distinct worker, source_partition from journal where request_id = $1 and is_answer", request
        )
        known = "".join(f"; it was decided by {row[0]}, in partition {row[1]}" for row in others)
        raise RefusedError(f"the books have no outcome of request {request} by {worker.value} there{known}")
    return {row[0]: row[1] for row in rows}


async def _before(
    connection: Connection, worker: WorkerName, number: int, places: Mapping[int, PartitionState]
) -> dict[int, int]:
    row = await connection.fetchrow(
        "select arguments, result from operations where operation = $1 and verb = $2", number, VERB
    )
    if row is None or row["arguments"]["worker"] != worker.value:
        raise RefusedError(f"operation {number} is no rewind of {worker.value}: see `inmail operations list`")
    moves = row["result"].get("moves", [])
    return {each["partition"]: each["from"] for each in moves if each["partition"] in places}


def problem_of(kind: TargetKind, place: PartitionState, offset: int) -> str | None:
    """Return why a group may not go to an offset of a partition; None if it may.

    Forward is allowed up to where a rewind found the group and no further: all before that is published, as its
    committed offset said then. Anything else in front of it is unread, and to skip it would lose its answers.
    """
    allowed = f"allowed is {place.oldest} to {place.stands}" if place.oldest <= place.stands else "nothing is allowed"
    where = f"partition {place.partition}: "
    if offset < place.oldest:
        return f"{where}retention has taken offset {offset} ({allowed}; `inmail replay reemit` answers from the books)"
    if offset > place.end:
        return f"{where}there is no offset {offset}, it ends at {place.end} ({allowed})"
    if kind is TargetKind.OFFSET and offset > place.stands:
        return (
            f"{where}{offset} would pass over what the group has not answered, {offset - place.stands} in number"
            f" ({allowed}; its worker comes to that by itself)"
        )
    if kind is TargetKind.UNDO and offset > place.stored:
        return f"{where}the books end at {place.stored}, before {offset}: are they those that the rewind was made with?"
    return None
