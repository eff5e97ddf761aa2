"""Plans a rewind: the current and the target offset of each partition, and the answers that would be published again.

A rewound lane reads its records again, finds their stored outcomes and publishes these: first answers with the same
bytes, repeats as repeats (`lane.py`, `ledger/store.py`). So a rewind over stored outcomes is refused unless the
operator asks to publish again. Records without a stored outcome (the database was restored from a backup) are decided,
which needs no extra option. So are earlier dead letters that this version can decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from infra.kafka.clients import admin_client
from infra.postgres import Connection
from infra.settings import Settings
from workers.ledger.model import WorkerName
from workers.ops.books.snapshot import open_books
from workers.ops.group_offsets import describe_group
from workers.ops.numbers import one_server_of_numbers
from workers.ops.operations import RefusedError
from workers.ops.replay.rewind_target import (
    PartitionState,
    RewindTarget,
    TargetKind,
    find_targets,
    move_problem,
    read_partition_states,
)
from workers.topology import GROUP_OF, TOPIC_OF

__all__ = ["OffsetMove", "RewindOptions", "RewindPlan", "plan_rewind"]

# Records that a worker reads again in a second: somewhat below its throughput from Kafka to Kafka on two cores.
_RATE = 10_000.0
_COUNT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class RewindOptions:
    """The options of a rewind."""

    publish_again: bool = False
    drain: bool = False


class OffsetMove(NamedTuple):
    """The move of a group in one partition. Each offset is that of the next record."""

    partition: int
    current: int
    target: int
    republished: int  # number of records with a stored outcome or a dead letter: published again
    first_answers: int  # of these, the number with an outcome decided for the record itself
    newly_decided: int  # number of records without a stored outcome: decided

    def summary(self) -> dict[str, int]:
        """Return the move for JSON."""
        return {
            "partition": self.partition,
            "from": self.current,
            "to": self.target,
            "published_again": self.republished,
            "of_which_first_answers": self.first_answers,
            "decided": self.newly_decided,
        }


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """The moves of a rewind, or the reason for its refusal."""

    worker: WorkerName
    kind: TargetKind
    targets: Mapping[int, int]  # by partition, also for partitions that need no move
    moves: Sequence[OffsetMove]
    members: Sequence[str]
    refusal: str | None

    @property
    def records(self) -> int:
        """The number of records to read again."""
        return sum(move.republished + move.newly_decided for move in self.moves)

    @property
    def seconds(self) -> float:
        """The estimated time until the worker is back at its current offsets."""
        return self.records / _RATE

    def summary(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return {
            "group": GROUP_OF[TOPIC_OF[self.worker]],
            "moves": [move.summary() for move in self.moves],
            "records": self.records,
            "seconds": round(self.seconds, 1),
            "members": list(self.members),
            "refused": self.refusal,
        }


async def plan_rewind(
    settings: Settings,
    worker: WorkerName,
    target: RewindTarget,
    options: RewindOptions,
    targets: Mapping[int, int] | None = None,
) -> RewindPlan:
    """Return the plan of a rewind, without setting any offset.

    Args:
        settings: where Kafka and Postgres are.
        worker: the worker whose group to rewind.
        target: the target.
        options: the options of the rewind.
        targets: the target offsets of an earlier plan; None: find them.

    Raises:
        RefusedError: when the target does not exist, or would skip records. The message names the allowed range.
        NotSetUpError: when the topics or the tables do not exist.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    settings = await one_server_of_numbers(settings, target.partitions, "inmail replay rewind")
    async with admin_client(settings) as admin:
        group = await describe_group(admin, GROUP_OF[TOPIC_OF[worker]])
    async with open_books(settings) as connection:
        places = await read_partition_states(settings, connection, worker, target.partitions)
        if targets is None:
            targets = await find_targets(settings, connection, worker, target, places)
        problems = [move_problem(target.kind, places[number], offset) for number, offset in targets.items()]
        if any(problems):
            raise RefusedError("; ".join(filter(None, problems)))
        moves = [
            await _plan_move(connection, worker, places[number], offset)
            for number, offset in sorted(targets.items())
            if _must_move(target.kind, places[number], offset)
        ]
    members = () if group.empty else group.members or (f"one that is being counted out ({group.state})",)
    return RewindPlan(worker, target.kind, targets, moves, members, _refusal(moves, members, options))


def _must_move(kind: TargetKind, place: PartitionState, offset: int) -> bool:
    """Return whether a group has to move; a group before a time or a request reads up to it by itself."""
    return offset > place.committed_offset if kind is TargetKind.UNDO else offset < place.committed_offset


async def _plan_move(connection: Connection, worker: WorkerName, place: PartitionState, goes: int) -> OffsetMove:
    known = min(place.committed_offset, place.stored)
    answers = 0
    if goes < known:
        query = (
            "select count(*) from ticks where 'expiry' = $1 and partition = $2 and source_offset >= $3"
            " and source_offset < $4 and as_of > coalesce($5::timestamptz, '-infinity')"
            if worker is WorkerName.EXPIRY
            else "select count(*) from journal where worker = $1 and source_partition = $2 and source_offset >= $3"
            " and source_offset < $4 and is_answer and as_of > coalesce($5::timestamptz, '-infinity')"
        )
        answers = await connection.fetchval(
            query, worker.value, place.partition, goes, known, place.since, timeout=_COUNT_SECONDS
        )
    again, anew = max(0, known - goes), max(0, place.committed_offset - max(goes, place.stored))
    return OffsetMove(place.partition, place.committed_offset, goes, again, answers, anew)


def _refusal(moves: Sequence[OffsetMove], members: Sequence[str], options: RewindOptions) -> str | None:
    again = sum(move.republished for move in moves)
    if again and not options.publish_again:
        records, them = ("1 record has", "it") if again == 1 else (f"{again:,} records have", "them")
        return (
            f"{records} an outcome or a dead letter: to read {them} again moves no credits, but publishes the answers"
            " again, with the same event ids. To do so, give --publish-again; `inmail replay reemit` publishes selected"
            " answers again, also to another topic, and stops no worker"
        )
    if members and moves and not options.drain:
        return (
            f"the group has members ({', '.join(members)}): stop its workers first, or give --drain and stop them"
            " during the wait"
        )
    return None
