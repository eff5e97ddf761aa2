"""Reading for the console: never for longer than a person waits, and never so much at once that the workers notice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from infra.settings import Settings

__all__ = ["Reading"]

_TOGETHER: Final = 3  # pages that are answered at once, however many are open


@dataclass(slots=True)
class Reading:
    """The settings to read with, and the turn of who reads.

    A turn opens a connection of its own to the books, and closes it: what it calls are the commands' own functions,
    each of which reads one snapshot. A pool would spare the few milliseconds of connecting, and would hold connections
    all night for a page that nobody looks at. The shared look has one, and the observer of lag another that stays open:
    five in all, beside those of operations under way.
    """

    settings: Settings
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_TOGETHER))

    def __post_init__(self) -> None:
        # Each statement and each attempt to connect ends by then, on the server too: the client cancels it there.
        limit = self.settings.console_timeout_seconds
        self.settings = self.settings.model_copy(update={"database_timeout_seconds": limit})

    @asynccontextmanager
    async def turn(self, times: float = 1.0) -> AsyncIterator[Settings]:
        """Wait for a turn and give the settings to read with.

        Args:
            times: how many times INMAIL_CONSOLE_TIMEOUT_SECONDS the whole may take, the wait included.

        Raises:
            TimeoutError: when it takes longer.

        """
        async with asyncio.timeout(self.settings.console_timeout_seconds * times), self._turns:
            yield self.settings

    @asynccontextmanager
    async def look(self) -> AsyncIterator[Settings]:
        """Give the settings to take the shared look with. It waits for no page: it would call slow what is only busy.

        Raises:
            TimeoutError: when it takes longer than INMAIL_CONSOLE_TIMEOUT_SECONDS.

        """
        async with asyncio.timeout(self.settings.console_timeout_seconds):
            yield self.settings
