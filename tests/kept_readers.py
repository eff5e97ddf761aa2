"""Kafka readers that stay open as long as the run's stack: opening and closing them took half a second of each test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from infra.kafka.clients import reader
from infra.settings import Settings

__all__ = ["ask_reader", "is_kept", "keep_readers"]

Answer = TypeVar("Answer")


class _KeptReaders:
    """Readers of one cluster by group and isolation level, each opened when it is first asked."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection, self._loop = settings.kafka_client(), asyncio.get_running_loop()
        self._opening = asyncio.Lock()
        self._open: dict[tuple[str | None, str], tuple[AIOKafkaConsumer, AsyncExitStack]] = {}

    def serve(self, settings: Settings) -> bool:
        """Tell whether a test with these settings has the same cluster, and runs in the same event loop."""
        return settings.kafka_client() == self._connection and asyncio.get_running_loop() is self._loop

    async def get(self, group: str | None, isolation_level: str) -> AIOKafkaConsumer:
        """Return an open reader."""
        key = group, isolation_level
        async with self._opening:
            if key not in self._open:
                closing = AsyncExitStack()
                consumer = await closing.enter_async_context(reader(self._settings, group, isolation_level))
                self._open[key] = consumer, closing
            return self._open[key][0]

    async def close(self, group: str | None, isolation_level: str) -> None:
        """Close a reader, if it is open; the next question opens a new one."""
        _, closing = self._open.pop((group, isolation_level), (None, AsyncExitStack()))
        await closing.aclose()

    async def close_all(self) -> None:
        """Close all readers."""
        for key in list(self._open):
            await self.close(*key)


_kept: list[_KeptReaders] = []  # of the run's stack, where it runs


@asynccontextmanager
async def keep_readers(settings: Settings) -> AsyncIterator[None]:
    """Have `ask_reader` keep the readers of a cluster open, until the end."""
    readers = _KeptReaders(settings)
    _kept.append(readers)
    try:
        yield
    finally:
        _kept.remove(readers)
        await readers.close_all()


def is_kept(settings: Settings) -> bool:
    """Tell whether a test with these settings has a cluster whose readers are kept: the run's, which outlives tests."""
    return any(readers.serve(settings) for readers in _kept)


async def ask_reader(
    settings: Settings,
    question: Callable[[AIOKafkaConsumer], Awaitable[Answer]],
    group: str | None = None,
    isolation_level: str = "read_committed",
) -> Answer:
    """Return the answer of a kept reader, or of one that is opened for this question. A question fetches no records.

    A kept reader that fails is closed, and a new one is asked.
    """
    for readers in _kept:
        if readers.serve(settings):
            try:
                return await question(await readers.get(group, isolation_level))
            except KafkaError:
                await readers.close(group, isolation_level)
    async with reader(settings, group, isolation_level) as consumer:
        return await question(consumer)
