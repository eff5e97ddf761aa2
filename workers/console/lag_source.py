"""The console's source of lag: one observer of all groups of the cluster, open while the console runs."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from time import monotonic
from typing import Final

from infra.kafka.rights import MissingRightsError, Resource, require_rights
from infra.postgres_locks import LockMemory
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS
from workers.ops.lag import GroupLag, LagObserver, Sample, StatusChange, observer
from workers.rights import RIGHTS
from workers.topology import TOPIC_OF_GROUP

__all__ = ["LagSource"]

_CHECK_SECONDS: Final = 30.0  # between two questions for rights
_HISTORY_TIME_SHARE: Final = 0.7  # of a sample's time limit; after that the sample is taken without history


class LagSource:
    """The lag in the last sample, and the end of the dead-letter topic."""

    def __init__(self, settings: Settings, locks: Sequence[LockMemory] = ()) -> None:
        self._settings = settings
        self._locks = locks
        self._observer: LagObserver | None = None
        self._exit_stack = AsyncExitStack()
        self._check_at = 0.0  # by the monotonic clock: when rights are asked for again
        self.refusal: MissingRightsError | None = None  # why some of the workers' groups cannot be seen
        self.dead_letters_end = 0  # grows with each dead letter

    @property
    def groups(self) -> Sequence[GroupLag]:
        """All groups of the cluster that can be seen, sorted by name and topic."""
        found = self._observer.groups if self._observer is not None else ()
        hidden = self.hidden_groups  # to one who may not see a group, it looks as if nobody had begun to read
        return [group for group in found if group.group not in hidden]

    @property
    def hidden_groups(self) -> frozenset[str]:
        """The workers' groups that the user may not see: how they stand is not known."""
        return frozenset(right.name for right in self.refusal.missing) if self.refusal is not None else frozenset()

    @property
    def worker_groups(self) -> list[GroupLag]:
        """The workers' groups that can be seen, each with its input topic."""
        return [group for group in self.groups if TOPIC_OF_GROUP.get(group.group) == group.topic]

    @property
    def refreshed_at(self) -> datetime | None:
        """The time of the last sample; None before the first."""
        return self._observer.refreshed_at if self._observer is not None else None

    async def refresh(self) -> None:
        """Take one sample. The previous sample stays if this fails.

        A group that cannot be seen for want of a right is no failure: `refusal` names it, and the others are seen.

        Raises:
            KafkaError: when the cluster cannot be reached.

        """
        if self._observer is None:
            await self._open(with_history=True)
        try:
            # History is read once. If that takes too long, the first sample is taken without history.
            async with asyncio.timeout(self._settings.console_timeout_seconds * _HISTORY_TIME_SHARE) as limit:
                await self._refresh_once()
        except TimeoutError:
            if self.refreshed_at is not None or not limit.expired():
                raise
            await self.close()
            await self._open(with_history=False)
            await self._refresh_once()
        await self._check_groups()

    async def _check_groups(self) -> None:
        """Note which of the workers' groups the user may not see."""
        if monotonic() < self._check_at:  # each question opens a client
            return
        self._check_at = monotonic() + _CHECK_SECONDS
        rights = [right for right in RIGHTS["console"] if right.resource is Resource.GROUP]
        try:
            await require_rights(self._settings, rights, "`inmail console`")
        except MissingRightsError as refusal:
            self.refusal = refusal
        else:
            self.refusal = None

    async def _refresh_once(self) -> None:
        assert self._observer is not None  # noqa: S101 - `refresh` has opened the observer
        await self._observer.refresh()
        self.dead_letters_end = await self._observer.written(DEAD_LETTERS)

    async def _open(self, *, with_history: bool) -> None:
        watched = observer(self._settings, every=True, remembers=with_history, locks=self._locks)
        self._observer = await self._exit_stack.enter_async_context(watched)

    async def close(self) -> None:
        """Close the observer and its clients."""
        self._observer = None
        await self._exit_stack.aclose()

    def history(self, group: str, topic: str, partition: int) -> Sequence[Sample]:
        """Return a partition's samples, oldest first, including samples from before the console started."""
        return self._observer.history(group, topic, partition) if self._observer is not None else ()

    def changes(self, group: str, topic: str, partition: int) -> Sequence[StatusChange]:
        """Return a partition's last status changes, oldest first."""
        return self._observer.changes(group, topic, partition) if self._observer is not None else ()
