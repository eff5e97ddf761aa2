"""The process that owns the servers of one local stack, so that they end with their parent, however it ends.

The supervisor reads commands from stdin and writes events to stdout, one JSON object a line. The kernel closes stdin
when the parent ends, also by `kill -9`; the supervisor then stops every program and removes the temporary data. The
programs have a parent-death signal, so they end with the supervisor. Nothing here depends on Kafka or Postgres.

Commands: {"do": "spawn", "name", "argv", "env", "log", "user", "stop", "death", "stop_seconds"}, {"do": "signal",
"name", "signal"}. Events: {"event": "started", "name", "pid"}, {"event": "failed", "name", "error"},
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
    stop: int  # the signal that asks the program to end
    stop_seconds: float  # time to end before the program is killed


class _Supervisor:
    """Starts, signals and stops programs; single-threaded, because the parent-death signal is bound to a thread."""

    def __init__(self, keep_open: tuple[int, ...], run_folder: Path | None) -> None:
        self._keep_open = keep_open
        self._run_folder = run_folder
        self._programs: dict[str, _Program] = {}

    def run(self) -> NoReturn:
        """Execute the parent's commands until stdin closes or SIGTERM arrives, then stop all programs and exit."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        ending = False

        def end(*_: object) -> None:
            nonlocal ending
            ending = True

        signal.signal(signal.SIGTERM, end)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)  # not SIG_IGN: programs would inherit SIG_IGN
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
                        self._execute(json.loads(line))
                    ending = ending or not read
        self._stop()
        sys.exit(0)

    def _execute(self, command: dict[str, Any]) -> None:
        match command["do"]:
            case "spawn":
                self._spawn(command)
            case "signal":
                program = self._programs.get(command["name"])
                if program is not None:
                    program.process.send_signal(command["signal"])

    def _spawn(self, command: dict[str, Any]) -> None:
        name = command["name"]
        identity = (
            {} if command["user"] is None else {"user": command["user"], "group": command["user"], "extra_groups": []}
        )
        try:
            with Path(command["log"]).open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 - the parent's own programs
                    command["argv"],
                    env=command["env"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=self._keep_open,
                    preexec_fn=_parent_death_hook(command["death"]),  # noqa: PLW1509 - one thread, and after setuid
                    **identity,
                )
        except (OSError, subprocess.SubprocessError) as error:
            _send_event(event="failed", name=name, error=str(error))
            return
        self._programs[name] = _Program(process, command["stop"], command["stop_seconds"])
        _send_event(event="started", name=name, pid=process.pid)

    def _reap(self) -> None:
        for name, program in list(self._programs.items()):
            code = program.process.poll()
            if code is not None:
                del self._programs[name]
                _send_event(event="exited", name=name, pid=program.process.pid, code=code)

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
        if self._run_folder is not None:
            _remove_folder(self._run_folder)


def _parent_death_hook(death: int) -> Callable[[], None] | None:
    """Return a function for a child to run before exec, so that the kernel sends it `death` when the supervisor ends.

    None on systems other than Linux.
    """
    if sys.platform != "linux":
        return None
    supervisor = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def set_signal() -> None:
        prctl(PR_SET_PDEATHSIG, death, 0, 0, 0)
        if os.getppid() != supervisor:  # the supervisor ended before the call above
            os._exit(1)

    return set_signal


def _remove_folder(folder: Path) -> None:
    """Remove a folder, in two attempts: a program's last thread may create a file during the first."""
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)


def _send_event(**event: object) -> None:
    # The parent may have ended; stdin closes then.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(event).encode() + b"\n")


def main() -> NoReturn:
    """Run a supervisor on the stdin and stdout of this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--keep-open", type=int, nargs="*", default=[], help="descriptors that the programs inherit too"
    )
    parser.add_argument("--remove", type=Path, help="the folder to remove at the end")
    arguments = parser.parse_args()
    _Supervisor(tuple(arguments.keep_open), arguments.remove).run()


if __name__ == "__main__":
    main()
