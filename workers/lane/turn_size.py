"""The size of a turn: what it takes of which lanes, and what one Postgres transaction decides of it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from workers.lane.deciding import Decided, LaneBatch
from workers.lane.inbox import MOST_BYTES, Taken
from workers.lane.lane import Lane

__all__ = ["TRANSACTIONS", "decide_turn", "fill_turn"]

TRANSACTIONS = 2  # in Postgres, of a turn, side by side: a third takes memory, and no more sends a second were seen
_FEW_RECORDS = 250  # for which one is enough


def fill_turn(lanes: Iterable[Lane], most_of_lane: int, room: int) -> list[tuple[Lane, Taken]]:
    """Take what is there, first of the lanes that have waited longest, until a turn is full.

    Many records of few lanes are decided faster than few of many: an account is locked and written once for all of its
    own.

    Args:
        lanes: those that have records.
        most_of_lane: number of records to take of one lane.
        room: number of records to take of all.

    """
    received: list[tuple[Lane, Taken]] = []
    most_bytes = MOST_BYTES
    for lane in sorted(lanes, key=lambda lane: (lane.received_at, lane.partition)):
        if room > 0 and most_bytes > 0:
            before = lane.inbox.bytes
            received.append((lane, taken := lane.receive(min(most_of_lane, room), most_bytes)))
            room -= len(taken.records)
            most_bytes -= before - lane.inbox.bytes
    return received


async def decide_turn(
    batches: Sequence[LaneBatch], decide: Callable[[Sequence[LaneBatch]], Awaitable[list[Decided]]]
) -> list[Decided]:
    """Decide a turn in as few transactions as pay, side by side. Raises what the first of them that failed did."""
    # All are waited for: one that went on after another has failed would store beside the next beginning.
    parts = await asyncio.gather(*map(decide, _split_turn(batches)), return_exceptions=True)
    if errors := [each for each in parts if isinstance(each, BaseException)]:
        raise errors[0]
    return [decided for part in parts if not isinstance(part, BaseException) for decided in part]


def _split_turn(batches: Sequence[LaneBatch]) -> Iterator[list[LaneBatch]]:
    """Split a turn into what one transaction decides: few, of about one size, and each with one group overtaken.

    Records of one account that several lanes have, as of a producer that partitions otherwise, stay together.
    """
    by_group: dict[str | None, list[LaneBatch]] = {}
    for batch in batches:
        by_group.setdefault(batch.decidable.waited_for, []).append(batch)
    for together in by_group.values():
        is_small = sum(len(batch.taken.records) for batch in together) <= _FEW_RECORDS
        is_misplaced = any(batch.decidable.is_misplaced for batch in together)
        count = 1 if is_small or is_misplaced else min(TRANSACTIONS, len(together))
        together.sort(key=lambda batch: len(batch.taken.records))
        yield from (together[number::count] for number in range(count))
