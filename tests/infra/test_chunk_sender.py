"""Sending in chunks, where the broker refuses one record of a batch and a stop ends the rest."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest
from aiokafka.admin import NewTopic

from infra.kafka.chunk_sender import ChunkResult, ChunkSender
from infra.kafka.clients import admin_client
from infra.kafka.sender import Outgoing
from infra.settings import Settings

LARGE = 5


class Recorder(ChunkSender[int]):
    """A sender of numbers that keeps what its hooks were given."""

    def __init__(self, settings: Settings, rate: float, stop: asyncio.Event) -> None:
        super().__init__(settings, "test", rate, stop, chunk_size=10)
        self.begun: list[list[int]] = []
        self.results: list[ChunkResult[int]] = []

    async def before_chunk(self, items: Sequence[int]) -> None:
        """Keep the items."""
        self.begun.append(list(items))

    async def after_chunk(self, result: ChunkResult[int]) -> None:
        """Keep the result."""
        self.results.append(result)


@pytest.fixture
async def topic(settings: Settings) -> str:
    """A topic of one partition that takes batches of at most 700 bytes."""
    name = f"small-{uuid4().hex[:8]}"
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs={"max.message.bytes": "700"})])
    return name


def records(topic: str, count: int) -> list[tuple[int, Outgoing]]:
    """Return small records, of which one is larger than the topic allows."""
    return [(number, Outgoing(topic, None, b"x" * (900 if number == LARGE else 60))) for number in range(count)]


async def test_only_the_record_at_fault_is_refused_of_a_batch(settings: Settings, topic: str) -> None:
    """The broker refuses the whole batch; each record of it is sent again alone, in order."""
    sender = Recorder(settings, 10_000, asyncio.Event())
    try:
        await sender.start()
        cut = await sender.send_all(records(topic, 20))
    finally:
        await sender.close()

    sent = [(number, metadata.offset) for each in sender.results for number, metadata in each.sent]
    assert [list(range(10)), list(range(10, 20))] == sender.begun
    assert [(number, place) for place, number in enumerate(n for n in range(20) if n != LARGE)] == sent
    assert [LARGE] == [number for each in sender.results for number, _ in each.refused]
    assert ([], False) == ([number for each in sender.results for number in each.unsent], cut)


async def test_a_stop_leaves_the_rest_of_a_chunk_unsent(settings: Settings, topic: str) -> None:
    """At two records a second a chunk has two; a stop that comes before the second leaves the second unsent."""
    stop = asyncio.Event()
    sender = Recorder(settings, 2, stop)
    try:
        await sender.start()
        asyncio.get_running_loop().call_later(0.1, stop.set)
        cut = await sender.send_all(records(topic, 4))
    finally:
        await sender.close()

    (result,) = sender.results
    assert ([0], [1], True) == ([number for number, _ in result.sent], result.unsent, cut)
    assert ([0, 1], [0], False) == (*sender.begun, result.handed_over, result.failed)
