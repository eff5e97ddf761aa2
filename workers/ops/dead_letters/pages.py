"""A page of dead letters, newest first: it costs what it shows, however many there are.

Each partition is read backwards from its end, in bounded windows of offsets, and the partitions are merged by time. A
letter is listed once every other partition was read back to its time. Where matches are rare, a budget ends the search:
the page says back to when it has searched, and the next one goes on there. So the place where a page ends is an offset
in each partition, and letters that come in meanwhile move no page.

Inside a partition the offset is the order. `before` and `after` are found by Kafka's index of times: were the broker's
clock ever set back, letters of the time that it lived twice are missing where `before` lies in it.
"""

import asyncio
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import LeaderNotAvailableError

from infra.clock import to_milliseconds, utc_now
from infra.kafka.backwards import FEWEST_OFFSETS, BackwardReader, ReadBudget
from infra.kafka.cluster_queries import EARLIEST, LATEST, ClusterQueries, open_cluster_queries
from infra.kafka.records import all_partitions
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS
from workers.ops.dead_letters.chosen_letters import Place, chosen_offsets
from workers.ops.dead_letters.letters import ALL, DeadLetter, LetterFilter, parse_dead_letter

__all__ = ["LetterCursor", "LetterPage", "count_newest", "kafka_time", "list_dead_letters"]

LetterCursor = Mapping[int, int]
"""Where a page ends: by partition, the offset before which the next page reads. Other partitions are at their end."""

_FIRST_WINDOW: Final = 3000  # offsets of all partitions; of a short page two for each letter: one is a marker's


@dataclass(frozen=True, slots=True)
class LetterPage:
    """The next matching dead letters, newest first."""

    letters: list[DeadLetter]
    next: LetterCursor | None  # None: there are no older ones
    searched_to: datetime | None  # nothing newer matches but what was listed; None: all was searched


@dataclass(slots=True)
class _Stream:
    """A partition's matching letters, newest first."""

    reader: BackwardReader
    places: list[int] | None  # the only offsets that can match, in order; None: any
    found: deque[DeadLetter] = field(default_factory=deque)

    @property
    def is_done(self) -> bool:
        """Whether no letter is left, found or not."""
        return not self.found and self.reader.is_done

    @property
    def next_below(self) -> int:
        """The offset before which the next page reads."""
        return self.found[0].offset + 1 if self.found else self.reader.below

    @property
    def newest(self) -> datetime | None:
        """Time that nothing left here is newer than; None if not known yet."""
        return self.found[0].set_aside_at if self.found else self.reader.reached

    def is_before(self, at: datetime) -> bool:
        """Tell whether nothing that is to be read yet is newer."""
        return bool(self.found) or self.is_done or (self.newest is not None and self.newest <= at)

    def skip(self) -> None:
        """Pass what cannot match."""
        if self.places is not None:
            number = bisect_left(self.places, self.reader.below)
            self.reader.below = self.places[number - 1] + 1 if number else self.reader.oldest

    async def read(self, is_selected: Callable[[DeadLetter], bool], budget: ReadBudget | None) -> None:
        """Read the next window."""
        letters = map(parse_dead_letter, await self.reader.read_window(budget))
        self.found.extend(letter for letter in letters if is_selected(letter))
        self.skip()


async def list_dead_letters(  # noqa: PLR0913 - independent options
    settings: Settings,
    selection: LetterFilter = ALL,
    last: int | None = None,
    *,
    is_selected: Callable[[DeadLetter], bool] | None = None,
    places: Collection[Place] | None = None,
    after: LetterCursor | None = None,
    budget: ReadBudget | None = None,
) -> LetterPage:
    """Return the newest matching dead letters, or the next older ones.

    Args:
        settings: where Kafka is.
        selection: the filter.
        last: the maximum number; None: all.
        is_selected: a predicate to use in place of the filter's own.
        places: read only these; None: all.
        after: where the page before ends; None: the first page.
        budget: how much may be read, beyond the last window; None: until the page is full.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    page: list[DeadLetter] = []
    began = utc_now() if selection.before is None else min(utc_now(), selection.before)
    window = _FIRST_WINDOW if last is None else min(_FIRST_WINDOW, 2 * last)
    async with _open_streams(
        settings, selection, chosen_offsets(selection, places), after, window, budget=budget
    ) as streams:
        async with aclosing(_newest_first(streams, is_selected or selection.matches, budget)) as letters:
            while last is None or len(page) < last:
                letter = await anext(letters, None)
                if letter is None:
                    break
                page.append(letter)
        ends = {stream.reader.place.partition: stream.next_below for stream in streams if not stream.is_done}
        return LetterPage(page, ends or None, _searched_to(streams, began))


async def count_newest(settings: Settings, budget: ReadBudget) -> tuple[Counter[tuple[str, str]], datetime | None]:
    """Return the number of the newest dead letters by topic and reason, and back to when; None: all were counted.

    No letter is kept once it is counted.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    counts: Counter[tuple[str, str]] = Counter()
    began = utc_now()
    async with _open_streams(settings, ALL, None, None, _FIRST_WINDOW, budget=budget) as streams:
        async with aclosing(_newest_first(streams, ALL.matches, budget)) as letters:
            async for letter in letters:
                counts[letter.origin_topic, letter.reason] += 1
        return counts, _searched_to(streams, began)


def _searched_to(streams: Iterable[_Stream], began: datetime) -> datetime | None:
    """Return the time that nothing left is newer than; None: nothing is left.

    Of a partition in which only markers and aborted records were met, nothing is known: it may go back to no time.
    """
    return max((stream.newest or began for stream in streams if not stream.is_done), default=None)


async def _newest_first(
    streams: Sequence[_Stream], is_selected: Callable[[DeadLetter], bool], budget: ReadBudget | None
) -> AsyncGenerator[DeadLetter, None]:
    """Yield the matching letters of all partitions, until all are read or the budget is spent.

    A spent budget ends the search as soon as the next one would begin elsewhere. Otherwise it would end there again.
    """
    starts = [stream.next_below for stream in streams]

    def is_over() -> bool:
        if budget is None or not budget.is_spent:
            return False
        return any(stream.next_below < start for stream, start in zip(streams, starts, strict=True))

    while True:
        newest, unread = _next_letter(streams)
        if newest is not None and not unread:
            yield newest.found.popleft()
            continue
        if not unread or is_over():
            return
        # Those of which nothing is known yet, or the one that holds the others up.
        unknown = [stream for stream in unread if stream.newest is None]
        chosen = unknown or [max(unread, key=attrgetter("newest"))]
        if budget is None:
            await asyncio.gather(*(stream.read(is_selected, None) for stream in chosen))
            continue
        for stream in chosen:  # one after the other: how large their letters are is not known before
            if is_over():
                return
            await stream.read(is_selected, budget)


def _next_letter(streams: Sequence[_Stream]) -> tuple[_Stream | None, list[_Stream]]:
    """Return the stream with the newest letter found, and the streams that may have a newer one: not read so far."""
    newest = max((stream for stream in streams if stream.found), key=lambda each: _order(each.found[0]), default=None)
    if newest is None:
        return None, [stream for stream in streams if not stream.is_done]
    at = newest.found[0].set_aside_at
    return newest, [stream for stream in streams if not stream.is_before(at)]


def kafka_time(at: datetime) -> int:
    """Return the time by which Kafka's index of times is asked."""
    return max(0, to_milliseconds(at))  # negative ones mean the ends of a partition


def _order(letter: DeadLetter) -> tuple[datetime, int, int]:
    return letter.set_aside_at, letter.partition, letter.offset


@asynccontextmanager
async def _open_streams(  # noqa: PLR0913 - independent options
    settings: Settings,
    selection: LetterFilter,
    chosen: Mapping[int, list[int]] | None,
    after: LetterCursor | None,
    window: int,
    *,
    budget: ReadBudget | None,
) -> AsyncIterator[list[_Stream]]:
    """Open the partitions that can have a matching letter, each at the end of what is to be read.

    Their first windows have so many offsets together, about; within a budget, few each, and at most half of it.
    """
    asked = [
        place
        for place in await all_partitions(settings, [DEAD_LETTERS])
        if selection.partition in (None, place.partition)
        and (chosen is None or place.partition in chosen)
        and (after is None or place.partition in after)
    ]
    async with open_cluster_queries(settings) as lookup:
        spans = await _spans(lookup, asked, selection)
        size = max(FEWEST_OFFSETS, window // max(len(asked), 1))
        if budget is not None:
            size = max(1, min(FEWEST_OFFSETS, budget.offsets // 2 // max(len(asked), 1)))
        streams = []
        for place, (oldest, end) in spans.items():
            below = end if after is None else min(end, after[place.partition])
            reader = BackwardReader(lookup, place, below, oldest, size)
            stream = _Stream(reader, None if chosen is None else chosen[place.partition])
            stream.skip()
            streams.append(stream)
        yield streams


async def _spans(
    lookup: ClusterQueries, places: list[TopicPartition], selection: LetterFilter
) -> dict[TopicPartition, tuple[int, int]]:
    """Return the first offset that can match and the one after the last, of each partition."""
    oldest = await lookup.offsets(dict.fromkeys(places, EARLIEST))
    ends = await lookup.offsets(dict.fromkeys(places, LATEST), committed=True)
    if missing := [place for place in places if place not in oldest or place not in ends]:
        raise LeaderNotAvailableError(f"{missing[0].topic} {missing[0].partition} cannot be read now")
    if selection.after is not None:
        since = await lookup.offsets(dict.fromkeys(places, kafka_time(selection.after)))
        oldest |= {place: offset if offset >= 0 else ends[place] for place, offset in since.items()}
    if selection.before is not None:
        until = await lookup.offsets(dict.fromkeys(places, kafka_time(selection.before) + 1))
        ends |= {place: min(ends[place], offset) for place, offset in until.items() if offset >= 0}
    return {place: (oldest[place], ends[place]) for place in places}
