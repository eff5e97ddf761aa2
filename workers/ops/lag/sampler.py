"""One look at groups: what they committed, where their partitions end, and which record comes next, for all at once."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from aiokafka import TopicPartition

from infra.clock import utc_now
from infra.kafka.clients import NotSetUpError
from infra.kafka.cluster_queries import EARLIEST, LATEST, ClusterQueries, GroupDescription
from infra.kafka.peek import Peek, peek
from workers.topology import TOPIC_OF_GROUP

__all__ = ["ClusterSample", "GroupSample", "PartitionEnds", "ReadTo", "Sampler", "Unread"]


ReadTo = Callable[[tuple[str, TopicPartition]], int | None]  # up to which offset the books have read; None: not known

_Looked = tuple[TopicPartition, int, bool]  # from where, and whether as a reader of committed records


@dataclass(frozen=True, slots=True)
class GroupSample:
    """A group: who is in it, and what it committed of each partition that it reads."""

    described: GroupDescription
    committed: Mapping[TopicPartition, int | None]


@dataclass(frozen=True, slots=True)
class PartitionEnds:
    """A partition: its oldest record, where it ends, and where what a reader of committed records can read ends."""

    oldest: int
    end: int
    stable: int


@dataclass(frozen=True, slots=True)
class Unread:
    """What a group has not read of a partition."""

    records: int = 0
    readable: int = 0  # of them, what can be read now
    held: int = 0  # of them, what an open transaction keeps back
    oldest_at: datetime | None = None  # broker's time of the first of them

    def seconds(self, now: datetime) -> float:
        """Return the age of the oldest unread record: by the broker's time of it, and this machine's clock."""
        return 0.0 if self.oldest_at is None else max(0.0, (now - self.oldest_at).total_seconds())


@dataclass(frozen=True, slots=True)
class ClusterSample:
    """All groups at one moment."""

    at: datetime
    groups: Mapping[str, GroupSample]
    ends: Mapping[TopicPartition, PartitionEnds]  # without partitions that nobody leads
    unread: Mapping[tuple[str, TopicPartition], Unread]


class Sampler:
    """Looks again and again through one client, and remembers which record it found where."""

    def __init__(self, lookup: ClusterQueries, groups: Sequence[str] | None, *, every: bool) -> None:
        """Take the groups to look at, by name; our own ones where none is named; every group of the cluster if told."""
        self._lookup = lookup
        self._named = list(TOPIC_OF_GROUP) if groups is None else list(groups)
        self._every = every
        self._seen: dict[_Looked, Peek] = {}

    async def sample(self, read_books: Callable[[], Awaitable[ReadTo]] | None = None) -> ClusterSample:
        """Look once.

        Args:
            read_books: asks how far our books have read, where that is to count: records that a group's offset has
                passed over and the books have not read are unread all the same.

        Raises:
            NotSetUpError: when a topic of ours does not exist.
            KafkaError: when a broker cannot be reached, or does not say now.

        """
        await self._lookup.refresh()
        names = await self._names()
        described = await self._lookup.describe(names)
        # Committed offsets first, and then the books: neither is beyond the ends that are asked for after them, nor an
        # offset beyond the books, whose outcomes are stored before it is committed.
        committed = await self._lookup.committed(names)
        groups = {
            name: GroupSample(described.get(name, GroupDescription("", None)), self._places(name, described, found))
            for name, found in committed.items()
        }
        read_to = await read_books() if read_books is not None else _not_known
        ends = await self._ends({place for group in groups.values() for place in group.committed})
        at = utc_now()
        return ClusterSample(at, groups, ends, await self._unread(groups, ends, read_to))

    def forget(self, topic: str) -> None:
        """Forget which records were found in a topic: it is another one."""
        self._seen = {looked: seen for looked, seen in self._seen.items() if looked[0].topic != topic}

    async def _names(self) -> list[str]:
        if not self._every:
            return self._named
        found = await self._lookup.groups()
        missing = [name for name in self._named if name not in found]
        return found + [
            name for name in missing if name not in TOPIC_OF_GROUP or self._lookup.partitions(TOPIC_OF_GROUP[name])
        ]

    def _places(
        self, name: str, described: Mapping[str, GroupDescription], committed: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int | None]:
        """Return what a group reads: what it committed, what its members have, and of ours the whole topic."""
        places = set(committed)
        for member in (described[name].members if name in described else None) or ():
            places |= member.places
        if (topic := TOPIC_OF_GROUP.get(name)) is not None:
            ours = self._lookup.partitions(topic)
            if not ours and not self._every:
                raise NotSetUpError(f"Kafka has no topic {topic}: run `inmail topics apply`")
            places |= set(ours)
        there = {place for topic in {each.topic for each in places} for place in self._lookup.partitions(topic)}
        return {place: committed.get(place) for place in sorted(places & there)}

    async def _ends(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, PartitionEnds]:
        asked = dict.fromkeys(places, LATEST)
        ends = await self._lookup.offsets(asked)
        # Afterwards: what comes in between is not held back.
        stable = await self._lookup.offsets(asked, committed=True)
        oldest = await self._lookup.offsets(dict.fromkeys(asked, EARLIEST))
        return {
            place: PartitionEnds(oldest[place], end, min(end, stable[place]))
            for place, end in ends.items()
            if place in stable and place in oldest
        }

    async def _unread(
        self, groups: Mapping[str, GroupSample], ends: Mapping[TopicPartition, PartitionEnds], read_to: ReadTo
    ) -> dict[tuple[str, TopicPartition], Unread]:
        behind = {
            (name, place): (start, ends[place])
            for name, group in groups.items()
            for place, offset in group.committed.items()
            if place in ends and (start := _first_unread(offset, read_to((name, place)), ends[place])) < ends[place].end
        }
        readable = {(key[1], start, True) for key, (start, end) in behind.items() if start < end.stable}
        await self._glance(readable, lambda seen, place: seen.time is not None or seen.reached >= ends[place].stable)
        held: dict[tuple[str, TopicPartition], _Looked] = {}
        for key, (start, end) in behind.items():
            seen = self._seen.get((key[1], start, True))
            if end.stable < end.end and (seen is None or (seen.time is None and seen.reached >= end.stable)):
                held[key] = (key[1], max(start, end.stable), False)
        await self._glance(set(held.values()), lambda seen, _: seen.time is not None)
        found = {
            key: _unread(
                end, start, self._seen.get((key[1], start, True)), self._seen.get(held.get(key, (key[1], -1, False)))
            )
            for key, (start, end) in behind.items()
        }
        kept = readable | set(held.values())
        self._seen = {looked: seen for looked, seen in self._seen.items() if looked in kept}
        return found

    async def _glance(self, looked: Iterable[_Looked], enough: Callable[[Peek, TopicPartition], bool]) -> None:
        """Look at what was not looked at before, or gave no answer that still holds."""
        for committed in (True, False):
            asked = [
                each
                for each in looked
                if each[2] is committed and not (each in self._seen and enough(self._seen[each], each[0]))
            ]
            # Several groups may stand at different offsets of one partition, which is asked for once in a question.
            while asked:
                now = {each[0]: each for each in asked}
                starts = {place: self._begin(each) for place, each in now.items()}
                for place, seen in (await peek(self._lookup, starts, committed=committed)).items():
                    self._seen[now[place]] = seen
                asked = [each for each in asked if now[each[0]] != each]

    def _begin(self, looked: _Looked) -> int:
        """Return where to look on: one look passes over so much of what was aborted, and no more."""
        seen = self._seen.get(looked)
        return looked[1] if seen is None or seen.time is not None else max(looked[1], seen.reached)


def _not_known(_: tuple[str, TopicPartition]) -> None:
    """Tell nothing of the books."""


def _first_unread(committed: int | None, stored: int | None, ends: PartitionEnds) -> int:
    """Return the first offset of which it is not certain that its record was read.

    An offset beyond the end is of another topic, or of records that are lost: what is there now may all be unread.
    """
    known = [offset for offset in (committed, stored) if offset is not None]
    if any(offset > ends.end for offset in known):
        return ends.oldest
    return max(min(known, default=0), ends.oldest)


def _unread(end: PartitionEnds, start: int, seen: Peek | None, held: Peek | None) -> Unread:
    """Return what is unread from an offset on, by what was found there and where an open transaction begins."""
    if seen is not None and (seen.time is not None or seen.reached < end.stable):
        return Unread(end.end - seen.reached, end.stable - seen.reached, end.end - end.stable, seen.time)
    if held is not None and held.time is not None:
        return Unread(end.end - held.reached, 0, end.end - held.reached, held.time)
    if seen is None and start < end.stable:  # its leader did not answer just now
        return Unread(end.end - start, end.stable - start, end.end - end.stable)
    if held is None and end.stable < end.end:  # nor of what an open transaction holds
        return Unread(end.end - max(start, end.stable), 0, end.end - max(start, end.stable))
    return Unread()  # nothing but what was aborted, and markers of transactions
