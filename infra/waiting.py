"""Names the server that a command is waiting for, once it has not answered for some seconds; says how far it has read.

Clients of Kafka and Postgres mark each request with `waiting_for`. A command that people look at runs a `WaitWatch`,
which reports a request that takes long, and a long read of many. A request that times out says of which server.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from time import monotonic
from typing import Final, NamedTuple

__all__ = ["FIRST_SECONDS", "NoAnswerError", "WaitWatch", "reading", "waiting_for", "watched"]

FIRST_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.25


class NoAnswerError(TimeoutError):
    """A server gave no answer in time. The message says which, and what it was asked."""


class _Wait(NamedTuple):
    server: str
    action: str
    since: float  # monotonic


class _LongRead(NamedTuple):
    describe: Callable[[], str]
    due: float  # monotonic


class WaitWatch:
    """Reports each server that has not answered for 5 s, and how far a long read is, and again every 10 s."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Create a watch.

        Args:
            tell: called with a sentence that names the server, the action and the seconds so far.

        """
        self._tell = tell
        self._waits: dict[object, _Wait] = {}
        self._due: dict[str, float] = {}  # seconds of waiting at which the server is reported next
        self._reads: dict[object, _LongRead] = {}

    @contextmanager
    def wait(self, server: str, action: str, since: float | None) -> Iterator[None]:
        """Mark a request for the time of the block."""
        token = object()
        self._waits[token] = _Wait(server, action, monotonic() if since is None else since)
        try:
            yield
        finally:
            del self._waits[token]

    @contextmanager
    def read(self, describe: Callable[[], str]) -> Iterator[None]:
        """Mark a long read for the time of the block."""
        token = object()
        self._reads[token] = _LongRead(describe, monotonic() + FIRST_SECONDS)
        try:
            yield
        finally:
            del self._reads[token]

    async def run(self) -> None:
        """Report waits until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.report(monotonic())

    def report(self, now: float) -> None:
        """Report the oldest request of each server, and the reads, that are due at a monotonic time."""
        for token, read in self._reads.items():
            if now >= read.due:
                self._reads[token] = read._replace(due=now + _AGAIN_SECONDS)
                self._tell(read.describe())
        oldest: dict[str, _Wait] = {}
        for wait in self._waits.values():
            if wait.server not in oldest or wait.since < oldest[wait.server].since:
                oldest[wait.server] = wait
        for server in [server for server in self._due if server not in oldest]:
            del self._due[server]
        for server, wait in oldest.items():
            seconds = now - wait.since
            if seconds < FIRST_SECONDS:
                self._due.pop(server, None)
            elif seconds >= self._due.get(server, 0.0):
                self._due[server] = seconds + _AGAIN_SECONDS
                self._tell(f"waiting for {server}: no answer for {seconds:.0f} s ({wait.action})")


_WATCH: ContextVar[WaitWatch | None] = ContextVar("wait_watch", default=None)


@contextmanager
def watched(watch: WaitWatch) -> Iterator[None]:
    """Let a watch see the requests of the block and of the tasks that start in it."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


@contextmanager
def reading(describe: Callable[[], str]) -> Iterator[None]:
    """Mark the block as a long read; `describe` returns in words how far it is."""
    watch = _WATCH.get()
    with nullcontext() if watch is None else watch.read(describe):
        yield


@contextmanager
def waiting_for(server: str, action: str, since: float | None = None) -> Iterator[None]:
    """Mark the block as a request to a server.

    Args:
        server: its name and address, such as `Kafka at localhost:9092`.
        action: what is asked of it, in a few words.
        since: the monotonic time at which the wait began, if it is not now.

    Raises:
        NoAnswerError: in place of a TimeoutError of the block, which does not know its server.

    """
    watch = _WATCH.get()
    try:
        with nullcontext() if watch is None else watch.wait(server, action, since):
            yield
    except NoAnswerError:
        raise
    except TimeoutError as error:
        raise NoAnswerError(f"{server} gives no answer in time ({action})") from error
