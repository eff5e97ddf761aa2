"""Reading for the console: never for longer than a person waits, and never so much at once that the workers notice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from infra.settings import Settings

__all__ = ["Reading"]

_TOGETHER: Final = 4  # connections to the books at most, however many pages are open


@dataclass(slots=True)
class Reading:
    """The settings to read with, and the turn of who reads."""

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
            times: how many times INMAIL_CONSOLE_TIMEOUT_SECONDS the whole may take.

        Raises:
            TimeoutError: when it takes longer.

        """
        async with asyncio.timeout(self.settings.console_timeout_seconds * times), self._turns:
            yield self.settings
