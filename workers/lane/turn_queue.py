"""The turns under way of one owner: decided side by side, of disjoint lanes, and published in order, one at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from math import inf
from time import monotonic
from typing import cast

from infra.first_of import wait_for_event
from workers.lane.deciding import Decided
from workers.lane.lane import Lane

__all__ = ["TurnQueue"]

# Turns at once: while one waits for Postgres, the other's records are decoded. A backlog of both topics, whose lanes
# take turns at each billing event, is not worked off faster (4,549 sends a second on 2 cores) by one Kafka transaction
# for all that was decided meanwhile (4,360), nor if a turn of few records waits 20 ms for more (2,928).
_MOST_DECIDED = 2
_MOST_GATHERED = 250  # answers: more fill a transaction of their own

Decide = Callable[[], Awaitable[Sequence[Decided]]]
Publish = Callable[[Sequence[Decided]], Awaitable[None]]


class TurnQueue:
    """Holds turns from their beginning until their answers are published."""

    def __init__(self, changed: Callable[[], None], gather_seconds: float = 0.0) -> None:
        """Take what to call when a turn has been decided, published, or has failed.

        Args:
            changed: the function to call.
            gather_seconds: at least, from one publication to the next: small turns share one. 0: each has its own.

        """
        self._changed, self._gather_seconds = changed, gather_seconds
        self._turns: deque[asyncio.Task[None]] = deque()
        self._decided: dict[asyncio.Task[None], Sequence[Decided]] = {}  # of turns, until they are being published
        self._published_at = -inf
        self._is_gathering, self._hurry = False, asyncio.Event()
        self._publishing: asyncio.Task[None] | None = None  # the turn that was published last, or is being
        self._deciding: list[Sequence[Lane]] = []
        self._is_alone = False  # no other turn may be decided now

    @property
    def is_full(self) -> bool:
        """Whether no further turn may begin now."""
        has_failed = any(turn.done() and (turn.cancelled() or turn.exception()) for turn in self._turns)
        must_wait = len(self._decided) > 0 and not self._is_gathering  # one waits for what is being published
        return has_failed or must_wait or self._is_alone or len(self._deciding) >= _MOST_DECIDED

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
        self._hurry.clear()
        turn = asyncio.create_task(self._work(lanes, decide, publish, self._turns[-1] if self._turns else None))
        self._deciding.append(lanes)
        self._turns.append(turn)
        turn.add_done_callback(lambda _: self._changed())

    async def _work(
        self, lanes: Sequence[Lane], decide: Decide, publish: Publish, before: "asyncio.Task[None] | None"
    ) -> None:
        this = cast("asyncio.Task[None]", asyncio.current_task())
        self._decided[this] = await decide()
        del decide  # and with it the turn's records: their memory is for the next turn
        # After an error its lanes stay: what was taken of them is gone, and what follows it must not be stored.
        self._deciding.remove(lanes)
        self._is_alone = False
        self._changed()
        if before is not None:
            if not before.done():
                self._hurry_if_full()
                await asyncio.wait([before])
            before.result()  # nothing is published after a turn that was not
        if this in self._decided:  # else it was published with one before it
            await self._gather()
            if decided := self._take_decided(this):
                self._publishing = this
                self._changed()
                await publish(decided)
                self._published_at = monotonic()

    async def _gather(self) -> None:
        """Wait until it is time to publish again, for turns that are decided meanwhile."""
        seconds = self._published_at + self._gather_seconds - monotonic()
        if seconds > 0:
            self._is_gathering = True
            self._changed()
            self._hurry_if_full()
            await wait_for_event(self._hurry, seconds)
            self._is_gathering = False

    def _hurry_if_full(self) -> None:
        if sum(len(each.messages) for decided in self._decided.values() for each in decided) >= _MOST_GATHERED:
            self._hurry.set()

    def _take_decided(self, first: "asyncio.Task[None]") -> list[Decided]:
        """Return what was decided by a turn and, where turns are gathered, by those after it up to one that is not."""
        together = list(self._decided.pop(first))
        if self._gather_seconds:
            for turn in islice(self._turns, self._turns.index(first) + 1, None):
                if turn not in self._decided:
                    break
                together += self._decided.pop(turn)
        return together

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
            self._hurry.set()
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
        self._decided.clear()
        self._deciding.clear()
        self._is_alone, self._is_gathering = False, False
