"""The workers of one job under fault: how a member is brought to a point, and what meets it there."""

import asyncio
import contextlib
import signal
from collections import Counter
from random import Random
from time import monotonic
from typing import NamedTuple

from aiokafka.errors import KafkaError

from infra.local.stack import LocalStack
from schemas.catalogue import CATALOGUE
from tests.crash.books import Books
from tests.crash.load import Inputs, refuse_results
from tests.crash.member import Member
from tests.crash.points import POINTS, Cell, Kind, Phase, Trigger
from tests.crash.process import SESSION_SECONDS, Start, application

__all__ = ["Group", "Surroundings"]

MEMBERS = 2
_REACH_SECONDS = 8.0
_LOOK_SECONDS = 0.25
_BROKEN_AT_MOST = 20
_REFUSED_SECONDS = 0.7
_LEAVE_SECONDS = 25.0  # a drain, and what an end may take beyond it
_TOPICS = {(row.group or "").removeprefix("inmail-"): row.topic for row in CATALOGUE if row.group}


class Surroundings(NamedTuple):
    """What the groups share."""

    stack: LocalStack
    books: Books
    inputs: Inputs
    dice: Random
    frozen_seconds: float | None = None  # how long a zombie sleeps; None: until others have its partitions


class Group:
    """Two members, or three for a moment; whatever ends is replaced."""

    def __init__(self, start: Start, around: Surroundings) -> None:
        self.job = start.job
        self.name = f"inmail-{start.job}"
        self.topic = _TOPICS[start.job]
        self.ends: Counter[str] = Counter()  # how members ended by themselves
        self.broken: list[str] = []  # ends that no restart helps
        self._start = start
        self._around = around
        self._members: list[Member] = []
        self._leavers: list[tuple[Member, float]] = []

    # -- members ------------------------------------------------------------------------------------------------------

    def ensure(self) -> None:
        """Replace members that ended, and let go of those that are too many."""
        for member in [each for each in self._members if each.gone.is_set()]:
            self._members.remove(member)
            self._note_end(member)
        self._see_off()
        while len(self._members) < MEMBERS:
            self.join()
        while len(self._members) > MEMBERS and (free := [each for each in self._members if each.is_free][:1]):
            self._dismiss(free[0])

    def join(self, armed: tuple[str, Phase, int] | None = None) -> Member:
        """Start a member."""
        member = Member(self._start, armed)
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

    # -- to a point ---------------------------------------------------------------------------------------------------

    async def reach(self, cell: Cell) -> Member | None:
        """Bring a member to a point and return it as it stands there; None when none came in time, twice."""
        point = POINTS[cell.point]
        for _ in range(2):
            self.ensure()
            count = self._around.dice.randint(1, 3) if point.trigger is Trigger.WORK else 1
            armed = (cell.point, cell.phase, count)
            if point.trigger is Trigger.RETENTION and not await self._remove_input():
                continue
            for member in self._members:
                if member.is_free:
                    member.arm(armed)
            standing = await self._first(armed, point.trigger)
            self._disarm(standing)
            if standing is not None:
                return standing
        return None

    async def _first(self, armed: tuple[str, Phase, int], trigger: Trigger) -> Member | None:
        """Do what brings members to a point, and return the first that stands."""
        if trigger in (Trigger.JOIN, Trigger.RETENTION):
            self.join(armed)
        elif trigger is Trigger.LEAVE:
            self._dismiss(self._members[0])
        deadline = monotonic() + _REACH_SECONDS
        while monotonic() < deadline:
            if trigger is Trigger.SUCCEED:
                await self._around.books.succeed(self.name)
            candidates = self._members + [each for each, _ in self._leavers]
            waits = [asyncio.create_task(each.stands.wait()) for each in candidates if not each.gone.is_set()]
            await asyncio.wait(waits or [asyncio.create_task(asyncio.sleep(_LOOK_SECONDS))],
                               timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            for wait in waits:
                wait.cancel()
            for member in candidates:
                if member.stands.is_set() and not member.gone.is_set():
                    return member
            for member in [each for each in self._members if each.gone.is_set()]:
                self._members.remove(member)
                self._note_end(member)
                self.join(armed)
        return None

    async def _remove_input(self) -> bool:
        """Kill an owner between its two commits, and let retention take what it stored and did not publish."""
        armed = ("confirm", Phase.BEFORE, 1)
        for member in self._members:
            if member.is_free:
                member.arm(armed)
        standing = await self._first(armed, Trigger.WORK)
        self._disarm(standing)
        if standing is None:
            return False
        try:
            removed = await self._around.inputs.remove_unpublished(self.name, self.topic)
        except (KafkaError, TimeoutError):  # a broker that was killed a moment ago may not know yet
            removed = False
        await standing.kill()
        if standing in self._members:
            self._members.remove(standing)
        return removed

    def _disarm(self, standing: Member | None) -> None:
        """Let all go on but the one that a fault is to meet."""
        for member in [*self._members, *(each for each, _ in self._leavers)]:
            if member is not standing:
                member.arm(None)

    # -- what meets it there ------------------------------------------------------------------------------------------

    async def meet(self, kind: Kind, member: Member) -> None:
        """Let a fault meet a member that stands, and let it go on if it can."""
        match kind:
            case Kind.KILLED:
                await member.kill()
            case Kind.KAFKA_CUT:
                member.cut("kafka")
            case Kind.POSTGRES_CUT if self._around.dice.random() < 0.5:
                member.cut("postgres")
            case Kind.POSTGRES_CUT:
                await self._around.books.disconnect(application(member.pid))
            case Kind.FROZEN:
                await self._freeze(member)
            case Kind.REBALANCE:
                await self._rebalance(member)
            case Kind.REFUSED:
                await refuse_results(self._start.settings, refuse=True)
                member.go()
                await asyncio.sleep(_REFUSED_SECONDS)
                await refuse_results(self._start.settings, refuse=False)
            case _:
                raise ValueError(kind)
        if not member.gone.is_set():
            member.go()

    async def _freeze(self, member: Member) -> None:
        """Stop a process past its session, until others have its partitions if they can; then wake it."""
        asleep = self._around.frozen_seconds
        before = await self._around.books.epochs(self.name)
        member.signal(signal.SIGSTOP)
        deadline = monotonic() + (asleep or 2.5 * SESSION_SECONDS)
        while monotonic() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)
            now = await self._around.books.epochs(self.name)
            if asleep is None and all(now.get(partition, 0) > epoch for partition, epoch in before.items()):
                break  # eager rebalances open all lanes anew
        member.signal(signal.SIGCONT)

    async def _rebalance(self, member: Member) -> None:
        """Let a member come or go, and wait until the one that stands is asked for its partitions, if it has any."""
        member.revoking.clear()
        others = [each for each in self._members if each is not member and each.is_free]
        if len(self._members) > MEMBERS and others:
            self._dismiss(others[0])
        else:
            self.join()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(member.revoking.wait(), SESSION_SECONDS / 2)
