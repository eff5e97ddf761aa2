"""`debit_growth`: what a send costs when the journal holds 10 million rows, over what it costs at 100 thousand.

The history is written by one statement and looks as if its accounts had sent for a year: spent lots, gap-free
sequences, time-ordered request ids (as UUIDv7 are; random ones cost more, since they touch an index everywhere).
"""

from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter

from infra.local.stack import LocalStack
from infra.postgres import connect_database
from infra.settings import Settings
from tests.bench.books import ACCOUNTS, Databases, sends
from tests.bench.cpu import CpuMeter
from tests.bench.debit_database import decide_batch, lanes
from tests.bench.figures import Figure, of_rounds

__all__ = ["run"]

ROUNDS = 5
DEBITS = 20_000  # a round
BATCH = 1_000
ROWS = (100_000, 10_000_000)

# So many rows of each account, spread over a year that ended yesterday; the first is a promotion's.
_HISTORY = """
insert into journal (
    account, sequence, request_id, fingerprint, is_answer, worker, code, amount, lot, lot_expires_at,
    balance_before, balance_after, as_of, source_partition, source_offset, recipient_id, relationship
)
select
    a.account, a.sequence + n,
    encode(substring(int8send((extract(epoch from now() - interval '366 days' + n * step.by) * 1000)::bigint) from 3)
        || '\\x7000'::bytea || int8send(a.account * 1000000 + n), 'hex')::uuid,
    n, true, 'send', case when n % 4 = 0 then 'free' else 'charged' end, case when n % 4 = 0 then 0 else -1 end,
    case when n % 4 = 0 then null else 1 end, case when n % 4 = 0 then null else now() end,
    1, case when n % 4 = 0 then 1 else 0 end, now() - interval '366 days' + n * step.by, a.partition,
    a.account * 1000000 + n, 'member-' || n, case when n % 4 = 0 then 'connection' else 'none' end
from generate_series(1, $1::integer) as n
cross join accounts as a
cross join lateral (select interval '365 days' / $1::integer as by) as step
"""


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return CPU microseconds of Postgres a send, with many rows beside few, and the same in wall time."""
    few, many = ROWS
    cpu: dict[int, list[float]] = {few: [], many: []}
    wall: dict[int, list[float]] = {few: [], many: []}
    async with databases.one() as small, databases.one() as large:
        for settings, rows in ((small, few), (large, many)):
            report(f"debit_growth: writing {rows:,} journal rows")
            await _grow(settings, rows // ACCOUNTS)
        for number in range(1, ROUNDS + 1):
            report(f"debit_growth: round {number} of {ROUNDS}")
            for settings, rows in ((small, few), (large, many)):
                seconds, used = await _debit(stack, settings, number)
                cpu[rows].append(used)
                wall[rows].append(seconds * 1e6 / DEBITS)
    details = {"rows": many, "baseline_rows": few}
    return [
        of_rounds("debit_growth, CPU of Postgres", "us/send", cpu[many], cpu[few], details),
        of_rounds("debit_growth", "us/send", wall[many], wall[few], details),
    ]


async def _grow(settings: Settings, rows_each: int) -> None:
    connection = await connect_database(settings)
    await connection.execute(_HISTORY, rows_each, timeout=1200)
    await connection.execute("update accounts set sequence = sequence + $1", rows_each, timeout=600)
    await connection.execute("vacuum analyze", timeout=1200)
    await connection.execute("checkpoint", timeout=600)
    await connection.close()


async def _debit(stack: LocalStack, settings: Settings, seed: int) -> tuple[float, float]:
    """Decide a round's sends on one connection; return the seconds and the CPU microseconds of Postgres a send."""
    batches = lanes(sends(DEBITS, seed), BATCH, datetime.now(UTC))
    connection = await connect_database(settings)
    await decide_batch(connection, lanes(sends(BATCH, seed + 1_000), BATCH, datetime.now(UTC))[0])  # warm
    meter, began = CpuMeter({"postgres": stack.postgres_pid}), perf_counter()
    for requests in batches:
        await decide_batch(connection, requests)
    seconds, used = perf_counter() - began, meter.microseconds_each(DEBITS)["postgres"]
    await connection.close()
    return seconds, used
