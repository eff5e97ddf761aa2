"""`inmail` as users run it: a process of its own, with its environment, its folder, its exit code and what it says."""

import asyncio
import multiprocessing
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from infra.settings import Settings
from workers.cli import VERBS, main
from workers.local.processes import environment

__all__ = ["Said", "end", "fork", "run", "start"]

SECONDS = 60


class Said(NamedTuple):
    """What came of a command."""

    code: int | None
    out: str
    err: str


# A start takes most of a second of CPU for its imports, and many tests run the command from its start to its end: those
# are forked from a process that has imported it.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([f"workers.{verb.module}" for verb in VERBS.values()])


async def start(settings: Settings, *arguments: str) -> Process:
    """Start `inmail` with these settings."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "workers.cli", *arguments),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=environment(settings),
    )


async def end(process: Process) -> Said:
    """Wait for a process."""
    out, err = await asyncio.wait_for(process.communicate(), SECONDS)
    return Said(process.returncode, out.decode(), err.decode())


async def run(settings: Settings, *arguments: str, folder: Path | None = None, **variables: str) -> Said:
    """Run `inmail` with these settings from its start to its end."""
    return await asyncio.to_thread(fork, environment(settings) | variables, *arguments, folder=folder)


def fork(
    variables: Mapping[str, str],
    *arguments: str,
    folder: Path | None = None,
    without_reader: bool = False,
    output: str | None = None,
) -> Said:
    """Run `inmail` in this environment from its start to its end.

    Without a reader, into a pipe that nobody reads; with an output, into a device.
    """
    with TemporaryDirectory() as said:
        out, err = Path(said) / "out", Path(said) / "err"
        where = (folder or Path.cwd(), None if without_reader else Path(output or out), err)
        process = _forks.Process(target=_inmail, args=(dict(variables), arguments, *where))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"inmail {' '.join(arguments)} did not end: {err.read_text()}")
        return Said(process.exitcode, out.read_text() if out.exists() else "", err.read_text())


def _inmail(variables: dict[str, str], arguments: tuple[str, ...], folder: Path, out: Path | None, err: Path) -> None:
    for path, stream in ((out, 1), (err, 2)):
        file = _unread_pipe() if path is None else os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream)
        os.close(file)
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - for as long as the process
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = ["inmail", *arguments]
    main()


def _unread_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer
