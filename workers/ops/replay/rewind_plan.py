"""Plans a rewind: the current and the target offset of each partition, and the answers that would be published again.

A rewound lane reads its records again, finds their stored outcomes and publishes these: first answers with the same
bytes, repeats as repeats (`lane.py`, `ledger/store.py`). So a rewind over stored outcomes is refused unless the
operator asks to publish again. Records without a stored outcome (the database was restored from a backup) are decided,
which needs no extra option. So are earlier dead letters that this version can decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from asyncpg import Record
from pydantic import SecretStr

from infra.kafka.clients import admin_client
from infra.postgres import Connection
from infra.settings import Settings
from infra.shards import settings_of_shards
from workers.ledger.model import WorkerName
from workers.ops.books.shards import naming_server, server_name
from workers.ops.books.snapshot import connect_to_books, open_books
from workers.ops.books.whole_books import check_whole_books
from workers.ops.group_offsets import describe_group
from workers.ops.numbers import ServerNumbers, names_by_number, servers_of_numbers
from workers.ops.operations import RefusedError
from workers.ops.replay.rewind_target import (
    NoTargetError,
    PartitionState,
    RewindTarget,
    TargetKind,
    find_targets,
    move_problem,
    read_partition_states,
    read_rewind,
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
    servers: Sequence[ServerNumbers]  # that hold the partitions

    @property
    def server_of(self) -> Mapping[int, str]:
        """The name of the server of each partition; empty where there is one server."""
        return names_by_number(self.servers)

    @property
    def held_by(self) -> list[tuple[SecretStr, tuple[int, ...]]]:
        """The address of each server, and its partitions."""
        return [(each.server.database_url, each.numbers) for each in self.servers]

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
        plan = {
            "group": GROUP_OF[TOPIC_OF[self.worker]],
            "moves": [move.summary() for move in self.moves],
            "records": self.records,
            "seconds": round(self.seconds, 1),
            "members": list(self.members),
            "refused": self.refusal,
        }
        if not self.server_of:
            return plan
        servers = [{"server": server_name(each.server), "numbers": list(each.numbers)} for each in self.servers]
        return plan | {"servers": servers}


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
        PartOfBooksError: when the only server that is named holds some of the numbers.
        NotHeldError, ServerError: of several servers, as `servers_of_numbers` raises them: all that hold one of the
            partitions have to answer, as the offsets are set all at once.
        KafkaError, OSError, asyncpg.PostgresError: when Kafka or Postgres cannot be reached or refuses.

    """
    await check_whole_books(settings)
    servers = await servers_of_numbers(settings, target.partitions)
    async with admin_client(settings) as admin:
        group = await describe_group(admin, GROUP_OF[TOPIC_OF[worker]])
    rewound = await _find_rewind(settings, target) if target.kind is TargetKind.UNDO else None
    found: dict[int, int] = {}
    moves, absent = [], []
    for server, numbers in servers:
        part = replace(target, partitions=numbers)
        with naming_server(server):
            # No transaction is open while Kafka is asked: Postgres would end an idle one, and be told to be away.
            async with connect_to_books(server) as connection:
                try:
                    goes, of_server = await _plan_server(server, connection, worker, part, targets, rewound)
                except NoTargetError as error:
                    absent.append(error)
                    continue
        found |= goes
        moves += of_server
    if len(absent) == len(servers):
        raise absent[0]
    moves.sort()
    members = () if group.empty else group.members or (f"one that is being counted out ({group.state})",)
    return RewindPlan(worker, target.kind, found, moves, members, _refusal(moves, members, options), servers)


async def _find_rewind(settings: Settings, target: RewindTarget) -> Record | None:
    """Return the record of the rewind to undo, of whichever server has it: first that of operations is asked."""
    for server in sorted(settings_of_shards(settings), key=lambda each: each.database_url != settings.database_url):
        with naming_server(server):
            async with open_books(server) as connection:
                if (row := await read_rewind(connection, target.value)) is not None:  # type: ignore[arg-type] # as the kind says
                    return row
    return None


async def _plan_server(  # noqa: PLR0913, PLR0917 - where, what, and what is known of it
    settings: Settings,
    connection: Connection,
    worker: WorkerName,
    target: RewindTarget,
    targets: Mapping[int, int] | None,
    rewound: Record | None,
) -> tuple[Mapping[int, int], list[OffsetMove]]:
    """Return the target offsets and the moves of the partitions that one server holds."""
    places = await read_partition_states(settings, connection, worker, target.partitions)
    if targets is None:
        targets = await find_targets(settings, connection, worker, target, places, rewound)
    if rewound is not None:
        await _check_undo(connection, worker, places, rewound)
    goes = {number: offset for number, offset in targets.items() if number in places}
    problems = [move_problem(target.kind, places[number], offset) for number, offset in goes.items()]
    if any(problems):
        raise RefusedError("; ".join(filter(None, problems)))
    moves = [
        await _plan_move(connection, worker, places[number], offset)
        for number, offset in sorted(goes.items())
        if _must_move(target.kind, places[number], offset)
    ]
    return goes, moves


def _must_move(kind: TargetKind, place: PartitionState, offset: int) -> bool:
    """Return whether a group has to move; a group before a time or a request reads up to it by itself."""
    return offset > place.committed_offset if kind is TargetKind.UNDO else offset < place.committed_offset


async def _plan_move(connection: Connection, worker: WorkerName, place: PartitionState, goes: int) -> OffsetMove:
    known = min(place.committed_offset, place.stored)
    answers = await _count_answers(connection, worker, place, (goes, known)) if goes < known else 0
    again, anew = max(0, known - goes), max(0, place.committed_offset - max(goes, place.stored))
    return OffsetMove(place.partition, place.committed_offset, goes, again, answers, anew)


async def _count_answers(
    connection: Connection, worker: WorkerName, place: PartitionState, offsets: tuple[int, int]
) -> int:
    """Return of how many records from one offset to before another an outcome was decided for the record itself."""
    query = (
        "select count(*) from ticks where 'expiry' = $1 and partition = $2 and source_offset >= $3"
        " and source_offset < $4 and as_of > coalesce($5::timestamptz, '-infinity')"
        if worker is WorkerName.EXPIRY
        else "select count(*) from journal where worker = $1 and source_partition = $2 and source_offset >= $3"
        " and source_offset < $4 and is_answer and as_of > coalesce($5::timestamptz, '-infinity')"
    )
    return int(
        await connection.fetchval(query, worker.value, place.partition, *offsets, place.since, timeout=_COUNT_SECONDS)
    )


async def _check_undo(
    connection: Connection, worker: WorkerName, places: Mapping[int, PartitionState], rewound: Record
) -> None:
    """Refuse to go forward over records that were decided since a rewind, whose answers may not be published.

    They had no outcome before: the books were restored from a backup, or an earlier version made them dead letters.
    """
    for move in rewound["result"].get("moves", ()):
        place = places.get(move["partition"])
        if place is None or place.committed_offset >= move["from"]:
            continue
        now = await _count_answers(connection, worker, place, (move["to"], move["from"]))
        if new := max(0, now - move["of_which_first_answers"]):
            raise RefusedError(
                f"partition {place.partition}: {new:,} record{'s'[: new != 1]} up to {move['from']} had no outcome"
                " before the rewind, and has one now: to go forward could leave its answer unpublished. Let the workers"
                " read on: they publish it, and come to where the group was"
            )


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
