"""`make growth-partitioned`: whether the journal would be cheaper as a table of native partitions, measured both ways.

Two books of the same rows: the journal as it is, and in parts by a hash of the account. By time it cannot be parted:
the index that keeps a request id to one outcome would have to have the time in it, and could keep it no more.
"""

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Final

from rich.console import Console

from infra.local.stack import LocalStack
from infra.postgres import connect_database
from infra.settings import Settings
from tests.bench.figures import Figure, of_rounds, show, write
from tests.growth.books import open_books
from tests.growth.measure import read_statements, send_round

FILE: Final = Path(__file__).parents[2] / "build" / "growth-partitioned.json"
PARTS: Final = 16
ROUNDS: Final = 5
SENDS: Final = 12_000  # a round
STATEMENTS: Final = 100


async def _vacuum(settings: Settings) -> float:
    """Return the seconds that a vacuum of the journal takes after the sends."""
    connection = await connect_database(settings, patient=True)
    began = perf_counter()
    await connection.execute("vacuum (analyze, index_cleanup on) journal")
    seconds = perf_counter() - began
    await connection.close()
    return seconds


async def _measure(stack: LocalStack, rows: int, out: Console) -> list[Figure]:
    books = {parts: await open_books(stack, rows, out, parts) for parts in (0, PARTS)}
    costs: dict[str, dict[int, list[float]]] = {}
    for number in range(1, ROUNDS + 1):
        out.print(f"round {number} of {ROUNDS}", highlight=False)
        for parts in (0, PARTS) if number % 2 else (PARTS, 0):
            settings, story = books[parts]
            for what, cost in (
                ("send", await send_round(settings, story, SENDS, 10 * number)),
                ("statement", await read_statements(settings, story, STATEMENTS, number)),
            ):
                costs.setdefault(what, {}).setdefault(parts, []).append(cost.each()["cpu_us"])
    figures = [
        of_rounds(f"{what}, CPU of Postgres (journal in one)", "us", each[PARTS], each[0], {"rows": rows})
        for what, each in costs.items()
    ]
    vacuums = {parts: await _vacuum(books[parts][0]) for parts in (0, PARTS)}
    figures.append(of_rounds("vacuum after them (journal in one)", "s", [vacuums[PARTS]], [vacuums[0]], {}))
    return figures


def main() -> None:
    """Measure, print and write the figures."""
    rows, out = int(os.environ.get("ROWS", "5000000")), Console()
    postgres = {"shared_buffers": "1GB"}
    with TemporaryDirectory() as folder, LocalStack(Path(folder), kafka=False, postgres_settings=postgres) as stack:
        figures = asyncio.run(_measure(stack, rows, out))
    show(figures, out)
    write(figures, FILE)


if __name__ == "__main__":
    main()
