"""What the causes work on: the stack, the processes, the load, and two moments that the clock reads."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from time import monotonic

from infra.local.stack import LocalStack
from infra.settings import Settings
from tests.states.load import Load
from tests.states.members import Members
from tests.states.timeline import Right, Timeline

__all__ = ["CauseError", "State", "World"]


class CauseError(Exception):
    """A state could not be caused. The message says why."""


@dataclass(slots=True)
class World:
    """One run's stack and all that runs on it."""

    stack: LocalStack
    settings: Settings
    members: Members
    load: Load
    timeline: Timeline
    caused_at: float = 0.0
    ended_at: float = 0.0

    def caused(self) -> None:
        """The cause holds from now on: the clock of the state begins."""
        self.caused_at = monotonic()

    def ended(self) -> None:
        """It has ended: the clock of calm begins."""
        self.ended_at = monotonic()

    async def hears(self, surface: str, right: Right, seconds: float) -> bool:
        """Wait until a surface says something now; tell whether it did in time."""
        began = monotonic()
        while monotonic() - began < seconds:
            if right.of(self.timeline.words(surface)) is not None:
                return True
            await asyncio.sleep(0.2)
        return False


@dataclass(frozen=True, slots=True)
class State:
    """One state of the system: how it is caused and ended, and what each surface should say."""

    name: str
    how: str  # it is caused
    until: str  # how it ends
    cause: Callable[[World], AbstractAsyncContextManager[None]]
    rights: dict[str, Right] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)  # surfaces that have nothing to say, and why
    may_speak: frozenset[str] = frozenset()  # of these, those that have something to say of how it is caused
    least_seconds: float = 0.0  # that it lasts, said or not
    most_seconds: float = 120.0
    calm_seconds: float = 90.0  # that calm is waited for
    databases: int = 1  # Postgres servers; with several, each has workers of its own
