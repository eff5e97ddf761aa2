"""Rounds of the fuzz: some records are sent, decided by real workers, and accounted for, before the next are made."""

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableSequence, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from structlog.testing import capture_logs

from infra.kafka.clients import partitions_of, reader
from infra.settings import Settings
from schemas.catalogue import CREDIT_EVENTS, DEAD_LETTERS, SEND_RESULTS
from tests.fuzz.judging import Judged, judge
from tests.fuzz.records import Record
from tests.fuzz.sending import Place, send_records
from tests.workers.wire import working
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue
from workers.ops.books.audit import audit
from workers.ops.dead_letters.letters import ALL
from workers.ops.dead_letters.redrive_plan import RedriveOptions, plan_redrive
from workers.ops.dead_letters.report import count_dead_letters, report_dead_letters
from workers.ops.lag import read_lag

__all__ = ["EVERYTHING_THROUGH", "Fuzz", "fuzzing"]

# Whatever would stop a worker for the share of its input that is malformed: here, nearly all of it is, on purpose.
# And a lane that has to wait for another one waits: an answer that is not final would be none.
EVERYTHING_THROUGH: dict[str, object] = {"dead_letter_share": 1.0, "order_seconds": 60.0}

_ROUND_SECONDS = 300.0
_OUTPUT = (SEND_RESULTS, CREDIT_EVENTS, DEAD_LETTERS)
_USUAL = {"dead_letter", "accounts_of_other_partitions", "weak_database_setting"}


class Fuzz:
    """Workers that are fed with the fuzz."""

    def __init__(self, settings: Settings, logs: MutableSequence[Any]) -> None:
        self.judged = Judged()
        self.sent = 0
        self.refused = 0  # by the broker
        self._settings = settings
        self._logs = logs
        self._read: dict[TopicPartition, int] = {}

    async def round(self, records: Sequence[Record]) -> None:
        """Send records, wait until they are decided, and account for each."""
        if not self._read:
            self._read = await self._ends()
        sent, refused = await send_records(self._settings, records)
        self.refused += len(refused)
        await self.account_for(sent)

    async def account_for(self, sent: Mapping[Place, Record]) -> None:
        """Wait until all is decided, and see what came of each record."""
        self.sent += len(sent)
        async with asyncio.timeout(_ROUND_SECONDS):
            while any(group.records for group in await read_lag(self._settings)):  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.1)
            came = await self._new()
        judge(sent, came, self.judged)
        for line in self._logs:
            if line["log_level"] not in ("debug", "info") and line["event"] not in _USUAL:
                self.judged.complain(f"a worker said {line}")
        self._logs.clear()

    async def end(self) -> None:
        """See that the books balance."""
        found = await audit(self._settings)
        for failure in found.failures():
            self.judged.complain(f"the audit: {failure}")
        if not found.totals.balanced:
            self.judged.complain(f"the audit: not balanced: {found.totals}")
        # And that operators can look at all of it.
        await report_dead_letters(self._settings, last=1)
        counts = await count_dead_letters(self._settings)
        plan = await plan_redrive(self._settings, ALL, RedriveOptions())
        if (letters := plan.count + plan.refused.total()) != counts.total():
            self.judged.complain(f"a plan for {letters} of {counts.total()} letters")

    def _places(self) -> list[TopicPartition]:
        return [place for topic in _OUTPUT for place in partitions_of(topic, self._settings.topic_partitions)]

    async def _ends(self) -> dict[TopicPartition, int]:
        async with reader(self._settings, isolation_level="read_uncommitted") as consumer:
            return dict(await consumer.end_offsets(self._places()))

    async def _new(self) -> list[ConsumerRecord]:
        """Return what a read_committed reader sees that it did not see before, up to where the topics end."""
        ends = await self._ends()
        found: list[ConsumerRecord] = []
        async with reader(self._settings) as consumer:
            consumer.assign(self._places())
            for place, offset in self._read.items():
                consumer.seek(place, offset)
            unread = {place for place in ends if self._read[place] < ends[place]}
            while unread:
                for records in (await consumer.getmany(*unread, timeout_ms=200)).values():
                    found += records
                unread = {place for place in unread if await consumer.position(place) < ends[place]}
        self._read = ends
        return found


@asynccontextmanager
async def fuzzing(settings: Settings) -> AsyncIterator[Fuzz]:
    """Run all workers on a cluster that is prepared, and account for what they are fed."""
    settings = settings.model_copy(update=EVERYTHING_THROUGH)
    catalogue = load_catalogue()
    async with AsyncExitStack() as stack:
        logs = stack.enter_context(capture_logs())
        jobs = (SendJob(catalogue), BillingJob(catalogue), ExpiryJob(catalogue, settings))
        await stack.enter_async_context(working(settings, *jobs))
        yield Fuzz(settings, logs)
