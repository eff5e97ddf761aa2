"""Searching topics for a few records: bounded windows of partitions, read one after the other."""

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext
from datetime import datetime
from itertools import zip_longest
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.clock import to_milliseconds
from infra.kafka.clients import partition_of, partitions_of, reader
from infra.kafka.records import partition_counts, read_to
from infra.settings import Settings
from schemas.catalogue import TOPICS

__all__ = ["ProgressWatch", "Search", "Window", "no_progress", "open_search"]

_REPORT_EVERY = 1000  # records
_WAIT_MS = 50  # the ends of partitions are read again and again

# Shows a long search: given how many records it may read, and what they are, yields what to call with the number read.
ProgressWatch = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]


def no_progress(_: int, __: str) -> AbstractContextManager[Callable[[int], None]]:
    """Show nothing."""
    return nullcontext(lambda _: None)


class Window(NamedTuple):
    """A part of a partition: the offsets [start, stop)."""

    place: TopicPartition
    start: int
    stop: int


class Search:
    """The topics as they were when the search began: committed records up to there are found, later ones are not."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        bounds: tuple[dict[TopicPartition, int], dict[TopicPartition, int]],
        limit: int,
        watch: ProgressWatch,
    ) -> None:
        self._consumer = consumer
        self._oldest, self._ends = bounds
        self._limit = limit
        self._watch = watch

    def partitions(self, topic: str) -> list[TopicPartition]:
        """Return a topic's partitions."""
        return [place for place in self._ends if place.topic == topic]

    def account_partition(self, topic: str, account_id: str) -> TopicPartition:
        """Return the partition of an account's key."""
        return TopicPartition(topic, partition_of(account_id.encode(), len(self.partitions(topic))))

    def is_gone(self, place: TopicPartition, offset: int) -> bool:
        """Tell whether retention took what was there, or whether there is no such partition any more."""
        return offset < self._oldest.get(place, offset + 1)

    def ends_before(self, place: TopicPartition, offset: int) -> bool:
        """Tell whether a partition ends at an offset or before it."""
        return self._ends[place] <= offset

    async def offset_at(self, place: TopicPartition, time: datetime | None) -> int:
        """Return the offset of a partition's first record of a time or later; of the oldest one for no time."""
        if time is None:
            return self._oldest[place]
        found = (await self._consumer.offsets_for_times({place: to_milliseconds(time)}))[place]
        return self._ends[place] if found is None else max(found.offset, self._oldest[place])

    async def may_have_lost(self, place: TopicPartition, since: datetime | None) -> bool:
        """Tell whether retention may have taken records of a time or later; of any time for None."""
        oldest = self._oldest[place]
        return oldest > 0 and await self.offset_at(place, since) <= oldest

    def window_from(self, place: TopicPartition, start: int, share: int = 1) -> Window:
        """Return what is from an offset on, as far as the limit lets a search go that is one of so many."""
        start = min(max(start, self._oldest[place]), self._ends[place])
        return Window(place, start, min(self._ends[place], start + max(1, self._limit // share)))

    def newest_window(self, place: TopicPartition, start: int = 0) -> Window:
        """Return the end of a partition, as far back as the limit goes, and no further than an offset."""
        end = self._ends[place]
        return Window(place, min(end, max(self._oldest[place], end - self._limit, start)), end)

    async def read(self, windows: Iterable[Window], what: str = "records") -> AsyncGenerator[ConsumerRecord, None]:
        """Yield the records of some windows, each once. Close it with `contextlib.aclosing` when leaving early.

        Raises:
            KafkaError: when the cluster cannot be reached, or stopped answering.

        """
        rounds = _merge_windows(windows)
        total = sum(window.stop - window.start for windows in rounds for window in windows)
        if not total:
            return
        done = reported = 0
        with self._watch(total, what) as progress:
            for each in rounds:
                places = {window.place: window.start for window in each}
                self._consumer.assign(list(places))
                for place, start in places.items():
                    self._consumer.seek(place, start)
                stops = {window.place: window.stop for window in each}
                async with aclosing(read_to(self._consumer, dict(places), stops, _WAIT_MS)) as records:
                    async for record in records:
                        yield record
                        place = TopicPartition(record.topic, record.partition)
                        done += record.offset + 1 - places[place]
                        places[place] = record.offset + 1
                        if done - reported >= _REPORT_EVERY:
                            reported = done
                            progress(done)
            progress(total)

    def record_window(self, place: TopicPartition, offset: int) -> Window:
        """Return the place of one record; empty where there is none (any more)."""
        if self.is_gone(place, offset) or self.ends_before(place, offset):
            return Window(place, offset, offset)
        return Window(place, offset, offset + 1)


@asynccontextmanager
async def open_search(settings: Settings, limit: int, watch: ProgressWatch) -> AsyncIterator[Search]:
    """Open a search of all topics.

    Args:
        settings: where Kafka is.
        limit: so many records of a partition at most are read for one thing that is looked for.
        watch: shows how far it is.

    Raises:
        NotSetUpError: when a topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    counts = await partition_counts(settings, TOPICS)
    places = [place for topic, count in counts.items() for place in partitions_of(topic, count)]
    async with reader(settings, wait_ms=_WAIT_MS) as consumer:
        bounds = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        yield Search(consumer, bounds, limit, watch)


def _merge_windows(windows: Iterable[Window]) -> list[list[Window]]:
    """Return windows that cover the same and do not overlap, in rounds that read each partition once."""
    merged: dict[TopicPartition, list[Window]] = defaultdict(list)
    for window in sorted(window for window in windows if window.start < window.stop):
        of_place = merged[window.place]
        if of_place and window.start <= of_place[-1].stop:
            of_place[-1] = Window(window.place, of_place[-1].start, max(of_place[-1].stop, window.stop))
        else:
            of_place.append(window)
    return [[window for window in each if window is not None] for each in zip_longest(*merged.values())]
