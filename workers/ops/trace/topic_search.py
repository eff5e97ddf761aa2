"""Searches topics for a few records: reads bounded windows of partitions, one after another."""

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
_WAIT_MS = 50  # short, since every window ends with a poll of a partition's end

# Shows the progress of a search: given the maximum number of records and a word for them, a context manager that yields
# a function to call with the number of records read.
ProgressWatch = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]


def no_progress(_: int, __: str) -> AbstractContextManager[Callable[[int], None]]:
    """Return a progress watch that shows nothing."""
    return nullcontext(lambda _: None)


class Window(NamedTuple):
    """A part of a partition: the offsets [start, stop)."""

    place: TopicPartition
    start: int
    stop: int


class Search:
    """A search of all topics: finds committed records up to the topics' ends at the start of the search."""

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
        """Return the partition of a topic that an account's key belongs to."""
        return TopicPartition(topic, partition_of(account_id.encode(), len(self.partitions(topic))))

    def is_gone(self, place: TopicPartition, offset: int) -> bool:
        """Return whether retention has deleted an offset, or the partition no longer exists."""
        return offset < self._oldest.get(place, offset + 1)

    def ends_before(self, place: TopicPartition, offset: int) -> bool:
        """Return whether a partition ends at an offset or before it."""
        return self._ends[place] <= offset

    async def offset_at(self, place: TopicPartition, time: datetime | None) -> int:
        """Return the offset of a partition's first record at a time or later; for None, of the oldest record."""
        if time is None:
            return self._oldest[place]
        found = (await self._consumer.offsets_for_times({place: to_milliseconds(time)}))[place]
        return self._ends[place] if found is None else max(found.offset, self._oldest[place])

    async def may_have_lost(self, place: TopicPartition, since: datetime | None) -> bool:
        """Return whether retention may have deleted records of a time or later; for None, of any time."""
        oldest = self._oldest[place]
        return oldest > 0 and await self.offset_at(place, since) <= oldest

    def window_from(self, place: TopicPartition, start: int, share: int = 1) -> Window:
        """Return the window from an offset on, as long as the limit divided by `share`, the number of such searches."""
        start = min(max(start, self._oldest[place]), self._ends[place])
        return Window(place, start, min(self._ends[place], start + max(1, self._limit // share)))

    def newest_window(self, place: TopicPartition) -> Window:
        """Return the window at a partition's end, as long as the limit."""
        end = self._ends[place]
        return Window(place, min(end, max(self._oldest[place], end - self._limit)), end)

    async def read(self, windows: Iterable[Window], what: str = "records") -> AsyncGenerator[ConsumerRecord, None]:
        """Yield the records of windows, each record once.

        Close the generator with `contextlib.aclosing` when leaving early.

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
        """Return the window of one record, empty if the record does not exist or was deleted."""
        if self.is_gone(place, offset) or self.ends_before(place, offset):
            return Window(place, offset, offset)
        return Window(place, offset, offset + 1)


@asynccontextmanager
async def open_search(settings: Settings, limit: int, watch: ProgressWatch) -> AsyncIterator[Search]:
    """Open a search of all topics.

    Args:
        settings: where Kafka is.
        limit: the maximum number of records read of a partition for one item.
        watch: shows the progress.

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
    """Return the union of windows without overlaps, in rounds with at most one window for each partition."""
    merged: dict[TopicPartition, list[Window]] = defaultdict(list)
    for window in sorted(window for window in windows if window.start < window.stop):
        of_place = merged[window.place]
        if of_place and window.start <= of_place[-1].stop:
            of_place[-1] = Window(window.place, of_place[-1].start, max(of_place[-1].stop, window.stop))
        else:
            of_place.append(window)
    return [[window for window in each if window is not None] for each in zip_longest(*merged.values())]
