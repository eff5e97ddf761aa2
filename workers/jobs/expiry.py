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
from workers.ledger.ticks import booked_ticks, expire_step, first_unbooked, tick_movements, tick_terms
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
        """Book one step of the first tick that has one left; tell whether there was one."""
        due = await first_unbooked(connection, batch.requests)
        if due is None:
            return False
        # Another broker's clock may be behind this one's: what is read to its end, is so up to a grace before.
        read_to = max(EARLIEST, min(due.as_of - self._grace, batch.read_to))
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
