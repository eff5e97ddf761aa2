"""The parent's end of a keeper: start programs, wait for them, hold the leash."""

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
    """A program to start: what it is, where it logs, as whom it runs, and how it is told to end."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    stop: int  # signal of a normal stop
    death: int  # signal it gets when its keeper dies
    stop_seconds: float = 20.0
    user: int | None = None  # None: the user of this process


@dataclass(slots=True)
class Child:
    """A program that was started; `code` is None while it runs, then as in `subprocess`."""

    program: Program
    pid: int = 0
    code: int | None = None
    error: str | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, seconds: float) -> int | None:
        """Wait until it has ended, at most `seconds`, and return its exit code; None when it still runs."""
        with self._changed:
            self._changed.wait_for(lambda: self.code is not None, seconds)
        return self.code

    def wait_started(self) -> None:
        """Wait until it runs. Raises `ServerError` when it cannot be started."""
        with self._changed:
            known = self._changed.wait_for(lambda: self.pid or self.error is not None, SPAWN_SECONDS)
        if not known or self.error is not None:
            raise ServerError(f"Could not start {self.program.argv[0]}: {self.error or 'the keeper does not answer'}.")

    def tell(self, *, pid: int = 0, code: int | None = None, error: str | None = None) -> None:
        """Note what the keeper said of it."""
        with self._changed:
            self.pid = pid or self.pid
            self.code = code if code is not None else self.code
            self.error = error or self.error
            self._changed.notify_all()


class SupervisorClient:
    """A running keeper. When the last descriptor of the leash is closed, everything it keeps ends.

    `inherit` are descriptors that the keeper and all its programs hold for life (locks); `hold` are held by the
    keeper alone (reserved ports); `remove` is the folder that goes when they have ended.
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
        self._running: dict[str, Child] = {}
        self._sending = threading.Lock()
        self._listener = threading.Thread(target=self._listen, name="inmail-leash", daemon=True)
        self._listener.start()
        _leashes.add(self)

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._process.pid

    def spawn(self, program: Program) -> Child:
        """Start a program. Raises `ServerError`."""
        running = Child(program)
        self._running[program.name] = running
        self._send({"do": "spawn", **asdict(program), "log": str(program.log), "env": dict(program.env)})
        running.wait_started()
        return running

    def signal(self, running: Child, number: int) -> None:
        """Send a signal to a program that was started; nothing happens when it has ended."""
        if running.code is None:
            self._send({"do": "signal", "name": running.program.name, "signal": number})

    def stop(self, seconds: float) -> None:
        """Stop every program and the keeper. Raises `LocalStackError` when they have not ended after `seconds`."""
        self.let_go()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            # Its programs carry the parent-death signal.
            self._process.kill()
            self._process.wait()
            raise LocalStackError(f"The local stack had to be killed: it did not stop in {seconds:.0f} s.") from None
        finally:
            self._listener.join()
            if self._process.stdout is not None:
                self._process.stdout.close()
            _leashes.discard(self)

    def let_go(self) -> None:
        """Close this process's end of the leash."""
        if self._process.stdin is not None:
            with self._sending, contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def forget(self) -> None:
        """Give up the leash in a process forked from the parent: its life must not count as the parent's."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            # Replaced, not closed: the file object would later close whatever had taken the number.
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, pipe.fileno(), inheritable=False)
            os.close(nothing)

    def _send(self, order: dict[str, Any]) -> None:
        pipe = self._process.stdin
        with self._sending:
            if pipe is None or pipe.closed:
                raise LocalStackError("The local stack is stopped.")
            try:
                pipe.write(json.dumps(order).encode() + b"\n")
                pipe.flush()
            except BrokenPipeError:
                raise LocalStackError("The keeper of the local stack is gone, and its servers with it.") from None

    def _listen(self) -> None:
        if self._process.stdout is None:
            return
        for line in self._process.stdout:
            event = json.loads(line)
            running = self._running[event["name"]]
            running.tell(pid=event.get("pid", 0), code=event.get("code"), error=event.get("error"))
        # The keeper is gone, and by the parent-death signal whatever it kept.
        for running in self._running.values():
            if running.code is None:
                running.tell(code=-1, error="the keeper is gone")


_leashes: "weakref.WeakSet[SupervisorClient]" = weakref.WeakSet()


def _forget_all() -> None:
    for leash in list(_leashes):
        leash.forget()


os.register_at_fork(after_in_child=_forget_all)
