"""What several Postgres servers say of our workers' lanes: a lane's row is that of the server that holds its number."""

import asyncio
from collections.abc import Mapping, Sequence

from infra.lock_holder import LockHolder
from infra.postgres_locks import LockMemory
from infra.settings import Settings
from infra.shards import NumberState, Shard, find_repeated, number_ranges, settings_of_shards
from workers.ops.books.shards import server_name
from workers.ops.lag.lanes import LaneKey, LaneWatcher, NeighbourLane, NoteKind, NumberNote

__all__ = ["ServersLaneWatcher", "lane_watcher"]


def lane_watcher(settings: Settings, locks: Sequence[LockMemory] = ()) -> "LaneWatcher | ServersLaneWatcher":
    """Return who reads the lanes of the only server, or of all.

    Args:
        settings: where the servers are.
        locks: for each server one, shared with others who ask it who holds locks.

    """
    if len(settings_of_shards(settings)) == 1:
        return LaneWatcher(settings, locks[0] if locks else None)
    return ServersLaneWatcher(settings, locks)


def _state_of(shard: Shard, number: int) -> NumberState | None:
    return None if (said := shard.numbers.get(number)) is None else said.state


def _unheld(text: str) -> NumberNote:
    return NumberNote(NoteKind.UNHELD, f"{text}, so nobody works it: see `inmail shards list`")


class ServersLaneWatcher:
    """Reads the rows of all servers, side by side. One that is away has its numbers told so; the others' stay."""

    def __init__(self, settings: Settings, locks: Sequence[LockMemory] = ()) -> None:
        servers = settings_of_shards(settings)
        self._names = [f"Postgres at {server_name(each)}" for each in servers]
        self._watchers = [
            LaneWatcher(server, memory, name)
            for server, memory, name in zip(servers, locks or [LockMemory() for _ in servers], self._names, strict=True)
        ]
        self._partitions = settings.topic_partitions
        self._server_of: dict[int, LaneWatcher] = {}  # by number: whose rows count
        self.trouble: str | None = None  # which servers could not be read the last time, and why
        self.locks: tuple[LockHolder, ...] = ()  # of all servers, those that work waits for first
        self.notes: Mapping[int, NumberNote] = {}

    async def read(self) -> dict[LaneKey, NeighbourLane]:
        """Return each lane as the server that holds its number has it; none where that server cannot be read.

        A server that is another by a second address counts as away: it stands where one that may hold numbers should.
        """
        found = await asyncio.gather(*(each.read() for each in self._watchers))
        said = [each.shard if each.trouble is None else None for each in self._watchers]
        for place, error in find_repeated(zip(self._names, said, strict=True)).items():
            self._watchers[place].discard(str(error))
            found[place] = {}
        self.locks = tuple(sorted((lock for each in self._watchers for lock in each.locks), key=lambda e: not e.blocks))
        self._partitions = next((n for each in self._watchers if (n := each.partitions)), self._partitions)
        answered = [each for each in self._watchers if each.trouble is None]
        self._server_of, self.notes = {}, {}
        notes = {number: self._judge(number, answered) for number in range(self._partitions)}
        self.notes = {number: note for number, note in notes.items() if note is not None}
        self.trouble = self._troubles(answered)
        return {
            key: row
            for watcher, rows in zip(self._watchers, found, strict=True)
            for key, row in rows.items()
            if self._server_of.get(key[1].partition) is watcher
        }

    def _judge(self, number: int, answered: Sequence[LaneWatcher]) -> NumberNote | None:
        """Note whose rows count for a number; return what is to be said of it."""
        said = {each: each.shard for each in answered if each.shard is not None}
        holders = [each for each, shard in said.items() if shard.holds(number)]
        leaving = [each for each, shard in said.items() if _state_of(shard, number) is NumberState.LEAVING]
        arriving = [each for each, shard in said.items() if _state_of(shard, number) is NumberState.ARRIVING]
        is_complete = len(answered) == len(self._watchers)
        if len(holders) == 1:
            self._server_of[number] = holders[0]
            return None
        if holders:
            who = " and ".join(self._name(each) for each in holders)
            return _unheld(f"{who} hold partition number {number}")
        # The rows where a number arrives are current only once it has left, and before that may not be there at all: a
        # server that does not answer may have it still.
        if moving := leaving or (arriving if is_complete else []):
            self._server_of[number] = moving[0]
            return NumberNote(NoteKind.MOVING, f"the move of partition number {number} from server to server")
        if not is_complete:  # the server that is away may hold it
            away = [each for each in self._watchers if each not in answered]
            known = [each for each in away if each.shard is not None and each.shard.holds(number)]
            self._server_of[number] = (known or away)[0]  # whose locks may be why
            return NumberNote(NoteKind.AWAY, self._away(answered))
        return _unheld(f"no server of INMAIL_DATABASE_SHARDS holds partition number {number}")

    def _troubles(self, answered: Sequence[LaneWatcher]) -> str | None:
        if len(answered) == len(self._watchers):
            return None
        silent = [number for number, note in self.notes.items() if note.kind is NoteKind.AWAY]
        if not answered:
            return f"{self._away(answered)}: no lane is told to pause or wait"
        if not silent:
            return self._away(answered)
        return f"{self._away(answered)}: no lane of partitions {number_ranges(silent)} is told to pause or wait"

    def _away(self, answered: Sequence[LaneWatcher]) -> str:
        return "; ".join(each.statement or "" for each in self._watchers if each not in answered)

    def _name(self, watcher: LaneWatcher) -> str:
        return self._names[self._watchers.index(watcher)]

    def locks_of(self, number: int) -> Sequence[LockHolder]:
        """Return who keeps something locked that the lanes of a number need, the worst first."""
        watcher = self._server_of.get(number)
        return () if watcher is None else watcher.locks

    def statement_of(self, number: int) -> str | None:
        """Return what may keep the lanes of a number in Postgres, in words."""
        watcher = self._server_of.get(number)
        note = self.notes.get(number)
        if note is not None and note.kind is NoteKind.AWAY:
            return note.text
        return None if watcher is None else watcher.statement

    @property
    def is_readable(self) -> bool:
        """Whether the books of any server could be read the last time."""
        return any(each.is_readable for each in self._watchers)

    async def close(self) -> None:
        """Let the connections go, whatever state they are in."""
        for each in self._watchers:
            await each.close()
