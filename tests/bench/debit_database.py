"""`debit_database`: the set-based debit, one transaction per debit, and pgbench's TPC-B, in turn on one server."""

import asyncio
import re
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from time import perf_counter

from infra.kafka.clients import partition_of
from infra.local.stack import LocalStack
from infra.postgres import Connection, create_pool
from infra.settings import Settings
from schemas.envelope import AccountEvent
from tests.bench.books import PARTITIONS, Databases, every_rule_on, requests_of, sends
from tests.bench.figures import Figure, of_rounds
from tests.bench.naive import debit_one
from workers.ledger.model import Request, WorkerName
from workers.ledger.movements import decide
from workers.ledger.store import answer_all, open_batch

__all__ = ["Requests", "decide_batch", "lanes", "run"]

ROUNDS = 3
DEBITS = 60_000
BATCH = 1_000  # as a lane takes them
CONNECTIONS = 2  # as many as there are cores
SINGLE_DEBITS = 3_000
MANY_CONNECTIONS = 16  # what suits the other forms better: they wait for the disk
PGBENCH_SECONDS = 4

_CATALOGUE = every_rule_on()

Requests = list[Request[AccountEvent]]
Decide = Callable[[Connection, Requests], Awaitable[None]]


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return the figure against each of its two baselines."""
    prepare_pgbench(stack)
    ours: list[float] = []
    single: dict[int, list[float]] = {CONNECTIONS: [], MANY_CONNECTIONS: []}
    tpcb: dict[int, list[float]] = {CONNECTIONS: [], MANY_CONNECTIONS: []}
    for number in range(1, ROUNDS + 1):
        report(f"debit_database: round {number} of {ROUNDS}")
        for connections in (CONNECTIONS, MANY_CONNECTIONS):
            tpcb[connections].append(run_pgbench(stack, connections))
            async with databases.one() as settings:
                single[connections].append(await _rate(settings, SINGLE_DEBITS, 1, connections, _decide_one))
        async with databases.one() as settings:
            ours.append(await _rate(settings, DEBITS, BATCH, CONNECTIONS, decide_batch))
    details = {"batch": BATCH, "connections": CONNECTIONS}
    return [
        of_rounds(f"debit_database ({form} on {connections} connections)", "debits/s", ours, baseline, details)
        for form, of in (("one transaction per debit", single), ("pgbench TPC-B", tpcb))
        for connections, baseline in of.items()
    ]


async def _rate(settings: Settings, count: int, size: int, connections: int, decide: Decide) -> float:
    """Return the debits a second of so many connections, each of which takes batches of its own partitions."""
    batches = lanes(sends(count, seed=count), size, datetime.now(UTC))
    async with create_pool(settings.model_copy(update={"database_connections": connections})) as pool:
        # Warm: connections are open and functions compiled before the clock starts.
        await asyncio.gather(*(pool.execute("select pg_sleep(0.05)") for _ in range(connections)))
        queue: asyncio.Queue[Requests] = asyncio.Queue()
        for batch in batches:
            queue.put_nowait(batch)

        async def work() -> None:
            async with pool.acquire() as connection:
                while not queue.empty():
                    await decide(connection, queue.get_nowait())

        began = perf_counter()
        await asyncio.gather(*(work() for _ in range(connections)))
        seconds = perf_counter() - began
        assert count == await pool.fetchval("select count(*) from journal where worker = 'send'")
    return count / seconds


def lanes(events: Sequence[AccountEvent], size: int, as_of: datetime) -> list[Requests]:
    """Return batches of one partition each, as the lanes would take them, turn by turn."""
    by_partition: list[list[AccountEvent]] = [[] for _ in range(PARTITIONS)]
    for event in events:
        by_partition[partition_of(event.subject.encode(), PARTITIONS)].append(event)
    turns = [
        (at, partition, requests_of(mine[at : at + size], as_of, partition, at))
        for partition, mine in enumerate(by_partition)
        for at in range(0, len(mine), size)
    ]
    return [requests for _, _, requests in sorted(turns, key=lambda turn: turn[:2])]


async def decide_batch(connection: Connection, requests: Requests) -> None:
    """Decide a batch as the send lane does, with every rule switched on, up to the rows that become events."""
    async with connection.transaction():
        opened = await open_batch(connection, WorkerName.SEND, requests)
        answer_all(opened, requests, await decide(connection, opened, _CATALOGUE))


async def _decide_one(connection: Connection, requests: Requests) -> None:
    for request in requests:
        await debit_one(connection, request)


def prepare_pgbench(stack: LocalStack) -> None:
    """Make pgbench's own tables, one branch for each client, so that they do not wait for one another's."""
    _pgbench(stack, "--initialize", "--scale", str(MANY_CONNECTIONS), "--quiet")


def run_pgbench(stack: LocalStack, connections: int) -> float:
    """Return the transactions a second of pgbench's standard script."""
    out = _pgbench(
        stack, "--client", str(connections), "--jobs", "2", "--time", str(PGBENCH_SECONDS), "--protocol=prepared"
    )
    found = re.search(r"^tps = ([\d.]+)", out, re.MULTILINE)
    assert found is not None, out
    return float(found[1])


def _pgbench(stack: LocalStack, *arguments: str) -> str:
    command = [str(stack.bin_dir / "pgbench"), *arguments, stack.database_url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
