"""The sample of the ledger's database that all open pages share: of one server, or of all that hold the books."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from infra.clock import utc_now
from infra.lock_holder import LockHolder
from infra.postgres_locks import LockedError, LockMemory
from infra.settings import Settings
from infra.shards import NumberState, RepeatedServerError, find_repeated, number_ranges, settings_of_shards
from workers.console.health import FAILED, OK, SystemPart
from workers.console.problems import KNOWN, is_silence
from workers.ops.books.lanes import LaneProgress, read_lanes
from workers.ops.books.recent_outcomes import OutcomeCount, merge_outcomes, recent_outcomes
from workers.ops.books.server_locks import explaining_locks
from workers.ops.books.shards import ONE_SERVER, Holdings, ServerError, naming_server, read_holdings, server_name
from workers.ops.books.snapshot import open_books
from workers.ops.books.whole_books import PartOfBooksError, check_whole
from workers.ops.operations import count_running_operations, read_operations

__all__ = ["OUTCOME_RECORDS", "LedgerSample"]

OUTCOME_RECORDS: Final = 500  # records of each lane
_TIME_SHARE: Final = 0.8  # of a sample's time limit, for each of several servers
_UNDER_WAY: Final = (NumberState.LEAVING, NumberState.ARRIVING)


@dataclass(slots=True)
class _Server:
    """One server as it was read last."""

    settings: Settings
    name: str  # empty: the only server
    notes_operations: bool
    memory: LockMemory = field(default_factory=LockMemory)
    holdings: Holdings = ONE_SERVER
    lanes: list[LaneProgress] = field(default_factory=list)
    outcomes: list[OutcomeCount] = field(default_factory=list)
    locks: list[LockHolder] = field(default_factory=list)
    error: BaseException | None = None
    is_known: bool = False  # whether it was ever read

    def holds(self, number: int) -> bool:
        """Tell whether its rows of a number count."""
        return self.is_known and self.holdings.has_number(number)

    def forget(self, error: BaseException) -> None:
        """Drop what was read, as its rows count as those of another server."""
        self.error, self.is_known, self.holdings = error, False, ONE_SERVER
        self.lanes, self.outcomes, self.locks = [], [], []


class LedgerSample:
    """What the ledger's database said last. What a server said stays while it does not answer."""

    def __init__(self, settings: Settings) -> None:
        servers = settings_of_shards(settings)
        several = len(servers) > 1
        self._partitions = settings.topic_partitions
        self._servers = [
            _Server(
                each,
                f"Postgres at {server_name(each)}" if several else "",
                not several or each.database_url == settings.database_url,
            )
            for each in servers
        ]
        self.operations = ""  # changes with every change of an operation
        self.running = 0  # operations
        self.at: datetime | None = None

    @property
    def lock_memories(self) -> list[LockMemory]:
        """What is known of holders of locks, for each server."""
        return [each.memory for each in self._servers]

    @property
    def lanes(self) -> list[LaneProgress]:
        """The progress of every lane, from the server that holds its number."""
        return [lane for each in self._servers for lane in each.lanes if each.holds(lane.partition)]

    @property
    def outcomes(self) -> list[OutcomeCount]:
        """How often each code answered the last records of all lanes."""
        return merge_outcomes(each.outcomes for each in self._servers)

    @property
    def locks(self) -> list[LockHolder]:
        """Who keeps something locked on any server, those that work waits for first."""
        return sorted((lock for each in self._servers for lock in each.locks), key=lambda lock: not lock.blocks)

    async def read(self) -> None:
        """Read all servers side by side. Of one that is another by a second address nothing counts.

        Raises:
            KNOWN: the error of the first server that does not answer. The others were read all the same.

        """
        await asyncio.gather(*map(self._read_one, self._servers))
        said = [(server_name(each.settings), each.holdings.shard) for each in self._servers]
        for place, error in find_repeated(said).items():
            self._servers[place].forget(error)
        for each in self._servers:
            if each.error is not None:
                raise each.error
        self.at = utc_now()

    async def _read_one(self, server: _Server) -> None:
        # One of several that is silent takes no time from the others, whose readings the sample's own limit would end.
        limit = server.settings.console_timeout_seconds * _TIME_SHARE if server.name else None
        try:
            with naming_server(server.settings):
                async with asyncio.timeout(limit):
                    await self._read_server(server)
        except KNOWN as error:
            if not isinstance(error.error if isinstance(error, ServerError) else error, LockedError):
                server.locks = []
            server.error = error
        else:
            server.error = None

    async def _read_server(self, server: _Server) -> None:
        async with explaining_locks(server.settings), open_books(server.settings) as connection:
            # First: whoever has locked the tables is told although they cannot be read.
            found = await server.memory.read(connection)
            server.locks = [replace(each, server=server.name) for each in found] if server.name else found
            await check_whole(connection, server.settings)
            if server.name:
                server.holdings = await read_holdings(connection)
                self._partitions = server.holdings.partitions or self._partitions
            server.lanes = await read_lanes(connection)
            server.outcomes = await recent_outcomes(connection, OUTCOME_RECORDS, server.holdings)
            server.is_known = True
            if server.notes_operations:
                newest = await read_operations(connection, 5)
                self.running = await count_running_operations(connection)
                self.operations = " ".join(f"{each.operation}:{each.status}:{each.noted_at}" for each in newest)

    def parts(self, explain: Callable[[BaseException], str]) -> list[SystemPart]:
        """Return the health of each of several servers, and of the numbers; of a server alone that it should not be.

        Args:
            explain: returns an error in words.

        """
        if len(self._servers) == 1:
            error = self._servers[0].error
            return [_named_alone(explain(error))] if isinstance(error, PartOfBooksError) else []
        parts = []
        for each in self._servers:
            if each.error is None:
                parts.append(SystemPart(each.name, OK, "reachable", "queries succeed"))
                continue
            if isinstance(each.error, RepeatedServerError):
                title = f"{each.name} is another server's address"
                do = "mend INMAIL_DATABASE_SHARDS of the console, then restart it"
                parts.append(SystemPart(each.name, FAILED, "named twice", explain(each.error), do, title=title))
                continue
            if not is_silence(each.error):
                title = f"{each.name} refuses what the console asks"
                parts.append(SystemPart(each.name, FAILED, "refused", explain(each.error), title=title))
                continue
            numbers = number_ranges(self._numbers_of(each))
            waits = f". Only accounts of partitions {numbers} wait for it" if numbers else ""
            text = f"{explain(each.error)}{waits}"
            parts.append(SystemPart(each.name, FAILED, "no answer", text, title=f"{each.name} does not answer"))
        return parts + self._number_parts()

    def _numbers_of(self, server: _Server) -> list[int]:
        """Return the numbers that a server that does not answer holds, as far as it or the others have said."""
        others = [each for each in self._servers if each is not server]
        return [
            number
            for number in range(self._partitions)
            if server.holds(number) or (not server.is_known and not any(each.holds(number) for each in others))
        ]

    def _number_parts(self) -> list[SystemPart]:
        """Return the trouble of numbers that no server holds, or two."""
        answered = [each for each in self._servers if each.error is None]
        holders = {
            number: [each.name for each in answered if _works(each.holdings, number)]
            for number in range(self._partitions)
        }
        moving = {number for number in holders for each in answered if _is_moving(each.holdings, number)}
        parts = []
        unheld = [number for number, names in holders.items() if not names and number not in moving]
        if unheld and len(answered) == len(self._servers):
            parts.append(_unworked(unheld, "No server holds", "no server of INMAIL_DATABASE_SHARDS holds them"))
        if twice := {number: names for number, names in holders.items() if len(names) > 1}:
            told = sorted({name for names in twice.values() for name in names})
            parts.append(_unworked(list(twice), "Two servers hold", f"{' and '.join(told)} claim them"))
        return parts


def _works(holdings: Holdings, number: int) -> bool:
    return holdings.shard is not None and holdings.shard.holds(number)


def _is_moving(holdings: Holdings, number: int) -> bool:
    said = None if holdings.shard is None else holdings.shard.numbers.get(number)
    return said is not None and said.state in _UNDER_WAY


def _named_alone(text: str) -> SystemPart:
    do = "set INMAIL_DATABASE_SHARDS of the console, then restart it"
    return SystemPart("Postgres", FAILED, "named alone", text, do)


def _unworked(numbers: Sequence[int], title: str, text: str) -> SystemPart:
    what = f"partition{'s' if len(numbers) > 1 else ''} {number_ranges(numbers)}"
    text = f"{text}, so nobody works {what}, and what comes waits"
    return SystemPart(
        "Partitions", FAILED, "unheld", text, "`inmail shards list`, then docs/shards.md", title=f"{title} {what}"
    )
