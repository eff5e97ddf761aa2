"""`make growth`: what sends, expiry, statements and audits cost in books of many rows, beside books of a million.

The books are made in bulk (`history.py`). With 314 bytes a row, 100 million rows take 31 GB, and about as much again
for a while: `GROWTH_DATA` names a folder that has so much room; what is there already is used again.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from rich.console import Console

from infra.local.stack import LocalStack
from infra.settings import Settings
from tests.bench.figures import Figure, show, write
from tests.growth.books import open_books
from tests.growth.history import Story
from tests.growth.measure import expire, plans_of_sends, read_statements, send_round, write_beside
from workers.ops.books.audit_new import audit_and_mark, audit_new

Books = tuple[Settings, Story]

FEW = 1_000_000
ROUNDS = 5
SENDS = 12_000  # a round
FILE = Path(__file__).parents[2] / "build" / "growth.json"
_ADD_INDEX = "create index concurrently growth_trial on journal (as_of)"
_ADD_COLUMN = "alter table journal add column growth_trial text"


async def _measure(stack: LocalStack, many: int, out: Console) -> list[Figure]:
    books = {rows: await open_books(stack, rows, out) for rows in (FEW, many)}
    seed = int(datetime.now(UTC).timestamp()) % 100_000
    return [
        *await _measure_costs(books, many, seed, out),
        await _measure_audits(books[many], many, seed + 50, out),
        *await _measure_changes(books[many], seed + 60),
    ]


async def _measure_costs(books: Mapping[int, Books], many: int, seed: int, out: Console) -> list[Figure]:
    """Measure what a send, an expiry and a statement cost at both sizes, in turn, and compare the plans of sends."""
    plans = {rows: await plans_of_sends(*book, seed) for rows, book in books.items()}
    out.print(plans)
    assert set(plans[FEW]) == set(plans[many])
    assert not [what for what in plans[many] if what.endswith("read whole")]
    cpu: dict[tuple[str, int], list[float]] = {}
    active = books[FEW][1].accounts
    for number in range(1, ROUNDS + 1):
        for rows, (settings, story) in books.items():
            few_active = story._replace(accounts=active)
            for what, cost in (
                ("send, any account", await send_round(settings, story, SENDS, seed + 2 * number)),
                ("send, as many accounts", await send_round(settings, few_active, SENDS, seed + 2 * number + 1)),
                ("lot expired", await expire(settings, story, 3, 500)),
                ("statement", await read_statements(settings, story, 100, seed + number)),
            ):
                out.print(f"{what}, {rows:,} rows: {cost.each()}", highlight=False)
                cpu.setdefault((what, rows), []).append(cost.each()["cpu_us"])
    figures = []
    for what in dict.fromkeys(what for what, _ in cpu):
        ours, base = (sorted(cpu[what, rows])[ROUNDS // 2] for rows in (many, FEW))
        figures.append(Figure(f"{what}, CPU of Postgres", ours, "us", base, round(ours / base, 2), {"rows": many}))
    return figures


async def _measure_audits(books: Books, many: int, seed: int, out: Console) -> Figure:
    """Measure an audit of everything, and then one of a hundredth as many rows that are new."""
    settings, story = books
    began = perf_counter()
    assert (await audit_and_mark(settings)).passed
    whole = perf_counter() - began
    out.print(f"audit of everything: {whole:.1f} s", highlight=False)
    await send_round(settings, story, many // 100, seed)
    began = perf_counter()
    found = await audit_new(settings)
    new = perf_counter() - began
    assert found.passed and found.new is not None  # noqa: PT018
    details = {"new_rows": found.new.rows, "accounts": found.new.accounts, "examined": found.new.examined}
    return Figure("audit of what is new", new, "s", whole, round(new / whole, 3), details)


async def _measure_changes(books: Books, seed: int) -> list[Figure]:
    """Measure how long small batches wait while a migration adds a column or an index."""
    settings, story = books
    figures = []
    for what, statement in (("none", "select pg_sleep(5)"), ("column", _ADD_COLUMN), ("index", _ADD_INDEX)):
        seconds, middle, longest = await write_beside(settings, story, statement, seed + len(figures))
        waits = {"seconds": round(seconds, 1), "median_ms": round(middle, 1)}
        figures.append(Figure(f"longest batch beside a new {what}", longest, "ms", details=waits))
    return figures


def main() -> None:
    """Measure, print and write the figures."""
    rows, out = int(os.environ.get("ROWS", "100000000")), Console()
    if rows < 2 * FEW:
        sys.exit(f"ROWS={rows}: there is nothing to compare below {2 * FEW}")
    kept = os.environ.get("GROWTH_DATA")
    with (
        nullcontext(kept) if kept else TemporaryDirectory() as folder,
        LocalStack(Path(folder), kafka=False, postgres_settings={"shared_buffers": "1GB"}) as stack,
    ):
        figures = asyncio.run(_measure(stack, rows, out))
    show(figures, out)
    write(figures, FILE)


if __name__ == "__main__":
    main()
