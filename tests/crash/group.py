"""The workers of one job under fault: how a member is brought to a point, and what meets it there."""

import asyncio
import contextlib
import signal
from random import Random
from time import monotonic
from typing import NamedTuple

from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from infra.kafka.clients import admin_client
from infra.local.stack import LocalStack
from schemas.catalogue import CATALOGUE, CREDIT_EVENTS, SEND_RESULTS
from tests.crash.books import Books
from tests.crash.load import Inputs, Load, refuse_results
from tests.crash.member import Armed, Member
from tests.crash.points import POINTS, Cell, Kind, Phase, Trigger
from tests.crash.process import SESSION_SECONDS, Start, application
from tests.crash.supervised import MEMBERS, Supervised

__all__ = ["Group", "NotMadeError", "Surroundings"]

# Of a try; each further one takes twice as long as the one before, as a rebalance and the opening of all lanes may on a
# busy machine: to begin it anew every 8 s would keep a worker from ever coming to its end.
_REACH_SECONDS, _LONGEST_SECONDS = 8.0, 32.0
_TRIES = 3
# Where the group has stored nothing during the last: nobody comes anywhere before a coordinator that has given up is
# started again, after a minute (`coordinators.py`). A point that nobody comes to in a group that works is no such one.
_TRIES_STANDING = 5
_LOOK_SECONDS = 0.25
_REFUSED_SECONDS = 0.7
_BESIDE_SECONDS = 0.4  # before a kill: beside what stands, as the publishing of a turn, the next turn is stored
_MOST_WITHIN = 2  # awaits of one call, of which a worker stands at one
_HURRIED = 50  # records more at once, for each look at who stands
_JOINED_SECONDS = 5.0
_EFFECT_SECONDS = 30.0  # for a fault to show: a takeover takes a session, a rebalance and the opening of all lanes
_TOPICS = {(row.group or "").removeprefix("inmail-"): row.topic for row in CATALOGUE if row.group}

_RESULTS = {"send": SEND_RESULTS, "billing": CREDIT_EVENTS, "expiry": CREDIT_EVENTS}


class Surroundings(NamedTuple):
    """What the groups share."""

    stack: LocalStack
    books: Books
    inputs: Inputs
    load: Load
    dice: Random
    frozen_seconds: float | None = None  # how long a zombie sleeps; None: until others have its partitions


class NotMadeError(Exception):
    """A fault was not made, or had no effect; with why."""


class Group(Supervised):
    """Two members, or three for a moment, which a fault can meet at a point."""

    def __init__(self, start: Start, around: Surroundings) -> None:
        super().__init__(start)
        self.name = f"inmail-{start.job}"
        self.topic = _TOPICS[start.job]
        self._around = around

    # -- to a point ---------------------------------------------------------------------------------------------------

    async def reach(self, cell: Cell) -> Member:
        """Bring a member to a point and return it as it stands there.

        Raises:
            NotMadeError: when none came in time, three times and more.

        """
        tries = 0
        while True:
            stored = await self._around.books.stored_by(self.name)
            armed = (cell.point, cell.phase, self._draw_count(cell, tries))
            standing = await self._try_to_reach(armed, min(_REACH_SECONDS * 2**tries, _LONGEST_SECONDS))
            if standing is not None:
                return standing
            tries += 1
            stands = await self._around.books.stored_by(self.name) == stored
            if tries >= (_TRIES_STANDING if stands else _TRIES):
                raise NotMadeError("nobody came to the point in time")

    async def _try_to_reach(self, armed: Armed, seconds: float) -> Member | None:
        self.ensure()
        trigger = POINTS[armed[0]].trigger
        leaves_some = trigger in {Trigger.DOUBT, Trigger.RETENTION}
        if leaves_some and not await self._leave_unpublished(trigger, seconds):
            return None
        for member in self._members:
            if member.is_free:
                member.arm(armed)
        standing = await self._first(armed, trigger, seconds)
        self._disarm(standing)
        return standing

    def _draw_count(self, cell: Cell, tries: int) -> int:
        """Return the how manyeth time a worker stands there; within a call, at the how manyeth await of it.

        The first try may ask for one more than there are.
        """
        if cell.phase is Phase.WITHIN:
            return 1 if tries else self._around.dice.randint(1, _MOST_WITHIN)
        is_passed_often = POINTS[cell.point].trigger in {Trigger.WORK, Trigger.BACKLOG}
        return self._around.dice.randint(1, 3) if is_passed_often else 1

    async def _first(self, armed: Armed, trigger: Trigger, seconds: float) -> Member | None:
        """Do what brings members to a point, and return the first that stands within the time."""
        if trigger in {Trigger.JOIN, Trigger.DOUBT, Trigger.RETENTION}:
            self.join(armed)
        elif trigger is Trigger.LEAVE:
            self._dismiss(self._members[0])
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            if trigger is Trigger.SUCCEED:
                await self._around.books.succeed(self.name)
            elif trigger is Trigger.BACKLOG:
                self._around.load.hurry(_HURRIED)
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

    async def _leave_unpublished(self, trigger: Trigger, seconds: float) -> bool:
        """Kill an owner between its two commits, and let retention take what it left if that is asked for.

        Return whether something was left, or taken.
        """
        armed = ("confirm", Phase.BEFORE, 1)
        for member in self._members:
            if member.is_free:
                member.arm(armed)
        standing = await self._first(armed, Trigger.WORK, seconds)
        self._disarm(standing)
        if standing is None:
            return False
        is_left = True
        if trigger is Trigger.RETENTION:
            try:
                is_left = await self._around.inputs.remove_unpublished(self.name, self.topic)
            except (KafkaError, TimeoutError):  # a broker that was killed a moment ago may not know yet
                is_left = False
        await standing.kill()
        if standing in self._members:
            self._members.remove(standing)
        return is_left

    def _disarm(self, standing: Member | None) -> None:
        """Let all go on but the one that a fault is to meet."""
        for member in [*self._members, *(each for each, _ in self._leavers)]:
            if member is not standing:
                member.arm(None)

    # -- what meets it there ------------------------------------------------------------------------------------------

    async def meet(self, kind: Kind, member: Member) -> None:
        """Let a fault meet a member that stands, and let it go on if it can.

        Raises:
            NotMadeError: when the fault had no effect.

        """
        if member.gone.is_set():
            raise NotMadeError("the worker at the point had ended")
        try:
            await self._meet(kind, member)
        finally:
            if not member.gone.is_set():
                member.go()

    async def _meet(self, kind: Kind, member: Member) -> None:
        match kind:
            case Kind.KILLED:
                await asyncio.sleep(self._around.dice.uniform(0, _BESIDE_SECONDS))
                await member.kill()
            case Kind.KAFKA_CUT:
                if not await member.cut("kafka"):
                    raise NotMadeError("no connection to Kafka was open")
            case Kind.POSTGRES_CUT:
                await self._cut_postgres(member)
            case Kind.FROZEN:
                await self._freeze(member)
            case Kind.REBALANCE:
                await self._rebalance(member)
            case Kind.REFUSED:
                await self._refuse(member)
            case Kind.CANCELLED:
                await self._cancel(member)
            case _:
                raise ValueError(kind)

    async def _cut_postgres(self, member: Member) -> None:
        """Cut a worker's connections to Postgres at its own end, or at the server's."""
        if self._around.dice.random() < 0.5:
            ended = await member.cut("postgres")
        else:
            ended = await self._around.books.disconnect(application(member.pid))
        if not ended:
            raise NotMadeError("no connection to Postgres was open")

    async def _freeze(self, member: Member) -> None:
        """Stop a process past its session, until others have its partitions; or for as long as is asked.

        One that stands before it has joined its group joins it first: nobody would take anything over from it.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(member.joined.wait(), _JOINED_SECONDS)
        before = await self._around.books.epochs(self.name)
        member.signal(signal.SIGSTOP)
        try:
            if self._around.frozen_seconds is not None:
                await asyncio.sleep(self._around.frozen_seconds)
                return
            deadline = monotonic() + _EFFECT_SECONDS
            while not await self._are_taken_over(before):
                if monotonic() > deadline:
                    raise NotMadeError("nobody took over from a frozen worker")
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            member.signal(signal.SIGCONT)

    async def _are_taken_over(self, before: dict[int, int]) -> bool:
        """Tell whether the epochs of all lanes have risen: eager rebalances open all lanes."""
        now = await self._around.books.epochs(self.name)
        return bool(now) and all(epoch > before.get(partition, 0) for partition, epoch in now.items())

    async def _rebalance(self, member: Member) -> None:
        """Let a member come or go, and wait until the one that stands is asked for its partitions, if it has any.

        One that stands still, or in the midst of a rebalance, hears of it only as it goes on.
        """
        before = await self._member_ids()
        member.revoking.clear()
        others = [each for each in self._members if each is not member and each.is_free]
        if len(self._members) > MEMBERS and others:
            self._dismiss(others[0])
        else:
            self.join()
        deadline = monotonic() + _EFFECT_SECONDS
        while not member.revoking.is_set() and await self._member_ids() == before:
            if monotonic() > deadline:
                raise NotMadeError("no rebalance began")
            await asyncio.sleep(_LOOK_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(member.revoking.wait(), SESSION_SECONDS / 2)

    async def _cancel(self, member: Member) -> None:
        """Let the group ask for the lanes of the one that stands in their opening, until that was cancelled there."""
        member.cancelled.clear()
        await self._rebalance(member)
        try:
            await asyncio.wait_for(member.cancelled.wait(), _EFFECT_SECONDS)
        except TimeoutError:
            raise NotMadeError("no opening was cancelled") from None

    async def _member_ids(self) -> set[str]:
        """Return the ids of the group's members: whoever comes or goes makes it rebalance.

        A coordinator that a broker's kill has moved, or that is loading, is asked again.
        """
        deadline = monotonic() + _EFFECT_SECONDS
        while True:
            try:
                return await self._ask_member_ids()
            except KafkaError:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(_LOOK_SECONDS)

    async def _ask_member_ids(self) -> set[str]:
        async with admin_client(self._start.settings) as admin:
            (response,) = await admin.describe_consumer_groups([self.name])
        error, *_, members = response.groups[0][:6]
        if error:
            raise GroupCoordinatorNotAvailableError(f"group {self.name}: error {error}")
        return {id_ for id_, *_ in members}

    async def _refuse(self, member: Member) -> None:
        """Let the broker refuse the job's results for a while, and until one was refused.

        Not those of other jobs: this one's lanes would wait for theirs, and publish nothing.
        """
        settings, topic = self._start.settings, _RESULTS[self.job]
        for each in self._members:
            each.refused.clear()
        await refuse_results(settings, topic, refuse=True)
        try:
            member.go()
            await asyncio.sleep(_REFUSED_SECONDS)
            deadline = monotonic() + _EFFECT_SECONDS
            while not any(each.refused.is_set() for each in [member, *self._members]):
                if monotonic() > deadline:
                    raise NotMadeError("no result was refused")
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await refuse_results(settings, topic, refuse=False)
