"""`make growth`: what sends, expiry, statements and audits cost in books of many rows, beside books of a million.

The books are made in bulk (`history.py`). With 270 bytes a row, 100 million rows take 27 GB, and about as much again
for a while: `GROWTH_DATA` names a folder that has so much room; what is there already is used again.
"""

import asyncio
import os
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from rich.console import Console

from infra.local.stack import LocalStack
from tests.bench.figures import Figure, show, write
from tests.growth.books import open_books
from tests.growth.measure import expire, plans_of_sends, read_statements, send_round, write_beside
from workers.ops.books.audit_new import audit_and_mark, audit_new

FEW = 1_000_000
ROUNDS = 5
SENDS = 12_000  # a round
FILE = Path(__file__).parents[2] / "build" / "growth.json"
_ADD_INDEX = "create index concurrently growth_trial on journal (as_of)"
_ADD_COLUMN = "alter table journal add column growth_trial text"


async def _measure(stack: LocalStack, many: int, out: Console) -> list[Figure]:
    books = {rows: await open_books(stack, rows, out) for rows in (FEW, many)}
    audits: dict[str, float] = {}
    began = perf_counter()
    assert (await audit_and_mark(books[many][0])).passed
    audits["whole"] = perf_counter() - began
    figures: list[Figure] = []
    seed = int(datetime.now(UTC).timestamp()) % 100_000
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
    for what in dict.fromkeys(what for what, _ in cpu):
        ours, base = (sorted(cpu[what, rows])[ROUNDS // 2] for rows in (many, FEW))
        figures.append(Figure(f"{what}, CPU of Postgres", ours, "us", base, round(ours / base, 2), {"rows": many}))
    settings, story = books[many]
    await send_round(settings, story, max(0, many // 100 - 2 * ROUNDS * SENDS), seed + 50)
    began = perf_counter()
    found = await audit_new(settings)
    audits["new"] = perf_counter() - began
    assert found.passed and found.new is not None  # noqa: PT018
    share = round(audits["new"] / audits["whole"], 3)
    details = {"new_rows": found.new.rows, "accounts": found.new.accounts, "examined": found.new.examined}
    figures.append(Figure("audit of what is new", audits["new"], "s", audits["whole"], share, details))
    for what, statement in (("none", "select pg_sleep(5)"), ("column", _ADD_COLUMN), ("index", _ADD_INDEX)):
        seconds, middle, longest = await write_beside(settings, story, statement, seed + 60 + len(figures))
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
