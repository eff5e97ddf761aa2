"""The process that owns the servers of one local stack, so that they end with their parent, however it ends.

It starts and signals programs as its parent asks, one JSON object a line on stdin, and tells on stdout what became of
them. Its stdin is the leash: the kernel closes it when the parent is gone, by `kill -9` too, and the keeper then stops
every program and removes the temporary data. The programs carry the parent-death signal, so they end with the keeper
as well. Nothing here knows what Kafka or Postgres is.

Asked: {"do": "spawn", "name", "argv", "env", "log", "user", "stop", "death", "stop_seconds"}, {"do": "signal", "name",
"signal"}. Told: {"event": "started", "name", "pid"}, {"event": "failed", "name", "error"},
{"event": "exited", "name", "pid", "code"}.
"""

import argparse
import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["main"]

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class _Program:
    process: subprocess.Popen[bytes]
    stop: int  # the signal that asks it to end
    stop_seconds: float  # how long it may take to; then it is killed


class _Keeper:
    """Keeps programs; single-threaded, since a parent-death signal follows the thread that forked."""

    def __init__(self, keep_open: tuple[int, ...], remove: Path | None) -> None:
        self._keep_open = keep_open
        self._remove = remove
        self._programs: dict[str, _Program] = {}

    def run(self) -> NoReturn:
        """Serve the parent until it lets go or is gone; never returns."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        ending = False

        def end(*_: object) -> None:
            nonlocal ending
            ending = True

        signal.signal(signal.SIGTERM, end)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)  # not SIG_IGN: programs would inherit that
        lines = b""
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while not ending:
                for key, _ in selector.select():
                    read = os.read(key.fd, 65536)
                    if key.fd == woken:
                        self._reap()
                        continue
                    *whole, lines = (lines + read).split(b"\n")
                    for line in whole:
                        self._obey(json.loads(line))
                    ending = ending or not read
        self._stop()
        sys.exit(0)

    def _obey(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "spawn":
                self._spawn(order)
            case "signal":
                program = self._programs.get(order["name"])
                if program is not None:
                    program.process.send_signal(order["signal"])

    def _spawn(self, order: dict[str, Any]) -> None:
        name = order["name"]
        identity = {} if order["user"] is None else {"user": order["user"], "group": order["user"], "extra_groups": []}
        try:
            with Path(order["log"]).open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 - the parent's own programs
                    order["argv"],
                    env=order["env"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=self._keep_open,
                    preexec_fn=_dies_with_parent(order["death"]),  # noqa: PLW1509 - one thread, and after setuid
                    **identity,
                )
        except (OSError, subprocess.SubprocessError) as error:
            _tell(event="failed", name=name, error=str(error))
            return
        self._programs[name] = _Program(process, order["stop"], order["stop_seconds"])
        _tell(event="started", name=name, pid=process.pid)

    def _reap(self) -> None:
        for name, program in list(self._programs.items()):
            code = program.process.poll()
            if code is not None:
                del self._programs[name]
                _tell(event="exited", name=name, pid=program.process.pid, code=code)

    def _stop(self) -> None:
        for program in self._programs.values():
            program.process.send_signal(program.stop)
        begun = time.monotonic()
        for program in self._programs.values():
            try:
                program.process.wait(max(0.0, begun + program.stop_seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.process.kill()
                program.process.wait()
        if self._remove is not None:
            _remove(self._remove)


def _dies_with_parent(death: int) -> Callable[[], None] | None:
    """Return what a child runs before exec: be sent `death` when the keeper dies. Linux only; elsewhere None."""
    if sys.platform != "linux":
        return None
    keeper = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def set_signal() -> None:
        prctl(PR_SET_PDEATHSIG, death, 0, 0, 0)
        if os.getppid() != keeper:  # it died before the call above
            os._exit(1)

    return set_signal


def _remove(folder: Path) -> None:
    """Remove a folder. Twice: a program's last thread may still have created a file below it."""
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)


def _tell(**event: object) -> None:
    # A parent that is gone reads nothing; its leash says so, at once or in a moment.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(event).encode() + b"\n")


def main() -> NoReturn:
    """Run a keeper on this process's stdin and stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep-open", type=int, nargs="*", default=[], help="descriptors its programs inherit too")
    parser.add_argument("--remove", type=Path, help="the folder to remove at the end")
    arguments = parser.parse_args()
    _Keeper(tuple(arguments.keep_open), arguments.remove).run()


if __name__ == "__main__":
    main()
