"""The workers of one job on their way to a fault: how a member is brought to a point."""

import asyncio
from collections.abc import Sequence
from random import Random
from time import monotonic
from typing import NamedTuple

from aiokafka.errors import KafkaError

from infra.local.stack import LocalStack
from schemas.catalogue import CATALOGUE
from tests.crash.books import Books
from tests.crash.load import Inputs, Load
from tests.crash.member import Armed, Member
from tests.crash.points import POINTS, Cell, Phase, Trigger
from tests.crash.process import Start
from tests.crash.supervised import Supervised

__all__ = ["LOOK_SECONDS", "Approach", "NotMadeError", "Surroundings"]

# Of a try; each further one takes twice as long as the one before, as a rebalance and the opening of all lanes may on a
# busy machine: to begin it anew every 8 s would keep a worker from ever coming to its end.
_REACH_SECONDS, _LONGEST_SECONDS = 8.0, 32.0
_TRIES = 3
# Where the group has stored nothing during the last: nobody comes anywhere before a coordinator that has given up is
# started again, after a minute (`coordinators.py`). A point that nobody comes to in a group that works is no such one.
_TRIES_STANDING = 5
LOOK_SECONDS = 0.25  # between two looks at what members do
_MOST_WITHIN = 2  # awaits of one call, of which a worker stands at one
# Records at once, and from one such moment to the next: the lane that is to wait has to have caught up with the last.
# Then it is at a tick at once, while those that it waits for gather what came. Of steady load, ticks come last.
_HURRIED, _HURRY_SECONDS = 50, 1.5
_TOPICS = {(row.group or "").removeprefix("inmail-"): row.topic for row in CATALOGUE if row.group}


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


class Approach(Supervised):
    """Members that are brought to a point, where they stand."""

    def __init__(self, starts: Sequence[Start], around: Surroundings) -> None:
        super().__init__(starts)
        self.name = f"inmail-{self.job}"
        self.topic = _TOPICS[self.job]
        self._around = around

    async def reach(self, cell: Cell, start: Start | None = None) -> Member:
        """Bring a member to a point, any or one of those with a start, and return it as it stands there.

        Raises:
            NotMadeError: when none came in time, three times and more.

        """
        tries = 0
        while True:
            stored = await self._around.books.stored_by(self.name)
            armed = (cell.point, cell.phase, self._draw_count(cell, tries))
            standing = await self._try_to_reach(armed, start, min(_REACH_SECONDS * 2**tries, _LONGEST_SECONDS))
            if standing is not None:
                return standing
            tries += 1
            stands = await self._around.books.stored_by(self.name) == stored
            if tries >= (_TRIES_STANDING if stands else _TRIES):
                raise NotMadeError("nobody came to the point in time")

    async def _try_to_reach(self, armed: Armed, start: Start | None, seconds: float) -> Member | None:
        self.ensure()
        trigger = POINTS[armed[0]].trigger
        leaves_some = trigger in {Trigger.DOUBT, Trigger.RETENTION}
        if leaves_some and not await self._leave_unpublished(trigger, start, seconds):
            return None
        return await self._arm_until_one_stands(armed, trigger, start, seconds)

    def _draw_count(self, cell: Cell, tries: int) -> int:
        """Return the how manyeth time a worker stands there; within a call, at the how manyeth await of it.

        The first try may ask for one more than there are.
        """
        if cell.phase is Phase.WITHIN:
            return 1 if tries else self._around.dice.randint(1, _MOST_WITHIN)
        return self._around.dice.randint(1, 3) if POINTS[cell.point].trigger is Trigger.WORK else 1

    async def _arm_until_one_stands(
        self, armed: Armed, trigger: Trigger, start: Start | None, seconds: float
    ) -> Member | None:
        for member in self._free(start):
            member.arm(armed)
        standing = await self._first(armed, trigger, start, seconds)
        self._disarm(standing)
        return standing

    def _free(self, start: Start | None) -> list[Member]:
        return [each for each in self._members if each.is_free and (start is None or each.start is start)]

    async def _first(self, armed: Armed, trigger: Trigger, start: Start | None, seconds: float) -> Member | None:
        """Do what brings members to a point, and return the first that stands within the time."""
        if trigger in {Trigger.JOIN, Trigger.DOUBT, Trigger.RETENTION}:
            self.join(armed, start)
        elif trigger is Trigger.LEAVE and (free := self._free(start)):
            self._dismiss(free[0])
        hurry_at, deadline = monotonic(), monotonic() + seconds
        while monotonic() < deadline:
            if trigger is Trigger.SUCCEED:
                await self._around.books.succeed(self.name)
            elif trigger is Trigger.BACKLOG and monotonic() >= hurry_at:
                hurry_at = monotonic() + _HURRY_SECONDS
                self._around.load.hurry(_HURRIED)
            candidates = self._members + [each for each, _ in self._leavers]
            waits = [asyncio.create_task(each.stands.wait()) for each in candidates if not each.gone.is_set()]
            await asyncio.wait(waits or [asyncio.create_task(asyncio.sleep(LOOK_SECONDS))],
                               timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            for wait in waits:
                wait.cancel()
            for member in candidates:
                if member.stands.is_set() and not member.gone.is_set():
                    return member
            for member in [each for each in self._members if each.gone.is_set()]:
                self._members.remove(member)
                self._note_end(member)
                self.join(armed if start in (None, member.start) else None, member.start)
        return None

    async def _leave_unpublished(self, trigger: Trigger, start: Start | None, seconds: float) -> bool:
        """Kill an owner between its two commits, and let retention take what it left if that is asked for.

        Return whether something was left, or taken.
        """
        standing = await self._arm_until_one_stands(("confirm", Phase.BEFORE, 1), Trigger.WORK, start, seconds)
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
