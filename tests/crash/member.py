"""The controller's end of a worker process."""

import asyncio
import multiprocessing
import os
import signal
from dataclasses import replace

from tests.crash.points import Phase
from tests.crash.process import Start, main

__all__ = ["Armed", "Member"]

# The process that workers are forked from imports all of it once: a start then costs 0.1 s.
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["tests.crash.process"])

_CUT_SECONDS = 5.0

Armed = tuple[str, Phase, int]  # a point, where at it, and the how manyeth time, or await within it


class Member:
    """One worker process: armed, met by a fault, let go."""

    def __init__(self, start: Start, armed: Armed | None) -> None:
        self.start = start
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=main, args=(replace(start, armed=armed), theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.stands = asyncio.Event()
        self.revoking = asyncio.Event()
        self.refused = asyncio.Event()
        self.joined = asyncio.Event()  # its group has let it in
        self.cancelled = asyncio.Event()  # where it stood, within a call
        self._told = {
            "revoking": self.revoking,
            "refused": self.refused,
            "joined": self.joined,
            "cancelled": self.cancelled,
        }
        self.gone = asyncio.Event()
        self._cut: asyncio.Future[int] | None = None
        self._armed = armed
        self._is_ready = False  # a word to leave that came earlier would end it as a signal ends any process
        self.leaving = False  # it was told to end
        self.killed = False  # by the matrix
        self.has_ended = False  # and said so
        self.error = ""  # what ended it, in its own words
        self.is_retriable = True
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._read)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid or 0

    @property
    def code(self) -> int | None:
        """How it ended."""
        self._process.join(1)
        return self._process.exitcode

    @property
    def is_free(self) -> bool:
        """Whether it works, and was not told to stop."""
        return not (self.gone.is_set() or self.leaving or self.killed or self.stands.is_set())

    def arm(self, armed: Armed | None) -> None:
        """Let it stand at a point; or nowhere, and go on if it stands."""
        self._armed = armed
        if armed is None:
            self.stands.clear()
        self._say("arm", armed)

    def go(self) -> None:
        """Let it go on from where it stands."""
        self.stands.clear()
        self._say("go")

    async def cut(self, server: str) -> int:
        """Let it cut its own connections to a server; return how many there were.

        Raises:
            TimeoutError: when it does not say.

        """
        self._cut = asyncio.get_running_loop().create_future()
        self._say("cut", server)
        return await asyncio.wait_for(self._cut, _CUT_SECONDS)

    def leave(self) -> None:
        """Tell it to drain and end, as soon as it listens."""
        self.leaving = True
        if self._is_ready:
            self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if not self.gone.is_set() and self._process.is_alive():
            os.kill(self.pid, number)

    async def kill(self) -> None:
        """End it as a crash does."""
        self.killed = True
        self._process.kill()
        await asyncio.wait_for(self.gone.wait(), 10)

    def _say(self, *word: object) -> None:
        try:
            self._pipe.send(word)
        except OSError:  # it has ended: what it said of that is there to read
            self._read()
            self._close()

    def _read(self) -> None:
        try:
            while self._pipe.poll():
                word, *rest = self._pipe.recv()
                match word:
                    case "at" if self._armed is not None:
                        self.stands.set()
                    case _ if word in self._told:
                        self._told[word].set()
                    case "ready":
                        self._is_ready = True
                        if self.leaving:
                            self.leave()
                    case "cut" if self._cut is not None and not self._cut.done():
                        self._cut.set_result(rest[0])
                    case "ended":
                        self.has_ended = True
                        self.error, self.is_retriable = rest
        except (EOFError, OSError):
            self._close()

    def _close(self) -> None:
        """Note that it has ended: the pipe's other end is gone."""
        if self.gone.is_set():
            return
        asyncio.get_running_loop().remove_reader(self._pipe.fileno())
        self._pipe.close()
        if self._cut is not None and not self._cut.done():
            self._cut.set_result(0)
        self.gone.set()
