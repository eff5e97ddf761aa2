"""`make states`: causes each state on a stack of its own, and writes how long each surface took to say so."""

import argparse
import asyncio
import json
import logging
import signal
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

from tests.states.run import cause, running
from tests.states.states import STATES
from tests.states.world import State

FILE: Final = Path(__file__).parents[2] / "build" / "states.json"
LOGS: Final = FILE.parent / "states-logs"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.states", description=__doc__)
    names = [state.name for state in STATES]
    parser.add_argument("states", nargs="*", default=names, metavar="STATE", help=f"all, or of: {', '.join(names)}")
    parser.add_argument("--to", type=Path, default=FILE, help="the file to write")
    given = parser.parse_args()
    if unknown := set(given.states) - set(names):
        parser.error(f"there is no state {', '.join(sorted(unknown))}")
    return given


def _line(name: str, found: dict[str, Any]) -> str:
    told = {surface: heard["told_seconds"] for surface, heard in found["heard"].items()}
    words = [f"{surface} {'-' if seconds is None else f'{seconds:.0f} s'}" for surface, seconds in told.items()]
    return f"{name}: {', '.join(words) or 'nothing to say'}; false: {found['false'] or 'nothing'}"


async def _run(states: list[State], to: Path, began: float) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"began": datetime.now(UTC).isoformat(timespec="seconds"), "states": {}}

    def tell(line: str) -> None:
        print(f"{monotonic() - began:5.0f} s: {line}", flush=True)

    with tempfile.TemporaryDirectory(prefix="inmail-states-") as folder:
        for log in LOGS.glob("*.log"):
            log.unlink()
        async with running(LOGS, Path(folder), tell) as run:
            result["surfaces"] = list(run.watched)
            for state in states:
                result["states"][state.name] = await cause(run, state)
                result["seconds"] = round(monotonic() - began)
                await asyncio.to_thread(to.write_text, json.dumps(result, indent=1) + "\n")
                tell(_line(state.name, result["states"][state.name]))


def main() -> None:
    """Run, print, write."""
    given = _arguments()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # either leaves no process behind
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.run(_run([state for state in STATES if state.name in given.states], given.to, monotonic()))


if __name__ == "__main__":
    main()
