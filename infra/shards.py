"""Which partition numbers a Postgres server holds, where several servers hold the books together.

Each server says it of itself (`0019_shards.sql`): there is no other map that could be out of date. A server alone holds
every number.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from asyncpg import Record
from pydantic import SecretStr

from infra.postgres import Connection
from infra.settings import Settings, SettingsError

__all__ = [
    "SHARD_QUERY",
    "NumberState",
    "RepeatedServerError",
    "Shard",
    "ShardNumber",
    "check_distinct",
    "find_repeated",
    "number_ranges",
    "read_shard",
    "settings_of_shards",
    "shard_from_rows",
]

SHARD_QUERY = (
    "select s.shard_id, s.ordinal, s.holds_all, n.number, n.state, n.other_shard, n.move,"
    " current_setting('transaction_read_only') = 'on' as is_read_only"
    " from shard as s left join shard_numbers as n on true"
)


def settings_of_shards(settings: Settings) -> list[Settings]:
    """Return the settings once for each server that holds the books, in the order of INMAIL_DATABASE_SHARDS."""
    urls = settings.database_shards.get_secret_value().split() or [settings.database_url.get_secret_value()]
    return [settings.model_copy(update={"database_url": SecretStr(url)}) for url in urls]


class NumberState(StrEnum):
    """What a server has of a partition number."""

    HELD = "held"  # its lanes are worked here
    ARRIVING = "arriving"  # a move to here is under way
    LEAVING = "leaving"  # a move from here is under way
    LEFT = "left"  # another server holds it


class ShardNumber(NamedTuple):
    """What a server says of one number, beside what it says of all."""

    state: NumberState
    other_shard: UUID | None  # that it left for, leaves for, or arrives from
    move: UUID | None


@dataclass(frozen=True, slots=True)
class Shard:
    """A Postgres server and the partition numbers that it holds."""

    shard_id: UUID
    ordinal: int  # 0: the first server
    holds_all: bool  # whether it holds the numbers that `numbers` says nothing of
    numbers: Mapping[int, ShardNumber] = field(default_factory=dict)

    def holds(self, number: int) -> bool:
        """Tell whether the lanes of a number are worked on this server."""
        said = self.numbers.get(number)
        return self.holds_all if said is None else said.state is NumberState.HELD

    @property
    def is_alone(self) -> bool:
        """Whether it holds every number, and never had part in a move that left some elsewhere."""
        return self.holds_all and all(said.state is NumberState.HELD for said in self.numbers.values())


class RepeatedServerError(SettingsError):
    """Two URLs of INMAIL_DATABASE_SHARDS lead to one server. The message names both."""


def find_repeated(servers: Iterable[tuple[str, Shard | None]]) -> dict[int, RepeatedServerError]:
    """Return an error for each server that is one before it by another address, by its place in the order.

    Args:
        servers: the name of each, and what it said; None of one that did not answer.

    """
    names: dict[UUID, str] = {}
    repeated = {}
    for place, (name, shard) in enumerate(servers):
        if shard is None:
            continue
        if shard.shard_id not in names:
            names[shard.shard_id] = name
            continue
        repeated[place] = RepeatedServerError(
            f"INMAIL_DATABASE_SHARDS: {names[shard.shard_id]} and {name} lead to one server, or to a server and a copy"
            " of it: name each server that holds the books once"
        )
    return repeated


def check_distinct(servers: Iterable[tuple[str, Shard | None]]) -> None:
    """Check that no two servers are one; `find_repeated` describes the argument.

    Raises:
        RepeatedServerError: when two are.

    """
    for error in find_repeated(servers).values():
        raise error


async def read_shard(connection: Connection) -> Shard:
    """Return what a server holds, as of one moment.

    Raises:
        asyncpg.UndefinedTableError: when the database does not have this version's tables.

    """
    return shard_from_rows(await connection.fetch(SHARD_QUERY))


def shard_from_rows(rows: Sequence[Record]) -> Shard:
    """Return what a server holds from what it answered to `SHARD_QUERY`."""
    first = rows[0]
    return Shard(
        first["shard_id"],
        first["ordinal"],
        first["holds_all"],
        {
            row["number"]: ShardNumber(NumberState(row["state"]), row["other_shard"], row["move"])
            for row in rows
            if row["number"] is not None
        },
    )


def number_ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers in words: `0-3, 6`."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda each: each[1] - each[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
