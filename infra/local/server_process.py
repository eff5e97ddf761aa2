"""What the two servers share: waiting until one is up, and what is said when it is not."""

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from infra.local.errors import DiskFullError, PortTakenError, ServerError
from infra.local.supervisor_client import Child, Program, SupervisorClient

__all__ = ["clean_environment", "run_once", "wait_ready"]

TAIL_LINES = 15
JAVA_FRAME = "\tat "  # which the log keeps, and nobody at a terminal reads
FOREIGN = ("PG", "JAVA", "JDK_", "_JAVA", "KAFKA", "CLASSPATH")


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what would change a server behind our back, plus `more`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)} | more


def run_once(leash: SupervisorClient, program: Program, seconds: float) -> None:
    """Run a program that prepares something to its end. Raises `ServerError` when it fails."""
    running = leash.spawn(program)
    if running.wait(seconds) != 0:
        raise failure(
            running, f"{program.name} failed" if running.code else f"{program.name} took over {seconds:.0f} s"
        )


def wait_ready(running: Child, ready: Callable[[], bool], seconds: float) -> None:
    """Wait until `ready` says so. Raises `ServerError` when the server ends first or `seconds` pass."""
    deadline = time.monotonic() + seconds
    while not ready():
        if running.wait(0.03) is not None:
            raise failure(running, f"{running.program.name} ended with code {running.code} instead of starting")
        if time.monotonic() > deadline:
            raise failure(running, f"{running.program.name} was not ready after {seconds:.0f} s")


def failure(running: Child, what: str) -> ServerError | DiskFullError | PortTakenError:
    """Return the error for a program that failed: with its log's last lines, and its kind read from them."""
    tail = last_lines(running.program.log)
    said = "\n".join(tail)
    text = f"{what}. Log: {running.program.log}\n  " + "\n  ".join(tail)
    if "No space left on device" in said:
        place = running.program.log.parent.parent  # of the data and the logs
        return DiskFullError(f"No room left on the disk of {place}. Free some space and start again.\n{text}")
    if "Address already in use" in said:
        return PortTakenError(
            f"Its port was taken by another process. Choose another, or let a free one be taken.\n{text}"
        )
    return ServerError(text)


def last_lines(log: Path) -> list[str]:
    """Return the end of a log file; nothing when there is none."""
    if not log.exists():
        return ["(no log)"]
    with log.open(encoding="utf-8", errors="replace") as file:
        told = (line.rstrip("\n") for line in file if not line.startswith(JAVA_FRAME))
        return list(deque(told, maxlen=TAIL_LINES))
