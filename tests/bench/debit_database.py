"""`debit_database`: the set-based debit, one transaction per debit, and pgbench's TPC-B, in turn on one server."""

import asyncio
import re
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from time import perf_counter

from infra.kafka import partition_of
from infra.local.stack import LocalStack
from infra.postgres import Connection, create_pool
from infra.settings import Settings
from schemas.envelope import AccountEvent
from tests.bench.books import PARTITIONS, Databases, requests_of, sends
from tests.bench.figures import Figure, of_rounds
from tests.bench.naive import debit_one
from workers.ledger.model import Request
from workers.ledger.movements import debit
from workers.ledger.plans import load_catalogue
from workers.ledger.store import answer_all, open_batch

__all__ = ["run"]

ROUNDS = 3
DEBITS = 60_000
BATCH = 500  # as a lane takes them
CONNECTIONS = 2  # as many as there are cores
SINGLE_DEBITS = 6_000
SINGLE_CONNECTIONS = 16  # what suits that form
PGBENCH_SECONDS = 5

_FREE = load_catalogue().free_relationships

Requests = list[Request[AccountEvent]]
Decide = Callable[[Connection, int, Requests], Awaitable[None]]


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return the figure against each of its two baselines."""
    prepare_pgbench(stack)
    ours, single, tpcb = [], [], []
    for number in range(1, ROUNDS + 1):
        report(f"debit_database: round {number} of {ROUNDS}")
        tpcb.append(run_pgbench(stack))
        async with databases.one() as settings:
            single.append(await _rate(settings, SINGLE_DEBITS, 1, SINGLE_CONNECTIONS, _decide_one))
        async with databases.one() as settings:
            ours.append(await _rate(settings, DEBITS, BATCH, CONNECTIONS, _decide_batch))
    details = {"batch": BATCH, "connections": CONNECTIONS}
    return [
        of_rounds("debit_database (one transaction per debit)", "debits/s", ours, single, details),
        of_rounds("debit_database (pgbench TPC-B)", "debits/s", ours, tpcb, details),
    ]


async def _rate(settings: Settings, count: int, size: int, connections: int, decide: Decide) -> float:
    """Return the debits a second of so many connections, each of which takes batches of its own partitions."""
    lanes = _lanes(sends(count, seed=count), size)
    async with create_pool(settings.model_copy(update={"database_connections": connections})) as pool:
        # Warm: connections are open and functions compiled before the clock starts.
        await asyncio.gather(*(pool.execute("select pg_sleep(0.05)") for _ in range(connections)))
        queue: asyncio.Queue[tuple[int, Requests]] = asyncio.Queue()
        for lane in lanes:
            queue.put_nowait(lane)

        async def work() -> None:
            async with pool.acquire() as connection:
                while not queue.empty():
                    await decide(connection, *queue.get_nowait())

        began = perf_counter()
        await asyncio.gather(*(work() for _ in range(connections)))
        seconds = perf_counter() - began
        assert count == await pool.fetchval("select count(*) from journal where worker = 'send'")
    return count / seconds


def _lanes(events: Sequence[AccountEvent], size: int) -> list[tuple[int, Requests]]:
    """Return batches as the lanes would take them, turn by turn."""
    by_partition: list[list[AccountEvent]] = [[] for _ in range(PARTITIONS)]
    for event in events:
        by_partition[partition_of(event.subject.encode(), PARTITIONS)].append(event)
    as_of = datetime.now(UTC)
    turns = [
        (at, partition, requests_of(mine[at : at + size], as_of, at))
        for partition, mine in enumerate(by_partition)
        for at in range(0, len(mine), size)
    ]
    return [(partition, requests) for _, partition, requests in sorted(turns, key=lambda turn: turn[:2])]


async def _decide_batch(connection: Connection, partition: int, requests: Requests) -> None:
    async with connection.transaction():
        opened = await open_batch(connection, partition, requests)
        answer_all(opened, requests, await debit(connection, opened, partition, _FREE))


async def _decide_one(connection: Connection, partition: int, requests: Requests) -> None:
    for request in requests:
        await debit_one(connection, request, partition)


def prepare_pgbench(stack: LocalStack) -> None:
    """Make pgbench's own tables, one branch for each client, so that they do not wait for one another's."""
    _pgbench(stack, "--initialize", "--scale", str(SINGLE_CONNECTIONS), "--quiet")


def run_pgbench(stack: LocalStack) -> float:
    """Return the transactions a second of pgbench's standard script."""
    out = _pgbench(
        stack, "--client", str(SINGLE_CONNECTIONS), "--jobs", "2", "--time", str(PGBENCH_SECONDS), "--protocol=prepared"
    )
    found = re.search(r"^tps = ([\d.]+)", out, re.MULTILINE)
    assert found is not None, out
    return float(found[1])


def _pgbench(stack: LocalStack, *arguments: str) -> str:
    command = [str(stack.bin_dir / "pgbench"), *arguments, stack.database_url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
