"""Merges the lines of two ledgers by key, limited to the records that both have read."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import NamedTuple

import asyncpg
from aiokafka import TopicPartition

from infra.postgres import Connection
from infra.settings import Settings
from infra.shards import number_ranges
from workers.ops.books.lanes import next_offsets
from workers.ops.books.shards import read_holdings, server_name
from workers.ops.books.snapshot import open_books
from workers.ops.compare.queries import LineKind
from workers.ops.numbers import numbers_beside
from workers.ops.operations import RefusedError
from workers.topology import WORKER_OF

__all__ = ["CommonRange", "common_range", "joined_lines", "open_both"]

_QUERY_SECONDS = 3600.0  # the queries read whole tables
_PREFETCH = 1000
# Whole tables are read by hash joins and sorts, without lookups row by row. While one ledger sorts, the other waits.
_QUERIES = (
    "set local work_mem = '64MB'; set local enable_nestloop = off; set local idle_in_transaction_session_timeout = 0"
)
# Of each partition, the first tick of the topic as it is that came to no lot. What was before it, `inmail prune` has
# deleted: that keeps the newest tick of a partition, and leaves those whose records are still there.
_TICKS_FROM = """
select t.partition, min(t.source_offset) as source_offset
from ticks as t
left join lanes as n on n.consumer_group = 'inmail-expiry' and t.partition = n.partition
where t.as_of > coalesce(n.topic_since, '-infinity') and (t.ended).lot + (t.cut).lot + (t.announced).lot = 0
group by t.partition
"""
_HAS_ENDED = "select exists (select from ended_topics where next_offset > 0)"  # nobody can read their records again
LaneOffsets = dict[TopicPartition, int]


class CommonRange(NamedTuple):
    """The range of records that both ledgers have read: offsets by lane, and broker times."""

    workers: list[str]
    partitions: list[int]
    starts: list[int]
    ends: list[int]
    ticks_from: list[int]  # of lanes of ticks: the first that came to no lot and that the live ledger still has
    since: datetime | None
    until: datetime | None
    whole: bool  # both have read the same records, and all there ever were
    complete: bool  # the other ledger has the records from the beginning, of all topics that the live one has read


@asynccontextmanager
async def open_both(
    before: Settings, after: Settings, numbers: Sequence[int] = ()
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Open a snapshot of each ledger, with planner settings for reading whole tables.

    Args:
        before: where the live ledger is.
        after: where the other ledger is.
        numbers: the partition numbers of the other ledger, if the live one is one of several servers; none for all.

    Raises:
        RefusedError: when the live ledger has other numbers now.
        NotSetUpError: when one of the databases was never migrated.
        OSError, asyncpg.PostgresError: when one of the databases cannot be reached or refuses.

    """
    async with open_books(before) as live, open_books(after) as other:
        for connection in (live, other):
            await connection.execute(_QUERIES)
        if numbers:
            await _check_numbers(before, live, numbers)
        yield live, other


async def _check_numbers(settings: Settings, live: Connection, numbers: Sequence[int]) -> None:
    """Refuse a server that holds other numbers than those that were decided again, or has rows of others."""
    holdings = await read_holdings(live)
    moved = {*holdings.numbers} - {*numbers} | {number for number in numbers if not holdings.has_number(number)}
    moved |= {*await numbers_beside(live, numbers)}
    if moved:
        raise RefusedError(
            f"{server_name(settings)}: partition numbers {number_ranges(sorted(moved))} moved from or to this server"
            " meanwhile: finish the move, and run the command again with another --schema"
        )


async def common_range(
    live: Connection, other: Connection, since: datetime | None = None, until: datetime | None = None
) -> CommonRange:
    """Return the range that both ledgers have read, within the given broker times."""
    read_live, read_other = await _read_offsets(live), await _read_offsets(other)
    plan = await other.fetchval("select plan from operations order by operation limit 1")
    starts: LaneOffsets = (
        {TopicPartition(span["topic"], span["partition"]): span["start"] for span in plan["partitions"]} if plan else {}
    )
    places = sorted(read_live.keys() | read_other.keys())
    ends = [min(read_live.get(place, 0), read_other.get(place, 0)) for place in places]
    first = {row["partition"]: row["source_offset"] for row in await live.fetch(_TICKS_FROM, timeout=_QUERY_SECONDS)}
    complete = not any(starts.values()) and not await live.fetchval(_HAS_ENDED)
    whole = since is None and until is None and complete and read_live == read_other
    return CommonRange(
        [WORKER_OF[topic].value for topic, _ in places],
        [partition for _, partition in places],
        [starts.get(place, 0) for place in places],
        ends,
        [first.get(place.partition, end) for place, end in zip(places, ends, strict=True)],
        since,
        until,
        whole,
        complete,
    )


async def _read_offsets(connection: Connection) -> LaneOffsets:
    offsets = await next_offsets(connection)
    return {place: offset for place, offset in offsets.items() if offset > 0 and place.topic in WORKER_OF}


async def joined_lines(
    section: LineKind, live: Connection, other: Connection, limits: CommonRange
) -> AsyncGenerator[tuple[asyncpg.Record | None, asyncpg.Record | None], None]:
    """Yield pairs of lines in the order of their keys; None where one ledger lacks the line."""
    async with (
        aclosing(_read_lines(section, live, limits)) as left,
        aclosing(_read_lines(section, other, limits)) as right,
    ):
        before, after = await anext(left, None), await anext(right, None)
        while before is not None or after is not None:
            first, second = section.key(before), section.key(after)
            is_left = after is None or (before is not None and first <= second)
            is_right = before is None or (after is not None and second <= first)
            yield before if is_left else None, after if is_right else None
            if is_left:
                before = await anext(left, None)
            if is_right:
                after = await anext(right, None)


async def _read_lines(
    section: LineKind, connection: Connection, limits: CommonRange
) -> AsyncGenerator[asyncpg.Record, None]:
    arguments = [getattr(limits, name) for name in section.arguments]
    async for row in connection.cursor(section.sql, *arguments, prefetch=_PREFETCH, timeout=_QUERY_SECONDS):
        yield row
