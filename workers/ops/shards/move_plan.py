"""What moving numbers to another server would do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from pydantic import SecretStr

from infra.postgres import open_database
from infra.settings import Settings
from infra.shards import NumberState
from workers.ops.operations import RefusedError
from workers.ops.shards.members import check_members
from workers.ops.shards.servers import ShardServer, books_partitions, read_server, read_servers

__all__ = ["MoveKind", "MovePlan", "NumberMove", "parse_numbers", "plan_moves", "plan_number"]

_SIZE: Final = """
select count(*) as accounts, coalesce(sum(sequence), 0)::bigint as rows,
    exists (select from lanes where partition = $1) as has_lanes
from accounts where partition = $1
"""

_SIZE_SECONDS: Final = 600.0  # there is no index by number, and accounts may be many


class MoveKind(StrEnum):
    """What is to be done about a number."""

    MOVE = "move"  # from its first step, or from wherever it was broken off
    DELETE = "delete"  # it is there; a server that it left may have rows of it still
    TAKE_BACK = "take_back"  # a move from there, or from where it was before, was begun: give it up


class NumberMove(NamedTuple):
    """What is to be done about one number."""

    number: int
    kind: MoveKind
    other: ShardServer | None  # from which it comes; of a move that is given up: to which it was to go, if it is listed
    begun: bool = False  # it is broken off: nobody works the number until it is done
    accounts: int = 0
    rows: int = 0  # of their journal

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        other = None if self.other is None else self.other.address
        told = {"number": self.number, "kind": self.kind.value, "from": other, "begun": self.begun}
        return told | {"accounts": self.accounts, "rows": self.rows}


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What moving numbers would do, one after the other."""

    target: ShardServer
    moves: tuple[NumberMove, ...]
    there: tuple[int, ...]  # numbers that are where they are to go

    @property
    def numbers(self) -> list[int]:
        """The numbers of which there is something to do; several servers may have rows of one."""
        return sorted({each.number for each in self.moves})

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "to": self.target.address,
            "moves": [each.summary() for each in self.moves],
            "there_already": list(self.there),
        }


def parse_numbers(texts: Sequence[str]) -> list[int]:
    """Return the numbers that texts like `3`, `6-11` or `1,4-5` name, in order.

    Raises:
        ValueError: when one names none.

    """
    numbers: set[int] = set()
    for part in (part for text in texts for part in text.split(",")):
        if (span := re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())) is None:
            raise ValueError(f"expected partition numbers like 3 or 6-11, got {part!r}")
        first, last = int(span[1]), int(span[2] or span[1])
        if last < first:
            raise ValueError(f"{part} is empty: the smaller number comes first")
        numbers |= set(range(first, last + 1))
    return sorted(numbers)


async def plan_moves(settings: Settings, numbers: Sequence[int], to: str) -> MovePlan:
    """Return what moving numbers to a server would do.

    Args:
        settings: with INMAIL_DATABASE_SHARDS.
        numbers: the partition numbers.
        to: the server, by its URL or its ordinal.

    Raises:
        RefusedError: when the server is none of INMAIL_DATABASE_SHARDS, a number is not where it could come from, or a
            worker knows of one server only.
        UnreachableServerError: when a server does not answer or is not set up.
        KafkaError, OSError, asyncpg.PostgresError: when a server fails.

    """
    servers = await read_servers(settings)
    target = await _find_target(settings, servers, to)
    _check_migrations(servers, target)
    partitions = books_partitions(servers) or settings.topic_partitions
    if wrong := [number for number in numbers if number >= partitions]:
        raise RefusedError(
            f"there is no number {wrong[0]}: the topics have {partitions} partitions, 0 to {partitions - 1}"
        )
    found = [each for number in numbers for each in plan_number(number, target, servers)]
    if any(each.kind is not MoveKind.DELETE for each in found):
        _check_counts(servers, target)
    if any(each.kind is MoveKind.MOVE for each in found):
        await check_members(settings)
    moves = tuple([each for move in found if (each := await _with_size(move, target)) is not None])
    there = set(numbers) - {each.number for each in moves}
    return MovePlan(target, moves, tuple(sorted(there)))


async def _find_target(settings: Settings, servers: Sequence[ShardServer], to: str) -> ShardServer:
    if to.isdecimal():
        named = next((each for each in servers if each.shard.ordinal == int(to)), None)
    else:
        told = await read_server(settings.model_copy(update={"database_url": SecretStr(to)}))
        named = next((each for each in servers if each.shard.shard_id == told.shard.shard_id), None)
    if named is None:
        raise RefusedError(
            "--to is none of the servers in INMAIL_DATABASE_SHARDS: prepare it (`inmail shards add`), add it there for"
            " every tool, the read API, the console, metrics and lag, and start its workers; then move numbers to it"
        )
    return named


def _check_migrations(servers: Sequence[ShardServer], target: ShardServer) -> None:
    for server in servers:
        if server.migrations != target.migrations:
            raise RefusedError(
                f"{server.name} and {target.name} have other migrations: run `inmail migrate` of one version on both"
            )


def _check_counts(servers: Sequence[ShardServer], target: ShardServer) -> None:
    for server in servers:
        # One without accounts and lanes has an old count where partitions were added: the move gives it the other's.
        counts = {each.partitions for each in (server, target) if each.partitions is not None}
        if len(counts) > 1 and not (server.is_empty or target.is_empty):
            raise RefusedError(
                f"{server.name} numbers accounts by {server.partitions} partitions, {target.name} by"
                f" {target.partitions}: they are not of the same books"
            )


def plan_number(number: int, target: ShardServer, servers: Sequence[ShardServer]) -> tuple[NumberMove, ...]:
    """Return what is to be done so that a server holds a number, and no other has anything of it.

    Raises:
        RefusedError: when two servers claim it, or none could give it.

    """
    holders = [each for each in servers if each.shard.holds(number)]
    if len(holders) > 1:
        raise RefusedError(
            f"{' and '.join(each.name for each in holders)} both claim number {number}: see `inmail shards list`"
        )
    there = target.shard.numbers.get(number)
    if holders == [target]:
        return _plan_rest(number, target, servers)
    if holders:
        begun = there is not None and there.state is NumberState.ARRIVING
        if begun and there is not None and there.other_shard != holders[0].shard.shard_id:
            raise RefusedError(
                f"{target.name} has rows of number {number} from a move of another server that was given up: `inmail"
                f" shards move {number} --to {holders[0].shard.ordinal}` deletes them; then run this command again"
            )
        return (NumberMove(number, MoveKind.MOVE, holders[0], begun),)
    return (_plan_unheld(number, target, servers),)


def _plan_unheld(number: int, target: ShardServer, servers: Sequence[ShardServer]) -> NumberMove:
    """Return how a move that was broken off goes on, or is given up."""
    there = target.shard.numbers.get(number)
    for each in servers:
        said = each.shard.numbers.get(number)
        if each is target or said is None or said.other_shard != target.shard.shard_id:
            continue
        has_left = said.state is NumberState.LEFT and there is not None and there.state is NumberState.ARRIVING
        if said.state is NumberState.LEAVING or (has_left and there is not None and said.move == there.move):
            return NumberMove(number, MoveKind.MOVE, each, begun=True)
    if there is not None and there.state is NumberState.LEAVING:
        # It cannot hold the number before this one has given it away: it may be lost, and off the list.
        other = next((each for each in servers if each.shard.shard_id == there.other_shard), None)
        return NumberMove(number, MoveKind.TAKE_BACK, other, begun=True)
    raise RefusedError(_elsewhere(number, servers))


def _plan_rest(number: int, target: ShardServer, servers: Sequence[ShardServer]) -> tuple[NumberMove, ...]:
    """Return what other servers have still of a number that is where it is to be.

    Whichever servers they name: a number that went on since, or whose move to there was given up for another one, is
    held by one that they know nothing of. Nothing arrives any more where the number is held elsewhere.
    """
    kinds = {NumberState.LEFT: MoveKind.DELETE, NumberState.ARRIVING: MoveKind.TAKE_BACK}
    said = [(each, each.shard.numbers.get(number)) for each in servers if each is not target]
    rest = [(each, kinds.get(here.state)) for each, here in said if here is not None]
    return tuple(
        NumberMove(number, kind, each, begun=kind is MoveKind.TAKE_BACK) for each, kind in rest if kind is not None
    )


def _elsewhere(number: int, servers: Sequence[ShardServer]) -> str:
    said = [
        f"{each.name}: {each.shard.numbers[number].state.value}" for each in servers if number in each.shard.numbers
    ]
    return (
        f"number {number} cannot go there ({'; '.join(said) or 'no server holds it'}): finish the move that is under"
        " way (`inmail shards list` names it), or add the server that holds the number to INMAIL_DATABASE_SHARDS"
    )


async def _with_size(move: NumberMove, target: ShardServer) -> NumberMove | None:
    """Add of how many accounts and rows a number is; None where nothing is left to delete."""
    server = target if move.other is None or move.kind is MoveKind.TAKE_BACK else move.other
    async with open_database(server.settings) as connection:
        row = await connection.fetchrow(_SIZE, move.number, timeout=_SIZE_SECONDS)
    assert row is not None  # noqa: S101 - an aggregate returns its row
    if move.kind is MoveKind.DELETE and not (row["accounts"] or row["has_lanes"]):
        return None
    return move._replace(accounts=row["accounts"], rows=row["rows"])
