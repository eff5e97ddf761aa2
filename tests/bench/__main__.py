"""`make bench`: every figure beside its baseline, on one stack of its own, in one run.

Nothing here is easier than in production: commits are durable, a request has all its rules, readers are read_committed.
"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from infra.local.stack import LocalStack
from tests.bench import (
    balances,
    debit_database,
    drain,
    expiry,
    growth,
    lag,
    latency,
    memory,
    order,
    reads,
    renewals,
    two_servers,
)
from tests.bench.books import Databases
from tests.bench.figures import Figure, show, write

BENCHES = {
    "debit_database": debit_database.run,
    "debit_growth": growth.run,
    "expiry": expiry.run,
    "drain_end_to_end": drain.run,  # and redelivery
    "latency_at_1000": latency.run,
    "renewals": renewals.run,
    "reads": reads.run,
    "order": order.run,
    "balances": balances.run,
    "memory": memory.run,
    "lag": lag.run,
    "two_servers": two_servers.run,
}
WITHOUT_BOOKS = {"lag", "two_servers"}
FILE = Path(__file__).parents[2] / "build" / "bench.json"


async def _run(names: list[str], out: Console) -> list[Figure]:
    def report(line: str) -> None:
        out.print(f"{datetime.now(UTC):%H:%M:%S} {line}", highlight=False)

    with LocalStack(report=report) as stack:
        databases = Databases(stack)
        if set(names) - WITHOUT_BOOKS:
            report("preparing the books")
            await databases.prepare()
        figures = []
        for name in names:
            figures += await BENCHES[name](stack, databases, report)
            write(figures, FILE)  # what was measured is not lost with what comes after it
    return figures


def main() -> None:
    """Run the benches named, or all; print and write what they measured."""
    names = sys.argv[1:] or list(BENCHES)
    if unknown := set(names) - set(BENCHES):
        sys.exit(f"no bench named {', '.join(sorted(unknown))}: there are {', '.join(BENCHES)}")
    out = Console()
    figures = asyncio.run(_run(names, out))
    show(figures, out)
    out.print(f"written to {FILE.relative_to(Path.cwd())}" if FILE.is_relative_to(Path.cwd()) else f"written to {FILE}")


if __name__ == "__main__":
    main()
