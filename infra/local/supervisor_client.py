"""Starts a supervisor process, and starts, signals and awaits programs through it."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.local.errors import LocalStackError, ServerError

__all__ = ["Child", "Program", "SupervisorClient"]

SPAWN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Program:
    """A program to start: its command, log and user, and the signals that end it."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    stop: int  # the signal of a normal stop
    death: int  # the signal that the kernel sends when the supervisor ends
    stop_seconds: float = 20.0
    user: int | None = None  # None: the user of this process


@dataclass(slots=True)
class Child:
    """A started program; `code` is None while the program runs, then its exit code as in `subprocess`."""

    program: Program
    pid: int = 0
    code: int | None = None
    error: str | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, seconds: float) -> int | None:
        """Wait at most `seconds` for the program to end; return its exit code, or None while it runs."""
        with self._changed:
            self._changed.wait_for(lambda: self.code is not None, seconds)
        return self.code

    def wait_started(self) -> None:
        """Wait until the program runs. Raises `ServerError` when it cannot be started."""
        with self._changed:
            known = self._changed.wait_for(lambda: self.pid or self.error is not None, SPAWN_SECONDS)
        if not known or self.error is not None:
            raise ServerError(
                f"Could not start {self.program.argv[0]}: {self.error or 'the supervisor does not answer'}."
            )

    def update(self, *, pid: int = 0, code: int | None = None, error: str | None = None) -> None:
        """Take over the state that the supervisor reported."""
        with self._changed:
            self.pid = pid or self.pid
            self.code = code if code is not None else self.code
            self.error = error or self.error
            self._changed.notify_all()


class SupervisorClient:
    """A running supervisor. When its stdin is closed, the supervisor stops all its programs.

    `inherit` are descriptors that the supervisor and all its programs keep open (locks); `hold` are descriptors that
    the supervisor alone keeps open (reserved ports); `remove` is the folder that the supervisor removes at the end.
    """

    def __init__(self, inherit: Sequence[int], hold: Sequence[int], remove: Path | None, log: Path) -> None:
        command = [sys.executable, "-m", f"{__package__}.supervisor", "--keep-open", *map(str, inherit)]
        if remove is not None:
            command += ["--remove", str(remove)]
        root = str(Path(__file__).parents[__package__.count(".") + 1])  # from where this package is imported
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - this project's own module
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=[*inherit, *hold],
                cwd="/",
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # a terminal's Ctrl-C is for the parent
            )
        self._children: dict[str, Child] = {}
        self._sending = threading.Lock()
        self._listener = threading.Thread(target=self._listen, name="inmail-supervisor", daemon=True)
        self._listener.start()
        _clients.add(self)

    @property
    def pid(self) -> int:
        """The process id of the supervisor."""
        return self._process.pid

    def spawn(self, program: Program) -> Child:
        """Start a program. Raises `ServerError` when it cannot be started."""
        child = Child(program)
        self._children[program.name] = child
        self._send({"do": "spawn", **asdict(program), "log": str(program.log), "env": dict(program.env)})
        child.wait_started()
        return child

    def signal(self, child: Child, number: int) -> None:
        """Send a signal to a program, unless the program has ended."""
        if child.code is None:
            self._send({"do": "signal", "name": child.program.name, "signal": number})

    def end(self, child: Child, ask: int, kill: int, seconds: float) -> int:
        """Ask a program to end by a signal, or kill it by another when it has not after `seconds`; return its code."""
        self.signal(child, ask)
        if child.wait(seconds) is None:
            self.signal(child, kill)
        return -kill if (code := child.wait(seconds)) is None else code

    def stop(self, seconds: float) -> None:
        """Stop every program and the supervisor. Raises `LocalStackError` when they have not ended after `seconds`."""
        self.disconnect()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            # The programs have the parent-death signal, so they end too.
            self._process.kill()
            self._process.wait()
            raise LocalStackError(f"The local stack had to be killed: it did not stop in {seconds:.0f} s.") from None
        finally:
            self._listener.join()
            if self._process.stdout is not None:
                self._process.stdout.close()
            _clients.discard(self)

    def disconnect(self) -> None:
        """Close the supervisor's stdin, so that it stops its programs and ends."""
        if self._process.stdin is not None:
            with self._sending, contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def disconnect_fork(self) -> None:
        """Drop the supervisor's stdin in a forked child, so that the pipe closes when the parent itself ends."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            # Replaced, not closed: the file object would later close another file that got the same number.
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, pipe.fileno(), inheritable=False)
            os.close(nothing)

    def _send(self, command: dict[str, Any]) -> None:
        pipe = self._process.stdin
        with self._sending:
            if pipe is None or pipe.closed:
                raise LocalStackError("The local stack is stopped.")
            try:
                pipe.write(json.dumps(command).encode() + b"\n")
                pipe.flush()
            except BrokenPipeError:
                raise LocalStackError("The supervisor of the local stack has ended, and its servers with it.") from None

    def _listen(self) -> None:
        if self._process.stdout is None:
            return
        for line in self._process.stdout:
            event = json.loads(line)
            child = self._children[event["name"]]
            child.update(pid=event.get("pid", 0), code=event.get("code"), error=event.get("error"))
        # The supervisor has ended, and by the parent-death signal its programs too.
        for child in self._children.values():
            if child.code is None:
                child.update(code=-1, error="the supervisor has ended")


_clients: "weakref.WeakSet[SupervisorClient]" = weakref.WeakSet()


def _disconnect_forks() -> None:
    for client in list(_clients):
        client.disconnect_fork()


os.register_at_fork(after_in_child=_disconnect_forks)
