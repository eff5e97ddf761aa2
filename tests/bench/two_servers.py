"""`two_servers`: debits of two Postgres servers beside those of one, each server with the debiting process of its own.

Beside one server with one such process, and with two: on a machine whose cores the first already fills, a second server
adds nothing, and what is left to see is what a debit costs on each.
"""

import asyncio
import multiprocessing
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from time import monotonic
from typing import NamedTuple

from infra.local.stack import LocalStack
from infra.postgres import create_pool
from infra.settings import Settings
from tests.bench.books import Databases, sends
from tests.bench.cpu import CpuMeter
from tests.bench.debit_database import decide_batch, lanes
from tests.bench.figures import Figure, of_rounds, order_of

__all__ = ["run"]

ROUNDS = 3
DEBITS = 60_000
BATCH = 1_000

_SPAWN = multiprocessing.get_context("spawn")


class _Form(NamedTuple):
    servers: int
    processes: int  # on each


class _Round(NamedTuple):
    rate: float  # debits a second
    cpu: float  # microseconds of the servers a debit


_FORMS = {"two": _Form(2, 1), "one": _Form(1, 1), "one, two processes": _Form(1, 2)}


async def run(_: LocalStack, __: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return the rates and the servers' CPU time a debit. It has a stack of its own, with two servers."""
    rounds: dict[str, list[_Round]] = {name: [] for name in _FORMS}
    with LocalStack(databases=2, report=report) as stack:
        books = [Databases(stack, server) for server in (1, 2)]
        for each in books:
            await each.prepare()
        for number in range(1, ROUNDS + 1):
            report(f"two_servers: round {number} of {ROUNDS}")
            for name, form in order_of(number, list(_FORMS.items())):
                rounds[name].append(await _round(stack, books[: form.servers], form))
    two, one, both = (rounds[name] for name in ("two", "one", "one, two processes"))
    details = {"debits": DEBITS, "batch": BATCH}
    return [
        _figure("debits (two servers beside one, a process each)", "debits/s", [a.rate for a in two], one, details),
        _figure("debits (two servers beside one with two processes)", "debits/s", [a.rate for a in two], both, details),
        of_rounds(
            "CPU of the servers a debit (two beside one)", "us", [a.cpu for a in two], [a.cpu for a in one], details
        ),
    ]


def _figure(name: str, unit: str, ours: list[float], baseline: list[_Round], details: dict[str, object]) -> Figure:
    return of_rounds(name, unit, ours, [each.rate for each in baseline], details)


async def _round(stack: LocalStack, books: list[Databases], form: _Form) -> _Round:
    async with AsyncExitStack() as opened:
        settings = [await opened.enter_async_context(each.one()) for each in books]
        shares = [server for server in settings for _ in range(form.processes)]
        ready, done = _SPAWN.Barrier(len(shares) + 1), _SPAWN.Queue()
        processes = [
            _SPAWN.Process(target=_debit, args=(server, number, len(shares), ready, done), daemon=True)
            for number, server in enumerate(shares)
        ]
        for process in processes:
            process.start()
        await asyncio.to_thread(ready.wait, 120)
        meter = CpuMeter({str(number): stack.database(number).pid for number in range(1, form.servers + 1)})
        began = monotonic()
        counts = [await asyncio.to_thread(done.get, True, 120) for _ in processes]
        seconds = monotonic() - began
        for process in processes:
            await asyncio.to_thread(process.join, 30)
        assert sum(counts) == DEBITS
        return _Round(DEBITS / seconds, sum(meter.microseconds_each(DEBITS).values()))


def _debit(settings: Settings, number: int, of: int, ready: Barrier, done: "Queue[int]") -> None:
    """Decide every so manieth partition's requests over one connection; say when ready, and how many there were."""
    asyncio.run(_debit_all(settings, number, of, ready, done))


async def _debit_all(settings: Settings, number: int, of: int, ready: Barrier, done: "Queue[int]") -> None:
    batches = lanes(sends(DEBITS, seed=DEBITS), BATCH, datetime.now(UTC))
    mine = [batch for batch in batches if batch[0].partition % of == number]
    async with create_pool(settings.model_copy(update={"database_connections": 1})) as pool, pool.acquire() as books:
        await books.execute("select pg_sleep(0.05)")  # its functions' types are known before the clock starts
        ready.wait(120)
        for batch in mine:
            await decide_batch(books, batch)
        done.put(sum(map(len, mine)))
