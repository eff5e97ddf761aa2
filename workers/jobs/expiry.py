"""The expiry worker: a tick asks that ended lots be booked, and books those that nobody may still spend from."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from aiokafka import TopicPartition

from infra.clock import EARLIEST
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS
from workers.jobs.job import Batch, Decision, Message, StoredRange
from workers.jobs.result_events import read_ticks, tick_messages
from workers.ledger.plans import Catalogue
from workers.ledger.ticks import booked_ticks, expire_step, first_unbooked, tick_movements, tick_terms
from workers.telemetry.worker_metrics import REPEAT
from workers.topology import GROUP_OF

__all__ = ["ExpiryJob"]

_ENDS_SECONDS = 5.0

# Both move credits of the accounts in the partition with the tick's number.
_NEIGHBOURS = tuple((GROUP_OF[topic], topic) for topic in (SEND_REQUESTS, BILLING_EVENTS))


class _EndOffsets(Protocol):
    """Tells where topics end. Reads uncommitted, so that an open transaction counts as unread."""

    async def end_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]: ...


class ExpiryJob:
    """Decides ticks: the body of `inmail worker expiry`.

    A lot is booked only once the send and billing lanes of its partition have read past its end. A lagging lane would
    otherwise find a credit gone that its request, by the broker's time, could still spend.
    """

    group = GROUP_OF[EXPIRY_TICKS]
    topic = EXPIRY_TICKS

    def __init__(self, ends: _EndOffsets, catalogue: Catalogue, settings: Settings) -> None:
        self._ends = ends
        self._grace = timedelta(seconds=settings.tick_grace_seconds)
        self._terms = tick_terms(catalogue, settings.tick_step_lots, settings.tick_steps)

    async def step(self, connection: Connection, batch: Batch) -> bool:
        """Book one step of the first tick that has one left; tell whether there was one."""
        due = await first_unbooked(connection, batch.requests)
        if due is None:
            return False
        read_to = await self._neighbours_read_to(connection, due.partition, due.as_of)
        await expire_step(connection, due, min(due.event.data.as_of, due.as_of, read_to), self._terms)
        return True

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Answer every tick, after the lines it caused. Its steps are done."""
        messages = []
        codes: Counter[str] = Counter()
        for tick, request in await booked_ticks(connection, batch.requests):
            # A tick seen before has its lines published; one that is read again after a crash may not have.
            repeat = tick.source_offset != request.offset
            booked = [] if repeat else await tick_movements(connection, tick)
            messages += tick_messages(tick, booked, request.offset)
            codes.update(entry.code for _, entry in booked)
            codes[REPEAT if repeat else tick.code] += 1
        return Decision(messages, {}, codes)

    async def replay_answers(self, connection: Connection, partition: int, stored: StoredRange) -> list[Message]:
        """Return from the books what was decided for a range of records."""
        messages = []
        for tick in await read_ticks(connection, partition, stored):
            told = tick_messages(tick, await tick_movements(connection, tick), tick.source_offset)
            messages += told[:-1] if tick.code == "booking" else told  # of an unfinished one the lines, and no answer
        return messages

    async def _neighbours_read_to(self, connection: Connection, partition: int, as_of: datetime) -> datetime:
        """Return the instant up to which both neighbours have read all they have.

        A neighbour that stands at the end of its partition, asked for after the tick was received, has read up to the
        tick, less a grace: another broker's clock may be behind. One that does not has read up to its watermark. The
        end is asked first: a record that arrives between the two questions is then after the tick too.
        """
        places = [TopicPartition(topic, partition) for _, topic in _NEIGHBOURS]
        async with asyncio.timeout(_ENDS_SECONDS):  # inside a transaction, which must not wait for a lost broker
            ends = await self._ends.end_offsets(places)
        read_to = as_of - self._grace
        for (group, topic), place in zip(_NEIGHBOURS, places, strict=True):
            row = await connection.fetchrow(
                "select next_offset, as_of from lanes where consumer_group = $1 and topic = $2 and partition = $3",
                group,
                topic,
                partition,
            )
            offset = (row and row["next_offset"]) or 0
            if offset < ends[place]:
                read_to = min(read_to, (row and row["as_of"]) or EARLIEST)
        return max(read_to, EARLIEST)
