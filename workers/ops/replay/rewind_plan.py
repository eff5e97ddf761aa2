"""What a rewind would do: for each partition from where to where, and what its worker would make of that.

A rewound lane decides nothing again. It reads its records once more, finds their outcomes in the books and publishes
them: first answers as the bytes they were, repeats as repeats (`lane.py`, `ledger/store.py`). So to read again is to
publish again, and where outcomes are stored a rewind is refused unless that is what is asked for. What the books do not
know (they were restored from a backup) is decided, for the first time as far as they know: that needs no asking. So is,
among what is published again, a record that had been set aside and that this version can decide.
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
from workers.ops.operations import RefusedError
from workers.ops.replay.rewind_target import (
    PartitionState,
    RewindTarget,
    TargetKind,
    find_targets,
    group_of,
    problem_of,
    read_places,
)

__all__ = ["OffsetMove", "RewindOptions", "RewindPlan", "plan_rewind"]

# Answers that a worker publishes again in a second: somewhat below what it decides from Kafka to Kafka on two cores.
_RATE = 10_000.0
_COUNT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class RewindOptions:
    """What is asked for beside the target."""

    publish_again: bool = False
    drain: bool = False


class OffsetMove(NamedTuple):
    """What happens in one partition. Offsets are those of the next record."""

    partition: int
    stands: int
    goes: int
    again: int  # records whose outcomes are stored, or that were set aside: published again
    answers: int  # of these, with an outcome that was decided for this very record
    anew: int  # records that the books do not know: decided

    def summary(self) -> dict[str, int]:
        """Return it for JSON."""
        return {
            "partition": self.partition,
            "from": self.stands,
            "to": self.goes,
            "published_again": self.again,
            "of_which_first_answers": self.answers,
            "decided": self.anew,
        }


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """What would be done, or why it is refused."""

    worker: WorkerName
    kind: TargetKind
    targets: Mapping[int, int]  # by partition, also of those that need not move
    moves: Sequence[OffsetMove]
    members: Sequence[str]
    refusal: str | None

    @property
    def records(self) -> int:
        """How many records would be read again."""
        return sum(move.again + move.anew for move in self.moves)

    @property
    def seconds(self) -> float:
        """About how long the worker takes to be where it was."""
        return self.records / _RATE

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "group": group_of(self.worker),
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
    """Return what a rewind would do, without doing it.

    Args:
        settings: where Kafka and Postgres are.
        worker: whose group it is.
        target: where to.
        options: what is asked for beside that.
        targets: what the target was found to mean before; None: find it.

    Raises:
        RefusedError: when the target does not exist, or would pass over records. The message names what is allowed.
        NotSetUpError: when the topics or the tables do not exist.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    async with admin_client(settings) as admin:
        group = await describe_group(admin, group_of(worker))
    async with open_books(settings) as connection:
        places = await read_places(settings, connection, worker, target.partitions)
        if targets is None:
            targets = await find_targets(settings, connection, worker, target, places)
        problems = [problem_of(target.kind, places[number], offset) for number, offset in targets.items()]
        if any(problems):
            raise RefusedError("; ".join(filter(None, problems)))
        moves = [
            await _move(connection, worker, places[number], offset)
            for number, offset in sorted(targets.items())
            if _moves(target.kind, places[number], offset)
        ]
    members = () if group.empty else group.members or (f"one that is being counted out ({group.state})",)
    return RewindPlan(worker, target.kind, targets, moves, members, _refusal(moves, members, options))


def _moves(kind: TargetKind, place: PartitionState, offset: int) -> bool:
    """Tell whether a group has to move at all. One that stands before a time or a request comes to it by itself."""
    return offset > place.stands if kind is TargetKind.UNDO else offset < place.stands


async def _move(connection: Connection, worker: WorkerName, place: PartitionState, goes: int) -> OffsetMove:
    known = min(place.stands, place.stored)
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
    again, anew = max(0, known - goes), max(0, place.stands - max(goes, place.stored))
    return OffsetMove(place.partition, place.stands, goes, again, answers, anew)


def _refusal(moves: Sequence[OffsetMove], members: Sequence[str], options: RewindOptions) -> str | None:
    again = sum(move.again for move in moves)
    if again and not options.publish_again:
        return (
            f"{'1 record has' if again == 1 else f'{again:,} records have'} been decided or set aside: to read it again"
            " moves no credit twice, it publishes the answers again, with the same event ids. If that is what you want,"
            " say --publish-again; `inmail replay reemit` publishes chosen answers again, also to another topic, and"
            " stops no worker"
        )
    if members and moves and not options.drain:
        return (
            f"the group has members ({', '.join(members)}): stop its workers first, or say --drain and stop them while"
            " it waits"
        )
    return None
