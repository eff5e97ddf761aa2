"""`make states`: causes each state on a stack of its own, and writes how long each surface took to say so.

It ends with 1 where a state could not be caused, and where a surface said less or more than is right: see `verdict`.
"""

import argparse
import asyncio
import json
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncpg
from aiokafka.errors import KafkaError

from tests.states.run import Run, cause, running
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

    def tell(line: str) -> None:
        print(f"{monotonic() - began:5.0f} s: {line}", flush=True)

    shutil.rmtree(LOGS, ignore_errors=True)
    wrong: list[str] = []
    for databases, group in groupby(states, lambda state: state.databases):
        logs = LOGS / f"{databases}-postgres"
        logs.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix="inmail-states-") as folder:
            async with running(logs, Path(folder), tell, databases) as run:
                result["surfaces"] = list(run.watched)
                for state in group:
                    wrong += await _cause(run, state, result, tell)
                    await asyncio.to_thread(to.write_text, json.dumps(result, indent=1) + "\n")
    return wrong


async def _cause(run: Run, state: State, result: dict[str, Any], tell: Callable[[str], None]) -> list[str]:
    """Cause a state, and add what was heard to the result; return what is wrong."""
    at = datetime.now(UTC).isoformat(timespec="minutes")
    try:
        found = await cause(run, state) | {"at": at}
    except (CauseError, TimeoutError, KafkaError, asyncpg.PostgresError) as error:
        wrong = f"{state.name}: could not be caused: {error!r}"
        tell(wrong)
        return [wrong]
    known = result["states"] | {state.name: found}
    result["states"] = {each.name: known[each.name] for each in STATES if each.name in known}
    tell(_line(state.name, found))
    return [f"{state.name}: {each}" for each in failures(found)]


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
