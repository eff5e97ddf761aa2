"""`reads`: 1,000 reads a second of the read API beside 1,000 sends a second, and what they cost the sends.

The API, the load of reads and the worker are processes of their own. The sends' baseline is the same load without
reads, in the same round.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

from aiohttp import ClientError, ClientSession

from infra.local.stack import LocalStack
from infra.settings import Settings
from tests.bench.books import Databases, sends, stack_settings
from tests.bench.draining import OURS, input_ends, set_offsets
from tests.bench.figures import Figure, of_rounds
from tests.bench.latency import A_SECOND, SECONDS, WARM_SECONDS, measure
from tests.bench.read_load import TOKEN
from tests.workers.processes import free_port
from workers.api.tokens import hash_token
from workers.local.processes import environment
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["run"]

ROUNDS = 3
READY_SECONDS = 30.0
LOG = Path(__file__).parents[2] / "build" / "bench-api.log"


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return the reads' percentiles, and the sends' with and without them."""
    settings = stack_settings(stack, "postgres")
    await apply_topics(settings, await plan_topics(settings))
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    reads: list[list[float]] = []
    for number in range(1, ROUNDS + 1):
        report(
            f"reads: round {number} of {ROUNDS}, {A_SECOND:,} sends a second for {SECONDS} s, without reads and with"
        )
        requests = sends(A_SECOND * SECONDS, seed=4_000 + number)
        for with_reads in (False, True):
            async with databases.one() as books:
                await set_offsets(books, OURS.group, await input_ends(books))
                if not with_reads:
                    alone.append((await measure(books, OURS, requests))[A_SECOND * WARM_SECONDS :])
                    continue
                async with _api(books) as port:
                    reading = asyncio.create_task(_read(port))
                    beside.append((await measure(books, OURS, requests))[A_SECOND * WARM_SECONDS :])
                    reads.append((await reading)[A_SECOND * WARM_SECONDS :])
    figures = [
        of_rounds(
            f"reads, the sends' p{at} beside {A_SECOND:,} reads a second (without)",
            "ms",
            [_percentile(each, at) for each in beside],
            [_percentile(each, at) for each in alone],
            {"sends": len(beside[0])},
        )
        for at in (50, 99)
    ]
    for at in (50, 99):
        rounds = [_percentile(each, at) for each in reads]
        details: dict[str, object] = {"reads": len(reads[0]), "rounds": [round(each, 1) for each in rounds]}
        figures.append(Figure(f"reads, p{at} of a read", round(median(rounds), 1), "ms", details=details))
    return figures


def _percentile(waits: Sequence[float], at: int) -> float:
    return quantiles(waits, n=100)[at - 1]


@asynccontextmanager
async def _api(books: Settings) -> AsyncIterator[int]:
    """Run the API as a process of its own; give its port once it answers."""
    port = free_port()
    variables = {"INMAIL_API_PORT": str(port), "INMAIL_API_TOKENS": f"bench:{hash_token(TOKEN)}"}
    with LOG.open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, "-m", "workers.cli", "api", "--stop-with-parent"],
            env=environment(books) | variables,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        try:
            await _ready(port)
            yield port
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)
            assert process.stdin is not None
            process.stdin.close()


async def _ready(port: int) -> None:
    until = perf_counter() + READY_SECONDS
    async with ClientSession(f"http://127.0.0.1:{port}") as client:
        while perf_counter() < until:
            try:
                async with client.get("/v1/health") as answer:
                    if answer.status == 200:
                        return
            except ClientError:
                pass  # not listening yet
            await asyncio.sleep(0.1)
    raise TimeoutError(f"the API is not ready after {READY_SECONDS:g} s: see {LOG}")


async def _read(port: int) -> list[float]:
    """Run the load of reads; return how long each read took, in milliseconds and about in their order."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.read_load", str(port), str(A_SECOND), str(SECONDS)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load of reads ended with {process.returncode}")
    waits: list[float] = json.loads(out)
    return waits
