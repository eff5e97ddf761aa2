"""The whole system as books for scenario tables: records go through Kafka and the workers, rows come from Postgres.

Many scenarios share one run. Each has a partition at a time, and its own accounts; those that share a partition follow
one another, each four years later (1461 days, after which the calendar repeats), since a lane's time never runs back.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaProducer

from infra.clock import to_milliseconds
from infra.kafka.clients import partition_of
from infra.postgres import Connection
from schemas.envelope import encode
from schemas.ids import answer_id
from tests.ledger.scenario import Scenario
from tests.ledger.scenario_books import DEAD_LETTER
from tests.ledger.scenario_events import TICK, Input
from tests.ledger.scenario_sql import EVENTS, SqlBooks, catalogue_of, event_of
from workers.jobs.job import Batch, Decision, Job, StoredRange
from workers.ledger.model import Request
from workers.ledger.plans import Catalogue

__all__ = ["CYCLE", "ByPartition", "KafkaBooks", "why_not"]

CYCLE = timedelta(days=1461)
WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.02


def why_not(scenario: Scenario) -> str | None:
    """Return why a scenario cannot go through Kafka, or None."""
    newest: dict[str, datetime] = {}
    for step in scenario.steps:
        if step.read_to is not None:
            return "it says what the neighbours have read"
        for input_ in step.inputs:
            if input_.behind:
                return "it says that a neighbour has records unread"
            if input_.as_of.microsecond % 1000:
                return "Kafka's time has no microseconds"
            topic = EVENTS[input_.type].topic
            if input_.as_of < newest.get(topic, input_.as_of):
                return "time runs back inside a lane"
            newest[topic] = input_.as_of
    return None


class ByPartition:
    """A job that decides each partition by a catalogue of its own."""

    def __init__(self, make: Callable[[Catalogue], Job], catalogues: dict[int, Catalogue], default: Catalogue) -> None:
        self._make = make
        self._catalogues = catalogues
        self._default = make(default)
        self.group, self.topic = self._default.group, self._default.topic
        self.gather_seconds = self._default.gather_seconds
        self.step = None if self._default.step is None else self._step

    def _job(self, partition: int) -> Job:
        catalogue = self._catalogues.get(partition)
        return self._default if catalogue is None else self._make(catalogue)

    async def _step(self, connection: Connection, batch: Batch) -> bool:
        """Do a step of the first partition that has one left, by the partition's catalogue."""
        for job, part in self._parts(batch):
            assert job.step is not None
            if await job.step(connection, part):
                return True
        return False

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Decide each partition's requests by the partition's catalogue."""
        decision = Decision([], {}, Counter())
        for job, part in self._parts(batch):
            messages, refused, codes = await job.decide(connection, part)
            decision = Decision(decision.messages + messages, decision.refused | refused, decision.codes + codes)
        return decision

    def _parts(self, batch: Batch) -> list[tuple[Job, Batch]]:
        by_partition: dict[int, list[Request[Any]]] = {}
        for request in batch.requests:
            by_partition.setdefault(request.partition, []).append(request)
        return [(self._job(each), replace(batch, requests=requests)) for each, requests in by_partition.items()]

    async def replay_answers(self, connection: Connection, partition: int, stored: StoredRange) -> Any:
        """Return what was published; the catalogue does not matter."""
        return await self._default.replay_answers(connection, partition, stored)


class KafkaBooks(SqlBooks):
    """One partition for one scenario."""

    def __init__(
        self,
        connection: Connection,
        producer: AIOKafkaProducer,
        catalogues: dict[int, Catalogue],
        place: tuple[int, int],
        partitions: int,
    ) -> None:
        super().__init__(connection)
        self.letters = 0  # what has to be on the topics beside an event a row
        self.repeats = 0
        self.ticks = 0
        self._producer = producer
        self._catalogues = catalogues
        self._partition, cycle = place
        self._shift = cycle * CYCLE
        self._prefix = f"p{self._partition}-{cycle}-"
        self._partitions = partitions

    async def use(self, catalogue: dict[str, Any]) -> None:
        """Take a catalogue from now on. Nothing is on its way to the workers."""
        self._catalogues[self._partition] = catalogue_of(catalogue)

    async def decide(self, inputs: Sequence[Input]) -> list[list[dict[str, Any]]]:
        """Publish records, wait until the lane has stored what came of them, and look it up."""
        requests = await self._publish(inputs)
        booked = await self._booked_at([request.offset for request in requests])
        rows = []
        for request in requests:
            mine = booked[request.offset]
            if not mine:
                mine = [await self._answer_to(request)] if await self._is_answered(request) else [DEAD_LETTER]
            self.repeats += bool(mine[0]["repeat"])
            self.letters += mine[0] is DEAD_LETTER
            rows.append(mine)
        return rows

    async def tick(self, tick: Input, read_to: datetime | None) -> list[dict[str, Any]]:
        """Publish a tick to the partition."""
        assert read_to is None
        (request,) = await self._publish([tick])
        rows = (await self._booked_at([request.offset]))[request.offset]
        answer = await self.connection.fetchrow(
            "select * from ticks where partition = $1 and request_id = $2 and fingerprint = $3",
            self._partition,
            request.request_id,
            request.fingerprint,
        )
        assert answer is not None
        summary = {"account": None, "code": answer["code"], "lots": answer["lots"], "credits": answer["credits"]}
        repeat = answer["source_offset"] != request.offset
        self.ticks += 1
        self.repeats += repeat
        return [*rows, summary | {"repeat": repeat}]

    async def balance(self, account: str, instant: datetime) -> int:
        """Return what an account can spend at an instant."""
        return await super().balance(self._id_of(account), instant + self._shift)

    async def account(self, account: str) -> dict[str, Any]:
        """Return level, sequence and erasure."""
        return await super().account(self._id_of(account))

    async def lots(self, account: str) -> list[dict[str, Any]]:
        """Return the lots in opening order."""
        return [self._back(lot) for lot in await super().lots(self._id_of(account))]

    async def journal(self, account: str) -> list[dict[str, Any]]:
        """Return the rows by sequence."""
        return await super().journal(self._id_of(account))

    def _id_of(self, name: str) -> str:
        """Return a member's id in this scenario: one whose number is that of the scenario's partition."""
        candidates = (f"{self._prefix}{name}.{number}" for number in count())
        return next(id_ for id_ in candidates if partition_of(id_.encode(), self._partitions) == self._partition)

    async def _publish(self, inputs: Sequence[Input]) -> list[Request[Any]]:
        shifted = [self._forth(input_) for input_ in inputs]
        topic = EVENTS[inputs[0].type].topic
        deliveries = [
            await self._producer.send(
                topic,
                encode(event_of(input_)),
                input_.account.encode() or None,
                partition=self._partition,
                timestamp_ms=to_milliseconds(input_.as_of),
            )
            for input_ in shifted
        ]
        offsets = [(await delivery).offset for delivery in deliveries]
        async with asyncio.timeout(WAIT_SECONDS):
            while not await self.connection.fetchval(
                "select next_offset > $3 from lanes where topic = $1 and partition = $2",
                topic,
                self._partition,
                offsets[-1],
            ):
                await asyncio.wait([asyncio.create_task(asyncio.sleep(_POLL_SECONDS))])
        self._worker = {"inmail.send-requests": "send", "inmail.billing-events": "billing"}.get(topic, "expiry")
        return [self._request(input_)._replace(offset=offset) for input_, offset in zip(shifted, offsets, strict=True)]

    async def _is_answered(self, request: Request[Any]) -> bool:
        """Tell whether a record that booked nothing is a repeat of one before it, and not a dead letter."""
        return await self.connection.fetchval(
            "select exists (select from journal join accounts using (account) where is_answer and request_id = $1"
            " and fingerprint = $2 and account_id = $3 and (worker <> $4 or source_offset < $5))",
            request.request_id,
            request.fingerprint,
            request.account_id,
            self._worker,
            request.offset,
        )

    async def _booked_at(self, offsets: list[int]) -> dict[int, list[dict[str, Any]]]:
        booked: dict[int, list[dict[str, Any]]] = {offset: [] for offset in offsets}
        where = "j.source_offset = any($1) and j.source_partition = $2 and j.worker = $3"
        for row in await self._journal(where, offsets, self._partition, self._worker):
            booked[row["source_offset"]].append(row)
        return booked

    async def _journal(self, where: str, *arguments: Any) -> list[dict[str, Any]]:
        return [self._back(row) for row in await super()._journal(where, *arguments)]

    # -- a scenario's own names and years, and those of the run -----------------------------------------------------

    def _forth(self, input_: Input) -> Input:
        data = {name: self._forth_value(name, value) for name, value in input_.data.items()}
        account = self._id_of(input_.account) if input_.type != TICK else ""
        # Ticks of all scenarios of a partition share their ids' space.
        request_id = input_.request_id if account else UUID(answer_id(self._prefix.rstrip("-"), input_.request_id))
        return replace(input_, account=account, request_id=request_id, data=data, as_of=input_.as_of + self._shift)

    def _forth_value(self, name: str, value: Any) -> Any:
        if isinstance(value, datetime):
            return value + self._shift
        return self._id_of(value) if name in ("recipient_id", "sender_id") and value is not None else value

    def _back(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: self._back_value(name, value) for name, value in row.items()}

    def _back_value(self, name: str, value: Any) -> Any:
        if isinstance(value, datetime):
            return value - self._shift
        if isinstance(value, dict):
            return self._back(value)
        if isinstance(value, list):
            return [self._back_value(name, each) for each in value]
        if name in ("account", "recipient_id", "sender_id") and isinstance(value, str):
            return re.sub(r"\.\d+$", "", value.removeprefix(self._prefix))
        return value
