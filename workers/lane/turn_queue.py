"""The turns under way of one owner: decided side by side, of disjoint lanes, and published in order, one at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from workers.lane.deciding import Decided
from workers.lane.lane import Lane

__all__ = ["TurnQueue"]

# Turns at once: while one waits for Postgres, the other's records are decoded. A backlog of both topics, whose lanes
# take turns at each billing event, is not worked off faster (4,549 sends a second on 2 cores) by one Kafka transaction
# for all that was decided meanwhile (4,360), nor if a turn of few records waits 20 ms for more (2,928).
_MOST_DECIDED = 2

Decide = Callable[[], Awaitable[Sequence[Decided]]]
Publish = Callable[[Sequence[Decided]], Awaitable[None]]


class TurnQueue:
    """Holds turns from their beginning until their answers are published."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Take what to call when a turn has been decided, published, or has failed."""
        self._changed = changed
        self._turns: deque[asyncio.Task[None]] = deque()
        self._publishing: asyncio.Task[None] | None = None  # the turn that was published last, or is being
        self._deciding: list[Sequence[Lane]] = []
        self._is_alone = False  # no other turn may be decided now
        self._unpublished = 0  # turns that are decided and wait for the one before

    @property
    def is_full(self) -> bool:
        """Whether no further turn may begin now."""
        has_failed = any(turn.done() and (turn.cancelled() or turn.exception()) for turn in self._turns)
        return has_failed or self._unpublished > 0 or self._is_alone or len(self._deciding) >= _MOST_DECIDED

    @property
    def deciding(self) -> set[Lane]:
        """The lanes of turns that are not decided: those of a turn that failed are so until `end`."""
        return {lane for lanes in self._deciding for lane in lanes}

    async def begin(self, lanes: Sequence[Lane], decide: Decide, publish: Publish, *, alone: bool = False) -> None:
        """Begin a turn of lanes none of which is in `deciding`. It is decided alone if its order among others matters.

        Raises what an earlier turn raised, if it has to be waited for.
        """
        if alone:
            await self.finish()
        self._is_alone = alone
        turn = asyncio.create_task(self._work(lanes, decide, publish, self._turns[-1] if self._turns else None))
        self._deciding.append(lanes)
        self._turns.append(turn)
        turn.add_done_callback(lambda _: self._changed())

    async def _work(
        self, lanes: Sequence[Lane], decide: Decide, publish: Publish, before: "asyncio.Task[None] | None"
    ) -> None:
        decided = await decide()
        del decide  # and with it the turn's records: their memory is for the next turn
        # After an error its lanes stay: what was taken of them is gone, and what follows it must not be stored.
        self._deciding.remove(lanes)
        self._is_alone = False
        self._changed()
        if before is not None:
            if not before.done():
                self._unpublished += 1
                await asyncio.wait([before])
                self._unpublished -= 1
                self._changed()
            before.result()  # nothing is published after a turn that was not
        if decided:
            self._publishing = asyncio.current_task()
            await publish(decided)

    def raise_failures(self) -> None:
        """Raise what ended the first turn that failed. It stays until `end`, so that none begins after it."""
        while self._turns and self._turns[0].done():
            self._turns[0].result()
            self._turns.popleft()

    async def finish(self) -> None:
        """Wait until all turns are published; raise what ended one.

        Waits beside the tasks instead of awaiting them: whoever cancels the owner must not cancel a commit.
        """
        if self._turns:
            await asyncio.wait(self._turns)
        self.raise_failures()

    async def end(self) -> None:
        """End all turns: none may store anything beside the owner's next beginning. What is being published goes on."""
        for turn in self._turns:
            if turn is not self._publishing:
                turn.cancel()
        if self._turns:
            await asyncio.wait(self._turns)
        for turn in self._turns:
            if not turn.cancelled():
                turn.exception()  # seen: whatever ended the owner is on its way up already
        self._turns.clear()
        self._deciding.clear()
        self._unpublished, self._is_alone = 0, False
