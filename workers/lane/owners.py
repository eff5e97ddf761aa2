"""The owners of one worker: one for all its lanes, and one for each lane that kept the others from their turns."""

import asyncio
from collections.abc import Sequence
from time import monotonic

import structlog

from workers.errors import task_error
from workers.lane.lane import Lane
from workers.lane.turn import LaneOwner
from workers.lane.work import Work

__all__ = ["Owners"]

_LOOK_SECONDS = 0.5
_SOUND_SECONDS = 5.0  # of a lane that is alone, open and has nothing to do, before it joins the others again


class Owners:
    """Gives lanes to owners. `failed` raises what an owner ended of."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._apart: dict[Lane, asyncio.Task[None]] = {}
        self._stopping = False
        self._start()

    def _start(self) -> None:
        self._main = LaneOwner(self._work, self._set_apart)
        self._task = asyncio.create_task(self._main.run(), name="owner of all lanes")
        self._task.add_done_callback(self._see_end)

    def adopt(self, lanes: Sequence[Lane]) -> None:
        """Open lanes and work them."""
        self._main.adopt(lanes)

    async def give_up(self, lanes: Sequence[Lane], seconds: float) -> bool:
        """Finish what is at hand of lanes and give them back, within the time for it; return whether that was done.

        Otherwise what is under way is cancelled: what is stored and not published goes out when the lanes are assigned
        next.
        """
        for lane in lanes:
            lane.is_leaving = True
        together = self._main.give_up(lanes)
        alone = [self._apart[lane] for lane in lanes if lane in self._apart]
        if await _are_done([*together, *alone], self.failed, seconds):
            return True
        for task in alone:
            task.cancel()
        if not all(each.done() for each in together):
            self._task.remove_done_callback(self._see_end)
            self._task.cancel()
            self._start()
        return False

    async def stop(self) -> None:
        """End the owners, which have no lanes any more."""
        self._stopping = True
        self._main.stop()
        await asyncio.wait([self._task])

    def _see_end(self, task: "asyncio.Task[None]") -> None:
        error = task_error(task, stopped=self._stopping)
        if error is not None and not self.failed.done():
            self.failed.set_exception(error)

    # -- lanes alone --------------------------------------------------------------------------------------------------

    def _set_apart(self, lanes: Sequence[Lane]) -> None:
        structlog.get_logger("inmail.worker").warning(
            "lanes_set_apart", worker=self._work.job.group, partitions=sorted(lane.partition for lane in lanes)
        )
        for lane in lanes:
            self._apart[lane] = asyncio.create_task(self._work_apart(lane), name=f"owner of lane {lane.partition}")
            self._apart[lane].add_done_callback(self._see_end_apart)

    def _see_end_apart(self, task: "asyncio.Task[None]") -> None:
        self._apart = {lane: each for lane, each in self._apart.items() if each is not task}
        if not task.cancelled():
            self._see_end(task)

    async def _work_apart(self, lane: Lane) -> None:
        """Work one lane alone until it has published something, or has nothing to do; then with the others again."""
        owner = LaneOwner(self._work, self._set_apart)
        owner.adopt([lane])
        running = asyncio.create_task(owner.run())
        try:
            idle_from = monotonic()
            while not (running.done() or lane.is_leaving or owner.published_at is not None):
                await asyncio.wait([running], timeout=_LOOK_SECONDS)
                if not lane.is_open or lane.at_hand or len(lane.inbox):
                    idle_from = monotonic()
                elif monotonic() - idle_from > _SOUND_SECONDS:
                    break
            owner.stop()
            owner.give_up([lane])
            await asyncio.wait([running])
            running.result()
        finally:
            running.cancel()
        if not lane.is_leaving:
            self._main.adopt([lane])


async def _are_done(waits: "list[asyncio.Future[None]]", failed: "asyncio.Future[None]", seconds: float) -> bool:
    """Wait for all of some futures, at most so long or until another one fails; return whether all are done."""
    deadline = monotonic() + seconds
    while pending := [each for each in waits if not each.done()]:
        await asyncio.wait([*pending, failed], timeout=deadline - monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if failed.done() or monotonic() >= deadline:
            break
    return not pending
