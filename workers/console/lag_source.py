"""Where the console has lag from: one observer of all groups of the cluster, open for as long as the console is."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Final

from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS
from workers.ops.lag import GroupLag, LagObserver, Sample, StatusChange, observer
from workers.topology import TOPIC_OF_GROUP

__all__ = ["LagSource"]

_HISTORY_TIME_SHARE: Final = 0.7  # of the time for a look, until it is taken without the past


class LagSource:
    """Lag as it was seen last, and where the dead letters end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._observer: LagObserver | None = None
        self._exit_stack = AsyncExitStack()
        self.dead_letters_end = 0  # changes whenever one is added

    @property
    def groups(self) -> Sequence[GroupLag]:
        """All groups, by name and topic."""
        return self._observer.groups if self._observer is not None else ()

    @property
    def worker_groups(self) -> list[GroupLag]:
        """Those of the workers, each with the topic that it reads."""
        return [group for group in self.groups if TOPIC_OF_GROUP.get(group.group) == group.topic]

    @property
    def refreshed_at(self) -> datetime | None:
        """When they were seen; None: not yet."""
        return self._observer.refreshed_at if self._observer is not None else None

    async def refresh(self) -> None:
        """Look once. What was seen before stays where that fails.

        Raises:
            KafkaError: when the cluster cannot be reached.

        """
        if self._observer is None:
            await self._open(with_history=True)
        try:
            # The past is read once. Where there is too much of it, the present is told without.
            async with asyncio.timeout(self._settings.console_timeout_seconds * _HISTORY_TIME_SHARE) as limit:
                await self._refresh_once()
        except TimeoutError:
            if self.refreshed_at is not None or not limit.expired():
                raise
            await self.close()
            await self._open(with_history=False)
            await self._refresh_once()

    async def _refresh_once(self) -> None:
        assert self._observer is not None  # noqa: S101 - opened before
        await self._observer.refresh()
        self.dead_letters_end = await self._observer.written(DEAD_LETTERS)

    async def _open(self, *, with_history: bool) -> None:
        watched = observer(self._settings, every=True, remembers=with_history)
        self._observer = await self._exit_stack.enter_async_context(watched)

    async def close(self) -> None:
        """Let the clients go."""
        self._observer = None
        await self._exit_stack.aclose()

    def history(self, group: str, topic: str, partition: int) -> Sequence[Sample]:
        """Return how a partition was, the oldest sample first: also before the console began."""
        return self._observer.history(group, topic, partition) if self._observer is not None else ()

    def changes(self, group: str, topic: str, partition: int) -> Sequence[StatusChange]:
        """Return the last statuses of a partition, the oldest first."""
        return self._observer.changes(group, topic, partition) if self._observer is not None else ()
