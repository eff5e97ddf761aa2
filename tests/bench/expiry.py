"""`expiry`: a million lots that ended at one instant, booked while sends go on.

Sends come at a steady rate on a connection of their own; what they wait for is measured without and with the ticks
beside them. Every lot is booked by the ledger's own step, each in a transaction of its own, as the lane does it.
"""

import asyncio
import gc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from statistics import quantiles
from time import perf_counter
from uuid import uuid4

from infra.local.stack import LocalStack
from infra.postgres import Connection, connect_database
from infra.settings import Settings
from schemas.catalogue import fingerprint
from schemas.ticks import ExpiryTick, ExpiryTickData
from tests.bench.books import PARTITIONS, Databases, every_rule_on, sends
from tests.bench.debit_database import Requests, decide_batch, lanes
from tests.bench.figures import Figure
from workers.ledger.model import Request
from workers.ledger.ticks import TickTerms, expire_step, tick_terms

__all__ = ["run"]

LOTS = 1_000_000
QUIET_SECONDS = 10.0
BOOKING_SECONDS = 150.0  # for so long, at most, sends are ready to go beside the ticks
SENDS_EACH = 20  # in a batch
BATCHES_A_SECOND = 50.0  # so 1,000 sends a second

_CATALOGUE = every_rule_on()

_FILL = """
with opened as (
    insert into accounts (account_id, partition, sequence, newest_lot, level)
    select 'ended-' || n, n % $2::integer, 1, 1, 0 from generate_series(1, $1::integer) as n
    returning account, partition
),

granted as (
    insert into journal (
        account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
        balance_before, balance_after, as_of, source_partition, source_offset, details
    )
    select account, 1, gen_random_uuid(), 0, true, 'billing', 'granted', 5, 1, now() - interval '1 hour', 0, 5,
        now() - interval '91 days', partition, account + 1000000, '{"origin": "promotion"}'
    from opened
)

insert into lots (
    account, lot, partition, request_id, origin, priority, on_change, credit_back, granted, remaining, granted_at,
    expires_at, full_expires_at, cap_pending
)
select account, 1, partition, gen_random_uuid(), 'promotion', 0, 'keep', false, 5, 5, now() - interval '91 days',
    now() - interval '1 hour', now() - interval '1 hour', false
from opened
"""


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return the lots a second, and the 99th percentile of the sends' waits beside its quiet value."""
    del stack
    async with databases.one() as settings:
        report(f"expiry: writing {LOTS:,} lots that have ended")
        connection = await connect_database(settings)
        await connection.execute(_FILL, LOTS, PARTITIONS, timeout=1200)
        await connection.execute("vacuum analyze", timeout=600)
        await connection.execute("checkpoint", timeout=600)
        await connection.close()

        alone, along = _batches(QUIET_SECONDS * 2, 1), _batches(BOOKING_SECONDS, 2)
        gc.collect()
        gc.freeze()  # what was made for the bench is not to be looked through while it is timed
        report("expiry: sends alone")
        quiet = await _send_until(settings, asyncio.create_task(asyncio.sleep(QUIET_SECONDS)), alone)
        report("expiry: sends beside ticks")
        booking = asyncio.create_task(_book_all(settings))
        beside = await _send_until(settings, booking, along)
        booked, seconds = booking.result()
    assert booked == LOTS, booked
    before, after = (quantiles(waits, n=100)[98] * 1000 for waits in (quiet, beside))
    details = {"lots": LOTS, "seconds": round(seconds, 1), "batches_quiet": len(quiet), "batches": len(beside)}
    return [
        Figure("expiry", round(LOTS / seconds, 1), "lots/s", None, None, details),
        Figure("expiry, p99 of sends beside it", round(after, 2), "ms", round(before, 2), round(after / before, 2)),
    ]


def _batches(seconds: float, seed: int) -> list[Requests]:
    """Return batches for so long, made before the clock runs."""
    return lanes(sends(round(SENDS_EACH * BATCHES_A_SECOND * seconds), seed), SENDS_EACH, datetime.now(UTC))


async def _send_until(settings: Settings, end: "asyncio.Task[object]", batches: list[Requests]) -> list[float]:
    """Decide batches of sends at a steady rate until a task ends; return how long each took from when it was due."""
    connection = await connect_database(settings)
    waits = []
    began = perf_counter()
    while not end.done():
        due = began + len(waits) / BATCHES_A_SECOND
        await asyncio.sleep(max(0.0, due - perf_counter()))
        await decide_batch(connection, batches.pop())
        waits.append(perf_counter() - due)
    await connection.close()
    return waits


async def _book_all(settings: Settings) -> tuple[int, float]:
    """Book all that has ended, partition after partition, tick after tick; return how many lots, and the seconds."""
    connection = await connect_database(settings)
    terms = tick_terms(_CATALOGUE, settings.tick_step_lots, settings.tick_steps)
    began = perf_counter()
    booked = 0
    for partition in range(PARTITIONS):
        offset = 0
        while (lots := await _tick(connection, partition, offset, terms)) > 0:
            booked += lots
            offset += 1
    seconds = perf_counter() - began
    await connection.close()
    return booked, seconds


async def _tick(connection: Connection, partition: int, offset: int, terms: TickTerms) -> int:
    now = datetime.now(UTC) - timedelta(minutes=1)
    tick = ExpiryTick.create(id=uuid4(), source="/bench", time=now, data=ExpiryTickData(as_of=now))
    request = Request(tick, "", tick.id, fingerprint(tick), now, partition, offset)
    while True:
        async with connection.transaction():
            stands = await expire_step(connection, request, now, terms)
        if stands.code == "booked":
            return stands.lots
