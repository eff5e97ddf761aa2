"""Limits on the console's queries: how long each may take, and how many run side by side."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from infra.settings import Settings
from workers.ops.books.server_locks import explaining_locks

__all__ = ["QueryLimiter"]

_SIDE_BY_SIDE: Final = 3  # queries that run side by side, however many pages are open


@dataclass(slots=True)
class QueryLimiter:
    """Limits how many of the console's queries run side by side, and how long each may take.

    A query opens and closes its own database connection, because the commands' functions that it calls each read one
    snapshot. A pool would save a few milliseconds, and would hold connections all night for a page without viewers.
    With one connection for the shared sample and another for the lag observer, the console has at most five
    connections, in addition to those of running operations.
    """

    settings: Settings
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_SIDE_BY_SIDE))

    def __post_init__(self) -> None:
        # Each statement and each attempt to connect ends by then, on the server too: the client cancels it there.
        limit = self.settings.console_timeout_seconds
        self.settings = self.settings.model_copy(update={"database_timeout_seconds": limit})

    @asynccontextmanager
    async def slot(self, times: float = 1.0) -> AsyncIterator[Settings]:
        """Wait for a free slot and yield the settings to query with.

        Args:
            times: the limit, wait included, in multiples of INMAIL_CONSOLE_TIMEOUT_SECONDS.

        Raises:
            TimeoutError: when the limit is reached.
            LockedError: when a statement gave up waiting for a lock.

        """
        limit = asyncio.timeout(self.settings.console_timeout_seconds * times)
        async with limit, self._slots, explaining_locks(self.settings):
            yield self.settings

    @asynccontextmanager
    async def sample_slot(self) -> AsyncIterator[Settings]:
        """Yield the settings for the shared sample, which waits for no slot: a busy console is no slow server.

        Raises:
            TimeoutError: when the sample takes longer than INMAIL_CONSOLE_TIMEOUT_SECONDS.

        """
        async with asyncio.timeout(self.settings.console_timeout_seconds), explaining_locks(self.settings):
            yield self.settings
