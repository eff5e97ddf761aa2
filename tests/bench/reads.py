"""`reads`: 1,000 reads a second of the read API beside 1,000 sends a second, and what they cost the sends.

As a user runs it: the default number of partitions, all workers and the ticker up, billing events beside the sends. The
API and the load of reads are processes of their own. In each round the same sends come three times: without reads; with
the load of reads asking a stub that answers with the same bytes always, so that what the load's own client takes from
the machine is not taken for the API's; and with the load asking the API. The baselines are of the runs with the stub.
"""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from statistics import mean, median, quantiles
from time import perf_counter

from aiohttp import ClientError, ClientSession

from infra.local.stack import LocalStack
from infra.settings import Settings
from tests.bench.books import PARTITIONS, Databases, sends, stack_settings
from tests.bench.figures import Figure, of_rounds, order_of
from tests.bench.latency import A_SECOND, SECONDS, WARM_SECONDS, Measured, all_workers, measure_all, pass_over
from tests.bench.read_load import MIX, TOKEN, Waited
from tests.workers.processes import free_port
from workers.api.tokens import hash_token
from workers.local.processes import environment
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["run"]

ROUNDS = 3
READY_SECONDS = 30.0
LOG = Path(__file__).parents[2] / "build" / "bench-api.log"


class _Beside(StrEnum):
    """What runs beside the sends."""

    NOTHING = "nothing"
    CLIENT = "the client alone"
    READS = "reads"


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return the reads' percentiles, the sends' with and without them, and CPU a read."""
    settings = stack_settings(stack, "postgres")
    await apply_topics(settings, await plan_topics(settings))
    sent: dict[_Beside, list[Measured]] = {each: [] for each in _Beside}
    reads: dict[_Beside, list[list[Waited]]] = {each: [] for each in _Beside}
    for number in range(1, ROUNDS + 1):
        report(f"reads: round {number} of {ROUNDS}, {A_SECOND:,} sends a second for {SECONDS} s, three times")
        requests = sends(A_SECOND * SECONDS, seed=4_000 + number)
        for beside in order_of(number, list(_Beside)):
            async with databases.one() as books:
                await pass_over(books)
                waits: list[Waited] = []
                sent[beside].append(
                    await measure_all(stack, books, _programs(books, beside, waits), requests, idle_seconds=0)
                )
                reads[beside].append(waits[-A_SECOND * (SECONDS - WARM_SECONDS) :])  # beside the sends that count
    report(f"reads: made, by kind: {_shares(reads[_Beside.READS])}")
    return [*_of_sends(sent), *_of_reads(reads[_Beside.READS]), *_of_cpu(sent)]


def _of_sends(sent: dict[_Beside, list[Measured]]) -> list[Figure]:
    return [
        of_rounds(
            f"reads, the sends' p{at} beside {A_SECOND:,} reads a second (beside the client alone)",
            "ms",
            [_percentile(each.waits, at) for each in sent[_Beside.READS]],
            [_percentile(each.waits, at) for each in sent[_Beside.CLIENT]],
            {
                "sends": len(sent[_Beside.READS][0].waits),
                "partitions": PARTITIONS,
                "beside_nothing_rounds": [round(_percentile(each.waits, at), 1) for each in sent[_Beside.NOTHING]],
            },
        )
        for at in (50, 99)
    ]


def _of_reads(reads: list[list[Waited]]) -> list[Figure]:
    figures = []
    for at in (50, 99):
        rounds = [_percentile([read.milliseconds for read in each], at) for each in reads]
        details: dict[str, object] = {
            "reads": len(reads[0]),
            "mix": MIX,
            "made": _shares(reads),
            "rounds": [round(each, 1) for each in rounds],
        }
        figures.append(Figure(f"reads, p{at} of a read", round(median(rounds), 1), "ms", details=details))
    not_modified = [100 * mean(read.not_modified for read in each) for each in reads]
    return [*figures, Figure("reads, answered by 304", round(median(not_modified), 1), "% of reads")]


def _shares(reads: list[list[Waited]]) -> dict[str, float]:
    """Return the shares of the reads by kind, as they were made."""
    kinds = Counter(read.kind for each in reads for read in each)
    return {kind: round(count / kinds.total(), 3) for kind, count in kinds.most_common()}


def _of_cpu(sent: dict[_Beside, list[Measured]]) -> list[Figure]:
    """Return CPU a read. As many reads as sends were counted, so the time of a send's share is that of a read's."""
    details: dict[str, object] = {
        f"cpu_us_beside_{name}": [each.cpu for each in rounds] for name, rounds in sent.items()
    }
    api = [each.cpu["api"] for each in sent[_Beside.READS]]
    postgres = [
        beside.cpu["postgres"] - alone.cpu["postgres"]
        for beside, alone in zip(sent[_Beside.READS], sent[_Beside.CLIENT], strict=True)
    ]
    return [
        Figure("reads, CPU of the API", round(median(api), 1), "us/read", details=details),
        Figure("reads, CPU of Postgres", round(median(postgres), 1), "us/read"),
    ]


def _percentile(waits: Sequence[float], at: int) -> float:
    return quantiles(waits, n=100)[at - 1]


@asynccontextmanager
async def _programs(books: Settings, beside: _Beside, waits: list[Waited]) -> AsyncIterator[dict[str, int]]:
    """Run the workers and what is beside them; afterwards `waits` has each read."""
    async with all_workers(books) as workers:
        if beside is _Beside.NOTHING:
            yield workers
            return
        async with _server(books, beside) as (name, pid, port), _load(books, port, waits) as load:
            yield {**workers, name: pid, "load": load}


@asynccontextmanager
async def _server(books: Settings, beside: _Beside) -> AsyncIterator[tuple[str, int, int]]:
    """Run the API or the stub as a process of its own; give its name, its id, and its port once it answers."""
    port = free_port()
    variables = {"INMAIL_API_PORT": str(port), "INMAIL_API_TOKENS": f"bench:{hash_token(TOKEN)}"}
    api = ["-m", "workers.cli", "api", "--stop-with-parent"]
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, *(api if beside is _Beside.READS else ["-m", "tests.bench.read_stub", str(port)])],
            env=environment(books) | variables,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        try:
            await _ready(port)
            yield "api" if beside is _Beside.READS else "stub", process.pid, port
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


@asynccontextmanager
async def _load(books: Settings, port: int, waits: list[Waited]) -> AsyncIterator[int]:
    """Run the load of reads; afterwards `waits` has each read, in their order."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.read_load", str(port), str(A_SECOND)),
        env=environment(books),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process.pid
        out, _ = await process.communicate(b"")
        if process.returncode:
            raise RuntimeError(f"the load of reads ended with {process.returncode}")
        waits += [Waited(*each) for each in json.loads(out)]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
