"""The workers of one job as a supervisor keeps them: whatever ends is replaced."""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from time import monotonic

from tests.crash.member import Armed, Member
from tests.crash.process import Start

__all__ = ["MEMBERS", "Supervised"]

MEMBERS = 2  # of each job, on each Postgres server
_BROKEN_AT_MOST = 20
_LEAVE_SECONDS = 25.0  # a drain, and what an end may take beyond it
_LOOK_SECONDS = 0.25


class Supervised:
    """Two members on each Postgres server, or one more for a moment; whatever ends is replaced."""

    def __init__(self, starts: Sequence[Start]) -> None:
        """Take what members are started with, for each server once."""
        self.starts = starts
        self.job = starts[0].job
        self.ends: Counter[str] = Counter()  # how members ended by themselves
        self.broken: list[str] = []  # ends that no restart helps
        self._next = cycle(starts)
        self._members: list[Member] = []
        self._leavers: list[tuple[Member, float]] = []
        self._is_busy = False

    async def keep(self) -> None:
        """Replace what ends until cancelled, except while a fault is made: other jobs' lanes wait for these."""
        while True:
            if not self._is_busy:
                self.ensure()
            await asyncio.sleep(_LOOK_SECONDS)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Leave the members to a fault that is made."""
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def ensure(self) -> None:
        """Replace members that ended, and let go of those that are too many."""
        for member in [each for each in self._members if each.gone.is_set()]:
            self._members.remove(member)
            self._note_end(member)
        self._see_off()
        for start in self.starts:
            own = [each for each in self._members if each.start is start]
            for _ in range(MEMBERS - len(own)):
                self.join(start=start)
            for member in [each for each in own if each.is_free][: max(0, len(own) - MEMBERS)]:
                self._dismiss(member)

    def join(self, armed: Armed | None = None, start: Start | None = None) -> Member:
        """Start a member: of a server, or of one after the other."""
        member = Member(start or next(self._next), armed)
        self._members.append(member)
        return member

    def _dismiss(self, member: Member) -> None:
        self._members.remove(member)
        self._leavers.append((member, monotonic()))
        member.leave()

    def _note_end(self, member: Member) -> None:
        if member.error:
            self.ends[member.error[:160]] += 1
            if not member.is_retriable:
                self.broken.append(f"{self.job}: {member.error}")
        elif not (member.killed or (member.leaving and member.has_ended)):
            told = "that was told to end " if member.leaving else ""
            self.broken.append(f"{self.job}: a worker {told}ended with code {member.code} and without a word")
        if len(self.broken) > _BROKEN_AT_MOST:
            raise RuntimeError(f"nothing is to be learnt from going on: {self.broken}")

    async def end(self) -> None:
        """Tell all to drain, and wait for their ends."""
        for member in list(self._members):
            self._dismiss(member)
        async with asyncio.timeout(_LEAVE_SECONDS * 2):
            while self._leavers:
                self._see_off()
                await asyncio.sleep(0.05)

    def _see_off(self) -> None:
        """Look who of the leavers has ended, and end who takes too long."""
        for member, since in list(self._leavers):
            late = not member.gone.is_set() and monotonic() - since > _LEAVE_SECONDS
            if late:
                self.broken.append(f"{self.job}: a worker did not end within {_LEAVE_SECONDS:.0f} s")
                member.killed = True
                member.signal(signal.SIGKILL)
            if late or member.gone.is_set():
                self._leavers.remove((member, since))
                self._note_end(member)
