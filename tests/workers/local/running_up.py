"""`inmail up` as a process, as somebody runs it in a terminal."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

from workers.local.control import ask_control

__all__ = ["READY", "SECONDS", "ask", "outside_variables", "read_to", "start_up", "wait_for_end"]

READY = "Ctrl-C drains"
SECONDS = 60


def outside_variables() -> dict[str, str]:
    """Return a newcomer's variables: no folder of PATH has the command, only the virtual environment does."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("INMAIL_")}
    folders = [each for each in os.environ["PATH"].split(os.pathsep) if not (Path(each) / "inmail").exists()]
    return variables | {"PATH": os.pathsep.join(folders)}


def start_up(data: Path) -> "subprocess.Popen[str]":
    """Start `inmail up` on a data directory, with two partitions and groups that soon notice who is lost."""
    settings = {
        "INMAIL_TOPIC_PARTITIONS": "2",
        "INMAIL_SESSION_SECONDS": "6",
        "INMAIL_TRANSACTION_SECONDS": "5",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "up", "--data", str(data)],
        env=outside_variables() | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_to(process: "subprocess.Popen[str]", start: str) -> str:
    """Return the output of a process up to and including the line with that start."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith(start):
            return said
    raise AssertionError(f"it ended without {start!r}:\n{said}")


def wait_for_end(process: "subprocess.Popen[str]") -> tuple[int, str, float]:
    """Return a process's exit code, its remaining output, and the seconds until its end."""
    began = monotonic()
    said, _ = process.communicate(timeout=SECONDS)
    return process.returncode, said, monotonic() - began


def ask(data: Path, do: str, name: str = "", *, let_through: bool = False) -> dict[str, dict[str, object]]:
    """Ask the `inmail up` of a data directory, as `inmail workers` does; return its workers by name."""
    found = asyncio.run(ask_control(data, do, name, let_through=let_through))
    return {each["name"]: each for each in found}
