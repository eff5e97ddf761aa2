"""The expiry worker: a tick asks that ended lots be booked, and books those that nobody may still spend from."""

from collections import Counter
from datetime import timedelta

from infra.clock import EARLIEST
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import EXPIRY_TICKS
from workers.jobs.job import Batch, Decision, Message, StoredRange
from workers.jobs.result_events import tick_messages
from workers.jobs.stored_events import read_ticks
from workers.ledger.plans import Catalogue
from workers.ledger.ticks import booked_ticks, expire_step, tick_movements, tick_terms
from workers.telemetry.worker_metrics import REPEAT
from workers.topology import GROUP_OF

__all__ = ["ExpiryJob"]


class ExpiryJob:
    """Decides ticks: the body of `inmail worker expiry`.

    A lot is booked only once the send and billing lanes of its partition have read past its end. A lagging lane would
    otherwise find a credit gone that its request, by the broker's time, could still spend.
    """

    group = GROUP_OF[EXPIRY_TICKS]
    topic = EXPIRY_TICKS
    gather_seconds = 0.0

    def __init__(self, catalogue: Catalogue, settings: Settings) -> None:
        self._grace = timedelta(seconds=settings.tick_grace_seconds)
        self._terms = tick_terms(catalogue, settings.tick_step_lots, settings.tick_steps)

    async def step(self, connection: Connection, batch: Batch) -> bool:
        """Book ticks in their order, up to a step after which one has a further step; tell whether there is one."""
        for request in batch.requests:
            # Another broker's clock may be behind this one's: what is read to its end, is so up to a grace before.
            read_to = max(EARLIEST, min(request.as_of - self._grace, batch.read_to))
            horizon = min(request.event.data.as_of, request.as_of, read_to)
            tick = await expire_step(connection, request, horizon, self._terms)
            if tick.code == "booking":
                return True
        return False

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Answer every tick, after the lines it caused. Its steps are done."""
        messages = []
        codes: Counter[str] = Counter()
        answered = await booked_ticks(connection, batch.requests)
        first_read = [tick for tick, request in answered if tick.source_offset == request.offset]
        movements = await tick_movements(connection, first_read)
        for tick, request in answered:
            # A tick seen before has its lines published; one that is read again after a crash may not have.
            repeat = tick.source_offset != request.offset
            booked = movements.get(request.place, [])
            messages += tick_messages(tick, booked, request.offset)
            codes.update(entry.code for _, entry in booked)
            codes[REPEAT if repeat else tick.code] += 1
        return Decision(messages, {}, codes)

    async def replay_answers(self, connection: Connection, partition: int, stored: StoredRange) -> list[Message]:
        """Return from the books what was decided for a range of records."""
        messages = []
        ticks = await read_ticks(connection, partition, stored)
        movements = await tick_movements(connection, ticks)
        for tick in ticks:
            told = tick_messages(tick, movements.get((partition, tick.source_offset), []), tick.source_offset)
            messages += told[:-1] if tick.code == "booking" else told  # of an unfinished one the lines, and no answer
        return messages
