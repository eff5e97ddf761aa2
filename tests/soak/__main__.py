"""`make soak`: an hour of load on a stack of its own. Prints a line a minute, writes build/soak.json, and judges."""

import argparse
import asyncio
import json
import logging
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from infra.local.stack import LocalStack
from tests.soak.run import SoakOrder, soak
from tests.soak.verdict import FILE, failures

_MOST_MINUTES = 24 * 60
LOGS = FILE.parent / "soak-logs"
# The broker's heap is there from its start: what its memory gains after that is not the heap's first use.
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xms512m", "-XX:+AlwaysPreTouch")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=60, help=f"at most {_MOST_MINUTES}")
    parser.add_argument("--restart-minutes", type=int, default=4, help="between two restarts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pace", type=float, default=1.0, help="times 200 to 400 records a second")
    parser.add_argument("--to", type=Path, default=FILE, help="the file to write")
    given = parser.parse_args()
    if not 1 <= given.minutes <= _MOST_MINUTES or given.restart_minutes < 1:
        parser.error(f"--minutes is from 1 to {_MOST_MINUTES}, --restart-minutes at least 1")
    return given


def _report(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)


async def _run(order: SoakOrder, stack: LocalStack) -> dict[str, object]:
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):  # either leaves no process behind
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    return await soak(stack, order, LOGS, _report)


def main() -> None:
    """Run, write, judge; exit 1 when a promise was broken or a slope can be told from zero."""
    given = _arguments()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    LOGS.mkdir(parents=True, exist_ok=True)
    for old in (*LOGS.glob("*.log"), given.to):  # nobody is to take an earlier run for this one
        old.unlink(missing_ok=True)
    with LocalStack(report=_report, jvm_options=_JVM) as stack:
        run = asyncio.run(_run(SoakOrder(given.minutes, given.restart_minutes, given.seed, given.pace), stack))
    given.to.parent.mkdir(exist_ok=True)
    given.to.write_text(json.dumps(run, indent=1) + "\n")
    found = failures(run)
    for line in found or ["nothing lost, doubled or unread; the books balance; no slope that a fit tells from zero"]:
        _report(line)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
