"""The openings under way of one owner: each opens some lanes, beside the turns of the others."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from workers.lane.lane import Lane

__all__ = ["Openings"]


class Openings:
    """Holds openings from their beginning until their end was seen."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Take what to call when an opening has ended."""
        self._changed = changed
        self._tasks: dict[asyncio.Task[None], set[Lane]] = {}

    @property
    def lanes(self) -> set[Lane]:
        """The lanes that are being opened, without those that an opening has opened before it is done with others."""
        return {lane for lanes in self._tasks.values() for lane in lanes if not lane.is_open}

    def begin(self, lanes: Sequence[Lane], opening: Coroutine[Any, Any, None]) -> None:
        """Begin to open lanes that no opening works on, or one only that ends with beginning this one."""
        task = asyncio.create_task(opening)
        self._tasks[task] = set(lanes)
        task.add_done_callback(lambda _: self._changed())

    def forget(self, lane: Lane) -> None:
        """Let a lane that was opened be opened again, also while its opening works on others."""
        for lanes in self._tasks.values():
            lanes.discard(lane)

    def raise_failures(self) -> None:
        """Raise what ended an opening; forget those that have ended well."""
        for task in [each for each in self._tasks if each.done()]:
            del self._tasks[task]
            task.result()

    def cancel(self) -> None:
        """Let no opening do a further step: it would seek, or store, beside what whoever comes next does."""
        for task in self._tasks:
            if not task.cancelling():  # a second one would break off what the first one has it clean up
                task.cancel()

    async def end(self) -> None:
        """Cancel the openings, and wait until each has ended."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
