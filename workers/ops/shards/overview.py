"""Which server holds which numbers, which moves are under way, and which numbers nobody holds or two servers claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.postgres import database_address
from infra.settings import Settings
from infra.shards import NumberState, settings_of_shards
from workers.ops.shards.servers import (
    ShardServer,
    UnreachableServerError,
    books_partitions,
    check_prepared,
    read_server,
)

__all__ = ["ShardStanding", "ShardsOverview", "UnderWay", "read_overview"]


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A number that a server gives away or receives at this moment."""

    number: int
    state: NumberState
    other: str | None  # address of the other server; None: it is not in INMAIL_DATABASE_SHARDS, or does not answer

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"number": self.number, "state": self.state.value, "other": self.other}


@dataclass(frozen=True, slots=True)
class ShardStanding:
    """A server and what it holds, or why it does not say so."""

    address: str
    server: ShardServer | None
    error: UnreachableServerError | None
    held: tuple[int, ...] = ()
    under_way: tuple[UnderWay, ...] = ()

    @property
    def problem(self) -> str | None:
        """Why it does not say so, in words."""
        return None if self.error is None else str(self.error)

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        shard = None if self.server is None else self.server.shard
        return {
            "address": self.address,
            "ordinal": None if shard is None else shard.ordinal,
            "shard_id": None if shard is None else str(shard.shard_id),
            "held": list(self.held),
            "under_way": [each.summary() for each in self.under_way],
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class ShardsOverview:
    """All servers of the books."""

    servers: tuple[ShardStanding, ...]
    partitions: int
    unheld: tuple[int, ...]  # numbers that no server that answers holds
    claimed_twice: Mapping[int, tuple[str, ...]]  # numbers that several hold, with their addresses

    @property
    def is_complete(self) -> bool:
        """Whether all servers answered."""
        return all(each.problem is None for each in self.servers)

    @property
    def is_sound(self) -> bool:
        """Whether each number has one server, as far as servers answer."""
        return not self.claimed_twice and not (self.unheld and self.is_complete)

    def summary(self) -> dict[str, Any]:
        """Return it for JSON, what is wrong first."""
        return {
            "unheld": list(self.unheld),
            "claimed_twice": {str(number): list(addresses) for number, addresses in self.claimed_twice.items()},
            "partitions": self.partitions,
            "servers": [each.summary() for each in self.servers],
        }


async def read_overview(settings: Settings) -> ShardsOverview:
    """Return what each server holds; one that does not answer has its problem instead.

    Raises:
        UnreachableServerError: when none answers, or is set up.
        RepeatedServerError, RefusedError: as `check_prepared` raises them.

    """
    found: list[tuple[str, ShardServer | None, UnreachableServerError | None]] = []
    for each in settings_of_shards(settings):
        try:
            found.append((database_address(each), await read_server(each), None))
        except UnreachableServerError as error:
            found.append((database_address(each), None, error))
    servers = [server for _, server, _ in found if server is not None]
    if not servers:
        raise _all_of([error for *_, error in found if error is not None])
    check_prepared(servers)
    partitions = books_partitions(servers) or settings.topic_partitions
    addresses = {each.shard.shard_id: each.address for each in servers}
    holders = {
        number: tuple(each.address for each in servers if each.shard.holds(number)) for number in range(partitions)
    }
    return ShardsOverview(
        tuple(_standing(address, server, error, partitions, addresses) for address, server, error in found),
        partitions,
        tuple(number for number, held_by in holders.items() if not held_by),
        {number: held_by for number, held_by in holders.items() if len(held_by) > 1},
    )


def _all_of(errors: Sequence[UnreachableServerError]) -> UnreachableServerError:
    """Return one error that says what all say; they answered only where each did."""
    return UnreachableServerError(
        "; ".join(map(str, errors)),
        "; ".join(dict.fromkeys(each.do for each in errors if each.do)),
        answered=all(each.answered for each in errors),
    )


def _standing(
    address: str,
    server: ShardServer | None,
    error: UnreachableServerError | None,
    partitions: int,
    addresses: Mapping[Any, str],
) -> ShardStanding:
    if server is None:
        return ShardStanding(address, None, error)
    return ShardStanding(
        address,
        server,
        None,
        tuple(number for number in range(partitions) if server.shard.holds(number)),
        tuple(
            UnderWay(number, said.state, addresses.get(said.other_shard))
            for number, said in sorted(server.shard.numbers.items())
            if said.state in (NumberState.LEAVING, NumberState.ARRIVING)
        ),
    )
