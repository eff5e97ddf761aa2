"""What the ledger costs at a size: each figure is CPU of the one backend that did it, steadier than wall time."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from uuid import UUID, uuid4

import psutil

from infra.clock import utc_now
from infra.kafka.clients import partition_of
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from schemas.catalogue import fingerprint
from schemas.envelope import AccountEvent
from tests.growth.history import QUARTERS, Story, account_id, send, tick_of
from workers.ledger.model import Request, WorkerName
from workers.ledger.movements import decide
from workers.ledger.plans import load_catalogue
from workers.ledger.store import answer_all, open_batch
from workers.ledger.ticks import expire_step, tick_terms
from workers.ops.books.statement import statement_of

__all__ = ["Cost", "Plans", "expire", "plans_of_sends", "read_statements", "send_round", "write_beside"]

BATCH = 1_000
_CATALOGUE = load_catalogue()
_BLOCKS = (
    "select coalesce(sum(heap_blks_read + idx_blks_read), 0), coalesce(sum(heap_blks_hit + idx_blks_hit), 0)"
    " from pg_statio_user_tables"
)
# How a statement came to its rows: by which index how often, and which table it read whole.
_SCANS = """
select indexrelname as what, idx_scan as n from pg_stat_user_indexes
union all
select relname || ' read whole', seq_scan from pg_stat_user_tables where relname in ('journal', 'lots', 'accounts')
"""
Plans = dict[str, float]


@dataclass(slots=True)
class Cost:
    """What some work cost, in all."""

    count: int = 0
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    blocks_read: int = 0  # that were not in the server's own buffers
    blocks_hit: int = 0

    def each(self) -> dict[str, float]:
        """Return the cost of one, in microseconds and blocks."""
        return {
            "cpu_us": round(self.cpu_seconds * 1e6 / self.count, 1),
            "wall_us": round(self.seconds * 1e6 / self.count, 1),
            "blocks_read": round(self.blocks_read / self.count, 3),
            "blocks_hit": round(self.blocks_hit / self.count, 2),
        }


@asynccontextmanager
async def _measured(connection: Connection, count: int) -> AsyncIterator[Cost]:
    backend = psutil.Process(await connection.fetchval("select pg_backend_pid()"))
    before = await _blocks(connection)
    began, times = perf_counter(), backend.cpu_times()
    cost = Cost(count)
    yield cost
    after = backend.cpu_times()
    cost.seconds = perf_counter() - began
    cost.cpu_seconds = after.user + after.system - times.user - times.system
    read, hit = await _blocks(connection)
    cost.blocks_read, cost.blocks_hit = read - before[0], hit - before[1]


async def _blocks(connection: Connection) -> tuple[int, int]:
    await connection.execute("select pg_stat_force_next_flush()")
    row = await connection.fetchrow(_BLOCKS)
    assert row is not None
    return int(row[0]), int(row[1])


def _batches(story: Story, count: int, seed: int) -> list[list[Request[AccountEvent]]]:
    """Return sends of random accounts as lanes take them, of now; their ids grow with time, as UUIDv7 do."""
    dice = random.Random(seed)  # noqa: S311 - a workload
    now = utc_now()
    lanes: list[list[Request[AccountEvent]]] = [[] for _ in range(story.partitions)]
    for _ in range(count):
        account = account_id(dice.randint(1, story.accounts))
        partition = partition_of(account.encode(), story.partitions)
        event = send(
            f"recipient-{dice.randrange(1000):04}",
            free=dice.random() < 0.1,
            id=UUID(int=int(now.timestamp() * 1000) << 80 | dice.getrandbits(76) & ~(0xF << 60) | 7 << 76 | 8 << 60),
            subject=account,
            time=now,
        )
        offset = (seed << 32) + len(lanes[partition])
        lanes[partition].append(Request(event, account, event.id, fingerprint(event), now, partition, offset))
    return [lane[at : at + BATCH] for lane in lanes for at in range(0, len(lane), BATCH)]


async def _decide(connection: Connection, requests: list[Request[AccountEvent]]) -> None:
    async with connection.transaction():
        opened = await open_batch(connection, WorkerName.SEND, requests)
        answer_all(opened, requests, await decide(connection, opened, _CATALOGUE))
        # As the lane does, so that the audit finds that it has read them.
        await connection.execute(
            "update lanes set next_offset = $2, as_of = $3 where consumer_group = 'inmail-send' and partition = $1",
            requests[0].partition,
            requests[-1].offset + 1,
            requests[-1].as_of,
        )


async def send_round(settings: Settings, story: Story, count: int, seed: int) -> Cost:
    """Decide sends of random accounts on one connection, batch after batch."""
    connection = await connect_database(settings)
    first, *rest = _batches(story, count + BATCH * story.partitions, seed)
    await _decide(connection, first)  # plans are made
    done = 0
    async with _measured(connection, count) as cost:
        for batch in rest:
            await _decide(connection, batch)
            done += len(batch)
    cost.count = done
    await connection.close()
    return cost


async def plans_of_sends(settings: Settings, story: Story, seed: int) -> Plans:
    """Return how often a batch's statements went to each index, and read a table whole: the plans that they had."""
    connection = await connect_database(settings)
    batches = [batch for batch in _batches(story, BATCH * story.partitions * 2, seed) if len(batch) == BATCH]
    await _decide(connection, batches[0])
    before = await _scans(connection)
    await _decide(connection, batches[1])
    after = await _scans(connection)
    await connection.close()
    return {what: n - before[what] for what, n in after.items() if n != before[what]}


async def _scans(connection: Connection) -> Plans:
    await connection.execute("select pg_stat_force_next_flush()")
    return {row["what"]: row["n"] or 0 for row in await connection.fetch(_SCANS)}


async def expire(settings: Settings, story: Story, steps: int, step_lots: int) -> Cost:
    """Book steps of a tick after the live lots' end, in a transaction that is rolled back. The count is of lots."""
    connection = await connect_database(settings)
    transaction = connection.transaction()
    await transaction.start()
    at = story.quarter(QUARTERS) + timedelta(days=91)
    tick = tick_of(at)
    request = Request(tick, "", uuid4(), fingerprint(tick), at, 0, 1 << 40)
    terms = tick_terms(_CATALOGUE, step_lots, steps + 1)
    await expire_step(connection, request, at, terms)
    booked = 0
    async with _measured(connection, 1) as cost:
        for _ in range(steps):
            booked = (await expire_step(connection, request, at, terms)).lots
    cost.count = booked - step_lots
    await transaction.rollback()
    await connection.close()
    return cost


async def read_statements(settings: Settings, story: Story, count: int, seed: int) -> Cost:
    """Read whole statements of random accounts."""
    connection = await connect_database(settings)
    dice = random.Random(seed)  # noqa: S311 - a workload
    await statement_of(connection, account_id(1))
    async with _measured(connection, count) as cost:
        for _ in range(count):
            await statement_of(connection, account_id(dice.randint(1, story.accounts)))
    await connection.close()
    return cost


async def write_beside(settings: Settings, story: Story, statement: str, seed: int) -> tuple[float, float, float]:
    """Run a statement while small batches go on; return its seconds, and the median and the longest batch in ms."""
    changing, connection = await connect_database(settings), await connect_database(settings)
    batches = [batch[:20] for batch in _batches(story, BATCH * 200, seed)]
    began = perf_counter()
    task = asyncio.ensure_future(changing.execute(statement, timeout=3600))
    waits: list[float] = []
    while not task.done() and len(waits) < 5000:
        at = perf_counter()
        await _decide(connection, _again(batches[len(waits) % len(batches)], seed, len(waits)))
        waits.append((perf_counter() - at) * 1000)
    await task
    seconds = perf_counter() - began
    await changing.close()
    await connection.close()
    waits.sort()
    return seconds, waits[len(waits) // 2], waits[-1]


def _again(batch: list[Request[AccountEvent]], seed: int, number: int) -> list[Request[AccountEvent]]:
    """Return a batch under ids, and at places, of its own."""
    first = (seed << 32) + (number + 1) * 100_000
    now: datetime = utc_now()
    return [each._replace(request_id=uuid4(), as_of=now, offset=first + offset) for offset, each in enumerate(batch)]
