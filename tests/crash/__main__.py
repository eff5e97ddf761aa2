"""`make crash`: the crash matrix, on a stack of its own. Prints and writes what came of it; exits 1 when it failed."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.crash.broken import BROKEN
from tests.crash.matrix import crash_settings, crash_stack, run
from tests.crash.points import POINTS, Kind, cells
from tests.crash.result import Order, Result, show, summary, write
from tests.measured import day_and_commit
from tests.versions.binaries import KAFKA, kafka_lock

FILE = Path(__file__).parents[2] / "build" / "crash.json"
LOGS = FILE.parent / "crash-logs"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--faults", type=int, default=0, help="how many; unless given, each cell once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--points", nargs="*", default=[], choices=[*POINTS], metavar="POINT")
    parser.add_argument("--kinds", nargs="*", default=[], choices=[*map(str, Kind)], metavar="KIND")
    parser.add_argument("--minutes", type=float, default=60.0, help="no fault begins later")
    parser.add_argument("--rate", type=float, default=40.0, help="records a second")
    parser.add_argument("--partitions", type=int, default=12, help="of each topic; two workers of each server")
    parser.add_argument("--kafka", choices=KAFKA, metavar="VERSION", help=f"of the broker: one of {', '.join(KAFKA)}")
    parser.add_argument("--brokers", type=int, default=1, choices=[1, 3, 5], help="of which one is killed at a time")
    parser.add_argument("--databases", type=int, default=1, choices=[1, 2, 3], help="of which one is killed at a time")
    parser.add_argument(
        "--freeze", type=float, metavar="SECONDS", help="how long a frozen worker sleeps, whoever has its lanes"
    )
    parser.add_argument("--broken", choices=[*BROKEN], help="take a protection out: the matrix then has to fail")
    return parser.parse_args()


async def _run(order: Order, given: argparse.Namespace, out: Console) -> Result:
    columns = (TextColumn("{task.completed:,} of {task.total:,} faults"), BarColumn(), TimeElapsedColumn(),
               TextColumn("left:"), TimeRemainingColumn())  # fmt: skip
    lock = kafka_lock(given.kafka) if given.kafka else None
    stack = crash_stack(lambda _: None, given.brokers, lock, databases=given.databases)
    began, told = monotonic(), [0]
    with stack, Progress(*columns, console=out, disable=not out.is_terminal) as bar:
        task = bar.add_task("faults", total=order.faults)

        def report(result: Result) -> None:
            done = result.begun
            bar.update(task, completed=done)
            if not out.is_terminal and done >= told[0] + 20:
                told[0] = done
                seconds = monotonic() - began
                left = seconds / done * (order.faults - done)
                out.print(f"{seconds:6.0f} s: {done:,} of {order.faults:,} faults, about {left:.0f} s left")

        return await run(stack, crash_settings(stack, given.partitions), order, LOGS, report)


def main() -> None:
    """Run, print, write."""
    given = _arguments()
    wanted = list(cells(given.points, [Kind(kind) for kind in given.kinds]))
    faults = given.faults or len(wanted)
    order = Order(
        wanted,
        faults,
        given.seed,
        seconds=given.minutes * 60,
        rate=given.rate,
        broken=given.broken,
        frozen_seconds=given.freeze,
    )
    out = Console()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a killed broker is meant to be missed
    LOGS.mkdir(parents=True, exist_ok=True)
    result = asyncio.run(_run(order, given, out))
    # docs/crash-matrix.md is rendered from the file of the project's own version, of one broker and one database.
    forms = [f"kafka-{given.kafka}"] * bool(given.kafka) + [f"brokers-{given.brokers}"] * (given.brokers > 1)
    forms += [f"databases-{given.databases}"] * (given.databases > 1)
    setup = {name: getattr(given, name) for name in ("partitions", "brokers", "databases")} | day_and_commit()
    write(result, FILE.with_stem("-".join([FILE.stem, *forms])), setup)
    show(result, out)
    out.print(summary(result))
    sys.exit(not result.passed)


if __name__ == "__main__":
    main()
