"""The observer: looks at groups again and again, keeps what it saw, and says how each partition stands."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from time import monotonic
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from infra.kafka.clients import NotSetUpError
from infra.kafka.cluster_queries import LATEST, ClusterQueries, open_cluster_queries
from infra.lock_holder import LockHolder
from infra.postgres_locks import LockMemory
from infra.retry import describe_error
from infra.settings import Settings
from workers.ops.lag.lanes import LaneKey, LanesSample, LaneWatcher, NoteKind, neighbour_of, paused_reason
from workers.ops.lag.model import Facts, GroupLag, Owner, PartitionLag, Sample, Status, StatusChange, StatusLimits
from workers.ops.lag.owners import OwnerMemory
from workers.ops.lag.recall import CurrentPartition, backfill_samples
from workers.ops.lag.sampler import ClusterSample, ReadTo, Sampler, Unread
from workers.ops.lag.servers import ServersLaneWatcher, lane_watcher
from workers.ops.lag.verdict import classify, pace_of, within
from workers.topology import TOPIC_OF_GROUP, WORKER_OF

__all__ = ["LagObserver", "observer", "read_lag"]

_SAMPLES = 240  # of a partition: 20 minutes of one look in 5 s
_CHANGES = 32


class LagObserver:
    """The lag of groups, as of the last sample."""

    def __init__(
        self,
        open_cluster_queries: ClusterQueries,
        sampler: Sampler,
        lanes: LaneWatcher | ServersLaneWatcher | None,
        limits: StatusLimits,
        *,
        remembers: bool,
    ) -> None:
        self._lookup = open_cluster_queries
        self._sampler = sampler
        self._lanes = lanes
        self._limits = limits
        self._remembers = remembers
        self._books = LanesSample()
        self._topic_ids: Mapping[str, UUID] = {}
        self._rings: dict[LaneKey, deque[Sample]] = {}
        self._changes: dict[LaneKey, deque[StatusChange]] = {}
        self._owners = OwnerMemory()
        self._turn = asyncio.Lock()
        self.groups: Sequence[GroupLag] = ()
        self.refreshed_at: datetime | None = None
        self.look_seconds = 0.0
        self.kafka_trouble: str | None = None  # why the last look failed, if it did

    async def refresh(self) -> None:
        """Look once.

        Raises:
            NotSetUpError: when a topic of ours does not exist.
            KafkaError: when a broker cannot be reached, or does not say now; what was seen before stays.

        """
        async with self._turn:
            began = monotonic()
            self._books = LanesSample()
            sampled = await self._sampler.sample(self._read_books if self._lanes is not None else None)
            await self._keep(sampled)
            self.groups = [found for name in sampled.groups for found in self._judged(name, sampled)]
            self.refreshed_at, self.look_seconds = sampled.at, monotonic() - began
            self.kafka_trouble = None

    async def _read_books(self) -> ReadTo:
        """Ask the books and, for what they have read, which topics are there now."""
        assert self._lanes is not None  # noqa: S101 - only called then
        ids = await self._lookup.topic_ids(TOPIC_OF_GROUP.values())
        for topic in (topic for topic, id_ in self._topic_ids.items() if ids.get(topic) != id_):
            self._sampler.forget(topic)
        self._topic_ids = ids
        rows = await self._lanes.read()
        self._books = LanesSample(rows, self._lanes.is_readable, ids, self._lanes.notes)
        return self._books.read_to

    async def written(self, topic: str) -> int:
        """Return where a topic's partitions end by now, taken together: it grows with each record.

        Raises:
            KafkaError: when a broker cannot be reached, or does not say now.

        """
        ends = await self._lookup.offsets(dict.fromkeys(self._lookup.partitions(topic), LATEST))
        return sum(ends.values())

    async def run(self, period: float, seen: Callable[[], object] = lambda: None) -> None:
        """Look every so many seconds, for ever, and call `seen` after each sample.

        One that fails is told in `trouble`, what was seen before stays, and the next one comes.
        """
        while True:
            began = monotonic()
            try:
                await self.refresh()
            except (KafkaError, OSError, NotSetUpError) as error:
                self.kafka_trouble = f"Kafka cannot be asked: {describe_error(error)}"
            seen()
            await asyncio.sleep(max(0.0, period - (monotonic() - began)))

    @property
    def locks(self) -> tuple[LockHolder, ...]:
        """Who keeps something locked in the ledger's database, as of the last look; the worst first."""
        return self._lanes.locks if self._lanes is not None else ()

    @property
    def books_trouble(self) -> str | None:
        """Why the books could not be asked in the last look; None where they were, or need not be."""
        return self._lanes.trouble if self._lanes is not None else None

    @property
    def trouble(self) -> str | None:
        """What to say of the last look that went wrong, or of one without the books; None where all is well."""
        return self.kafka_trouble or self.books_trouble

    def history(self, group: str, topic: str, partition: int) -> Sequence[Sample]:
        """Return what was seen of a partition, the oldest first; nothing of one that is not watched."""
        return tuple(self._rings.get((group, TopicPartition(topic, partition)), ()))

    def changes(self, group: str, topic: str, partition: int) -> Sequence[StatusChange]:
        """Return the last statuses of a partition and since when each held, the oldest first."""
        return tuple(self._changes.get((group, TopicPartition(topic, partition)), ()))

    async def _keep(self, sampled: ClusterSample) -> None:
        """Add a sample to each ring; what is new gets a past, where it has one that matters."""
        now = {}
        for name, group in sampled.groups.items():
            for place, committed in group.committed.items():
                if place in sampled.ends:
                    unread = sampled.unread.get((name, place), Unread())
                    sample = Sample(sampled.at, committed, sampled.ends[place].end, unread.records)
                    now[name, place] = CurrentPartition(sample, unread.oldest_at)
        new = {key: seen for key, seen in now.items() if key not in self._rings and seen.sample.records}
        past = await backfill_samples(self._lookup, new, sampled.at, self._limits) if self._remembers else {}
        for key, seen in now.items():
            if key not in self._rings:
                self._rings[key] = deque(past.get(key, ()), maxlen=_SAMPLES)
            self._append(self._rings[key], seen.sample)
        there = {(name, place) for name, group in sampled.groups.items() for place in group.committed}
        for gone in self._rings.keys() - there:
            del self._rings[gone]
            self._changes.pop(gone, None)
            self._owners.forget(gone)

    def _judged(self, name: str, sampled: ClusterSample) -> list[GroupLag]:
        """Return a group's lag, topic by topic."""
        group = sampled.groups[name]
        members = group.described.members
        count = len(members) if members is not None else 0 if name in TOPIC_OF_GROUP else None
        owners = {
            place: Owner(member.id, member.client, member.host) for member in members or () for place in member.places
        }
        topics: dict[str, list[PartitionLag]] = {topic: [] for topic in sorted({p.topic for p in group.committed})}
        for place in group.committed:
            facts = self._facts(name, place, sampled, owners.get(place))
            lag = self._partition((name, place), sampled, facts, owners.get(place))
            row = self._books.rows.get((name, place))
            topics[place.topic].append(replace(lag, misplaced=row.misplaced) if row and row.misplaced else lag)
        state = group.described.state
        if not topics:
            return [GroupLag(name, "", (), state, count)]
        locks = self.locks if name in TOPIC_OF_GROUP else ()
        return [GroupLag(name, topic, tuple(found), state, count, locks) for topic, found in topics.items()]

    def _facts(self, name: str, place: TopicPartition, sampled: ClusterSample, owner: Owner | None) -> Facts:
        described = sampled.groups[name].described
        key, books = (name, place), self._books
        unread, ends = sampled.unread.get(key, Unread()), sampled.ends.get(place)
        ours, row = name in TOPIC_OF_GROUP, books.rows.get(key)
        members = len(described.members) if described.members is not None else 0 if ours else None
        watcher = self._lanes if ours else None
        locks = watcher.locks_of(place.partition) if watcher is not None else ()
        return Facts(
            now=sampled.at,
            seconds=unread.seconds(sampled.at),
            readable=unread.readable,
            held=unread.held,
            ours=ours,
            members=members,
            settled=described.settled or (ours and described.members is None),
            owned=owner is not None,
            owned_since=self._owners.since(key, owner, sampled.at, first=self.refreshed_at is None),
            unknown=None if place in sampled.ends else "no broker leads it: its end is not known",
            oldest=ends.oldest if ends is not None else 0,
            stored=books.read_to(key),
            place=(WORKER_OF.get(place.topic, ""), place.partition),
            recreated=books.recreated(key) if ours else None,
            halted=row.halted if ours and row is not None else None,
            holding=row.held if ours and row is not None else None,
            paused=paused_reason(key, books.rows, members) if ours else None,
            waiting=(books.note(key, NoteKind.MOVING) or neighbour_of(key, books.rows, sampled.ends)) if ours else None,
            unheld=books.note(key, NoteKind.UNHELD),
            locked=locks[0].text if locks else None,
            statement=watcher.statement_of(place.partition) if watcher is not None else None,
            lock_is_waited_for=bool(locks) and locks[0].blocks,
        )

    def _partition(self, key: LaneKey, sampled: ClusterSample, facts: Facts, owner: Owner | None) -> PartitionLag:
        name, place = key
        committed = sampled.groups[name].committed[place]
        ring = list(self._rings.get(key, ())) or [Sample(sampled.at, committed, committed or 0, 0)]
        last = ring[-1]
        status, reason = classify(ring, facts, self._limits)
        pace = pace_of(within(ring, sampled.at, self._limits.window_seconds))
        return PartitionLag(
            name,
            place.topic,
            place.partition,
            committed,
            last.end,
            last.records,
            facts.seconds,
            0 if committed is None else max(0, facts.oldest - min(committed, facts.stored or committed)),
            facts.held,
            facts.oldest,
            status,
            reason,
            self._since(key, sampled.at, status, reason),
            pace,
            0.0 if not last.records else last.records / pace if pace is not None and pace > 0 else None,
            owner,
        )

    def _since(self, key: LaneKey, at: datetime, status: Status, reason: str) -> datetime:
        changes = self._changes.setdefault(key, deque(maxlen=_CHANGES))
        if not changes or changes[-1].status is not status:
            changes.append(StatusChange(at, status, reason))
        return changes[-1].at

    def _append(self, ring: deque[Sample], sample: Sample) -> None:
        """Keep a sample: of a long window not every one, so that the ring spans it however often one looks."""
        if len(ring) > 1 and (sample.at - ring[-2].at).total_seconds() < self._limits.window_seconds / _SAMPLES * 1.25:
            ring[-1] = sample
        else:
            ring.append(sample)


@asynccontextmanager
async def observer(  # noqa: PLR0913 - each a choice of its own
    settings: Settings,
    groups: Sequence[str] | None = None,
    *,
    every: bool = False,
    limits: StatusLimits | None = None,
    remembers: bool = True,
    books: bool = True,
    locks: Sequence[LockMemory] = (),
) -> AsyncIterator[LagObserver]:
    """Open an observer; it has seen nothing before its first refresh.

    Args:
        settings: where Kafka and the books are.
        groups: by name; our workers' own where none is named.
        every: all groups of the cluster, and those.
        limits: what a status takes.
        remembers: read what was committed before the first look, so that it knows as much as one that was there.
        books: ask them which lanes pause and wait. They may be away: the rest is told all the same.
        locks: for each server one, shared with others who ask it who holds locks, so that one question serves all.

    Raises:
        KafkaError: when the cluster cannot be reached.

    """
    lanes = lane_watcher(settings, locks) if books else None
    async with open_cluster_queries(settings) as asked, AsyncExitStack() as stack:
        if lanes is not None:
            stack.push_async_callback(lanes.close)
        known = replace(limits or StatusLimits(), order_seconds=settings.order_seconds)
        yield LagObserver(asked, Sampler(asked, groups, every=every), lanes, known, remembers=remembers)


async def read_lag(settings: Settings) -> Sequence[GroupLag]:
    """Return the lag of every worker's group: against the end of all that was written, committed or not.

    One look, without the past and the books: numbers, and what they tell by themselves.

    Raises:
        NotSetUpError: when a topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    async with observer(settings, remembers=False, books=False) as once:
        await once.refresh()
        return once.groups
