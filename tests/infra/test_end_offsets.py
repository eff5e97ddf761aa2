"""The connection that is asked where partitions end, and what comes of its loss."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from infra.kafka import end_offsets
from infra.kafka.aiokafka_fixes import ConsumerLostError
from infra.kafka.end_offsets import EndOffsets
from infra.settings import load_settings

PLACE = TopicPartition("a-topic", 0)


class _Client:
    """Answers each question once it is told to, and fails all if it is lost."""

    def __init__(self, *, lost: bool) -> None:
        self.asked: asyncio.Queue[asyncio.Event] = asyncio.Queue()
        self.closed = False
        self._lost = lost

    async def end_offsets(self, places: Any) -> dict[TopicPartition, int]:
        answer = asyncio.Event()
        self.asked.put_nowait(answer)
        await answer.wait()
        if self._lost or self.closed:
            raise ConsumerLostError("lost")
        return dict.fromkeys(places, 7)


async def test_two_questions_that_fail_at_once_close_no_connection_of_a_third(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third was asked between the two, over a new connection."""
    old, new = _Client(lost=True), _Client(lost=False)
    opening = iter((old, new))

    @asynccontextmanager
    async def reader(*_: object) -> AsyncIterator[_Client]:
        client = next(opening)
        yield client
        client.closed = True

    monkeypatch.setattr(end_offsets, "reader", reader)
    ends = EndOffsets(load_settings())
    first, second = (asyncio.ensure_future(ends.end_offsets([PLACE])) for _ in range(2))
    answer, other_answer = await old.asked.get(), await old.asked.get()
    answer.set()
    with pytest.raises(KafkaConnectionError):
        await first
    third = asyncio.ensure_future(ends.end_offsets([PLACE]))
    new_answer = await new.asked.get()

    other_answer.set()
    with pytest.raises(KafkaConnectionError):
        await second
    new_answer.set()

    assert {PLACE: 7} == await third
    assert [True, False] == [old.closed, new.closed]
    await ends.aclose()
    assert new.closed


async def test_a_connection_that_is_being_made_is_closed_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its broker may answer much later: a worker that has replaced its consumer meanwhile would keep it for good."""
    answers, closed = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def reader(*_: object) -> AsyncIterator[_Client]:
        await answers.wait()
        yield _Client(lost=True)
        closed.set()

    monkeypatch.setattr(end_offsets, "reader", reader)
    monkeypatch.setattr(end_offsets, "_CLOSE_SECONDS", 0.05)
    ends = EndOffsets(load_settings())
    asked = [asyncio.create_task(ends.end_offsets([PLACE])) for _ in range(2)]
    await asyncio.sleep(0)
    await ends.aclose()
    asked.append(asyncio.create_task(ends.end_offsets([PLACE])))
    answers.set()
    try:
        async with asyncio.timeout(5):
            await closed.wait()
            with pytest.raises(KafkaConnectionError, match="closed"):
                await asked[-1]
    finally:
        for each in asked:
            each.cancel()
        await asyncio.wait(asked)


async def test_where_groups_begin_is_asked_of_all_partitions_and_of_each_group_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a restart of all workers that is a question for each lane's neighbours."""
    asked: list[object] = []
    one, two, three = (TopicPartition("a-topic", number) for number in range(3))

    class _Oldest:
        async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
            asked.append(places)
            return dict.fromkeys(places, 5)

    @asynccontextmanager
    async def reader(*_: object) -> AsyncIterator[_Oldest]:
        yield _Oldest()

    async def committed(_: object, group: str, places: list[TopicPartition]) -> dict[TopicPartition, int | None]:
        asked.append((group, places))
        return dict(zip(places, (9, None), strict=True))

    monkeypatch.setattr(end_offsets, "reader", reader)
    monkeypatch.setattr(end_offsets, "committed_offsets", committed)
    ends = EndOffsets(load_settings(), AsyncMock())
    starts = await ends.starts([("g", one, 7), ("h", two, None), ("h", three, None)])

    assert {one: 7, two: 9, three: 5} == starts
    assert [[one, two, three], ("h", [two, three])] == asked
    await ends.aclose()
