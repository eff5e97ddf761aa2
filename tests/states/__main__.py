"""`make states`: causes each state on a stack of its own, and writes how long each surface took to say so.

It ends with 1 where a state could not be caused, and where a surface said less or more than is right: see `verdict`.
"""

import argparse
import asyncio
import json
import logging
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncpg
from aiokafka.errors import KafkaError

from tests.states.run import cause, running
from tests.states.states import STATES
from tests.states.verdict import failures
from tests.states.world import CauseError, State

FILE: Final = Path(__file__).parents[2] / "build" / "states.json"
LOGS: Final = FILE.parent / "states-logs"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.states", description=__doc__)
    names = [state.name for state in STATES]
    parser.add_argument(
        "states",
        nargs="*",
        default=names,
        metavar="STATE",
        help=f"all, or of: {', '.join(names)}, and the file keeps the others",
    )
    parser.add_argument("--to", type=Path, default=FILE, help="the file to write")
    given = parser.parse_args()
    if unknown := set(given.states) - set(names):
        parser.error(f"there is no state {', '.join(sorted(unknown))}")
    return given


def _line(name: str, found: dict[str, Any]) -> str:
    told = {surface: heard["told_seconds"] for surface, heard in found["heard"].items()}
    words = [f"{surface} {'-' if seconds is None else f'{seconds:.0f} s'}" for surface, seconds in told.items()]
    return f"{name}: {', '.join(words) or 'nothing to say'}; false: {found['false'] or 'nothing'}"


async def _run(states: list[State], result: dict[str, Any], to: Path, began: float) -> list[str]:
    """Cause them in turn; return what is wrong: states that could not be caused, and what was said of the others."""
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):  # either leaves no process behind
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    wrong: list[str] = []
    LOGS.mkdir(parents=True, exist_ok=True)

    def tell(line: str) -> None:
        print(f"{monotonic() - began:5.0f} s: {line}", flush=True)

    with tempfile.TemporaryDirectory(prefix="inmail-states-") as folder:
        for log in LOGS.glob("*.log"):
            log.unlink()
        async with running(LOGS, Path(folder), tell) as run:
            result["surfaces"] = list(run.watched)
            for state in states:
                at = datetime.now(UTC).isoformat(timespec="minutes")
                try:
                    found = await cause(run, state) | {"at": at}
                except (CauseError, TimeoutError, KafkaError, asyncpg.PostgresError) as error:
                    wrong.append(f"{state.name}: could not be caused: {error!r}")
                    tell(wrong[-1])
                    continue
                known = result["states"] | {state.name: found}
                result["states"] = {each.name: known[each.name] for each in STATES if each.name in known}
                await asyncio.to_thread(to.write_text, json.dumps(result, indent=1) + "\n")
                tell(_line(state.name, found))
                wrong += [f"{state.name}: {each}" for each in failures(found)]
    return wrong


def main() -> None:
    """Run, print, write; exit 1 when something is wrong."""
    given = _arguments()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    states = [state for state in STATES if state.name in given.states]
    kept = len(states) < len(STATES) and given.to.exists()
    result = json.loads(given.to.read_text()) if kept else {"states": {}}
    wrong = asyncio.run(_run(states, result, given.to, monotonic()))
    for line in wrong:
        print(f"wrong: {line}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
