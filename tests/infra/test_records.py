"""How topics are read to an end beside other tasks of the same process."""

import asyncio
from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.records import read_to
from schemas.catalogue import SEND_RESULTS

PLACE = TopicPartition(SEND_RESULTS, 0)
COUNT = 20_000


class _AtHand:
    """A consumer that has fetched everything, as aiokafka's may have, and never waits."""

    def __init__(self) -> None:
        self._next = 0

    async def getmany(self, *_: TopicPartition, timeout_ms: int, max_records: int = COUNT) -> dict[TopicPartition, Any]:
        assert timeout_ms
        first, self._next = self._next, min(self._next + max_records, COUNT)
        return {PLACE: [_record(offset) for offset in range(first, self._next)]}

    async def position(self, _: TopicPartition) -> int:
        return self._next


def _record(offset: int) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord(*PLACE, offset, 0, 0, None, b"", 0, 0, 0, ())


async def test_other_tasks_run_while_much_is_read_that_is_at_hand() -> None:
    """A worker that looks for what it has published would miss its heartbeats, and lose its lanes."""
    runs = 0

    async def beats() -> None:
        nonlocal runs
        while True:
            runs += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(beats())
    offsets = [record.offset async for record in read_to(_AtHand(), {PLACE: 0}, {PLACE: COUNT})]  # type: ignore[arg-type]
    beating.cancel()

    assert list(range(COUNT)) == offsets
    assert runs >= COUNT / 1_000
