"""Functions of both servers: wait until a server is ready, and describe why it is not."""

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from infra.local.errors import DiskFullError, PortTakenError, ServerEndedError, ServerError
from infra.local.supervisor_client import Child, Program, SupervisorClient

__all__ = ["clean_environment", "run_once", "wait_ready"]

TAIL_LINES = 15
JAVA_FRAME = "\tat "  # which the log keeps, and nobody at a terminal reads
_LONGEST = 10
FOREIGN = ("PG", "JAVA", "JDK_", "_JAVA", "KAFKA", "CLASSPATH")


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without variables that would configure a server, plus `more`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)} | more


def run_once(supervisor: SupervisorClient, program: Program, seconds: float) -> None:
    """Run a program and wait for its end, at most `seconds`. Raises `ServerError` when it fails."""
    child = supervisor.spawn(program)
    if child.wait(seconds) != 0:
        raise describe_failure(
            child, f"{program.name} failed" if child.code else f"{program.name} took over {seconds:.0f} s"
        )


def wait_ready(child: Child, ready: Callable[[], bool], seconds: float) -> None:
    """Wait until `ready` returns true: as long as the server's log grows, since a large one may have much to recover.

    Raises:
        ServerError: when the server ends first, when its log says nothing new for `seconds`, or after `_LONGEST` times
            as long: one that waits for what never comes may say so for ever.

    """
    began = heard = time.monotonic()
    size = 0
    while not ready():
        if child.wait(0.03) is not None:
            what = f"{child.program.name} ended with code {child.code} instead of starting"
            raise describe_failure(child, what, ServerEndedError)
        now, log = time.monotonic(), child.program.log
        if log.exists() and log.stat().st_size != size:
            heard, size = now, log.stat().st_size
        if now > min(heard + seconds, began + _LONGEST * seconds):
            raise describe_failure(child, f"{child.program.name} was not ready after {now - began:.0f} s")


def describe_failure(
    child: Child, what: str, kind: type[ServerError] = ServerError
) -> ServerError | DiskFullError | PortTakenError:
    """Return the error for a failed program: the last lines of its log decide its class and are part of its text."""
    tail = last_lines(child.program.log)
    said = "\n".join(tail)
    text = f"{what}. Log: {child.program.log}\n  " + "\n  ".join(tail)
    if "No space left on device" in said:
        place = child.program.log.parent.parent  # holds the data and the logs
        return DiskFullError(f"No room left on the disk of {place}. Free some space and start again.\n{text}")
    if "Address already in use" in said:
        return PortTakenError(f"Another process uses its port. Choose another port, or none for a free port.\n{text}")
    return kind(text)


def last_lines(log: Path) -> list[str]:
    """Return the last lines of a log file; "(no log)" if there is no file."""
    if not log.exists():
        return ["(no log)"]
    with log.open(encoding="utf-8", errors="replace") as file:
        told = (line.rstrip("\n") for line in file if not line.startswith(JAVA_FRAME))
        return list(deque(told, maxlen=TAIL_LINES))
