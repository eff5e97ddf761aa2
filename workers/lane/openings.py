"""The openings under way of one owner: each opens some lanes, beside the turns of the others."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from infra.retry import SERVER_ERRORS
from workers.errors import FencedError
from workers.lane.lane import Lane

__all__ = ["Openings"]

_END_SECONDS = 5.0  # that what a first cancellation has to clean up may take


class Openings:
    """Holds openings from their beginning until their end was seen."""

    def __init__(self, changed: Callable[[], None], failed: Callable[[Sequence[Lane], Exception], None]) -> None:
        """Take what to call when an opening has ended, and when a server's error, or a newer owner, has ended one."""
        self._changed, self._failed = changed, failed
        self._tasks: dict[asyncio.Task[None], set[Lane]] = {}

    @property
    def lanes(self) -> set[Lane]:
        """The lanes that are being opened, without those that an opening has opened before it is done with others."""
        return {lane for lanes in self._tasks.values() for lane in lanes if not lane.is_open}

    def begin(self, lanes: Sequence[Lane], opening: Coroutine[Any, Any, None]) -> None:
        """Begin to open lanes that no opening works on, or one only that ends with beginning this one."""
        task = asyncio.create_task(self._run(lanes, opening))
        self._tasks[task] = set(lanes)
        task.add_done_callback(lambda _: self._see_end(opening))

    async def _run(self, lanes: Sequence[Lane], opening: Coroutine[Any, Any, None]) -> None:
        try:
            await opening
        except (FencedError, *SERVER_ERRORS) as error:
            self._failed(lanes, error)

    def _see_end(self, opening: Coroutine[Any, Any, None]) -> None:
        opening.close()  # one that was cancelled before it began
        self._changed()

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
        """Cancel the openings, and wait until each has ended.

        One may go on, or begin another, all the same: a client that is closing may swallow the cancellation.
        """
        while running := [each for each in self._tasks if not each.done()]:
            self.cancel()
            _, late = await asyncio.wait(running, timeout=_END_SECONDS)
            for task in late:
                task.cancel()
        for task in self._tasks:
            if not task.cancelled():
                task.exception()  # seen: whoever ends the openings has another reason
        self._tasks.clear()
