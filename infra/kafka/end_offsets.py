"""Where partitions end, asked through one connection that reads uncommitted, so that an open transaction counts."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError

from infra.kafka.aiokafka_fixes import ConsumerLostError
from infra.kafka.clients import committed_offsets, reader
from infra.settings import Settings

__all__ = ["EndOffsets"]

_CLOSE_SECONDS = 2.0


class EndOffsets:
    """Asks where partitions end, and where a group begins to read one. Connects when it is asked first."""

    def __init__(self, settings: Settings, admin: AIOKafkaAdminClient | None = None) -> None:
        """Take how to connect, and a client that is asked for groups' offsets: without it none has one."""
        self._settings = settings
        self._admin = admin
        self._clients = AsyncExitStack()
        self._consumer: Any = None
        self._connecting = asyncio.Lock()
        self._is_closed = False

    async def end_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the ends as of a moment after the call.

        Raises:
            KafkaError: when the brokers do not tell, which may take 40 s: of all places if one has no leader.

        """
        async with self._client() as client:
            return dict(await client.end_offsets(places))

    async def starts(self, asked: Sequence[tuple[str, TopicPartition, int | None]]) -> dict[TopicPartition, int]:
        """Return where groups begin: where they have stored to, or else their offset, and not before the oldest record.

        Raises:
            KafkaError: when the brokers do not tell.

        """
        starts = {place: stored or 0 for _, place, stored in asked}
        async with self._client() as client:
            oldest = await client.beginning_offsets(list(starts))
        unknown: dict[str, list[TopicPartition]] = {}
        for group, place, stored in asked:
            if stored is None and self._admin is not None:
                unknown.setdefault(group, []).append(place)
        for group, places in unknown.items():
            starts |= {place: at or 0 for place, at in (await committed_offsets(self._admin, group, places)).items()}
        return {place: max(start, oldest[place]) for place, start in starts.items()}

    async def aclose(self) -> None:
        """Let the connection go, also one that is being made. Who asks afterwards is told that it is closed."""
        self._is_closed = True
        await asyncio.wait([asyncio.ensure_future(self._close())], timeout=_CLOSE_SECONDS)

    async def _close(self) -> None:
        async with self._connecting:
            await self._let_go()

    async def _let_go(self) -> None:
        self._consumer, clients, self._clients = None, self._clients, AsyncExitStack()
        await asyncio.wait([asyncio.ensure_future(clients.aclose())], timeout=_CLOSE_SECONDS)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        """Connect, if that is not done. The next question has a new client where this one is lost.

        Raises:
            KafkaConnectionError: when it is lost: it is no consumer of the worker's, which would have to be replaced.

        """
        async with self._connecting:
            if self._is_closed:
                raise KafkaConnectionError("the connection that is asked for ends is closed")
            if self._consumer is None:
                opening = reader(self._settings, None, "read_uncommitted")
                self._consumer = await self._clients.enter_async_context(opening)
            client = self._consumer
        try:
            yield client
        except ConsumerLostError as error:
            if self._consumer is client:  # of two questions that it failed, the other may have closed it: not its heir
                await self._let_go()
            raise KafkaConnectionError(f"the connection that is asked for ends was lost: {error}") from error
