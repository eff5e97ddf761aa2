"""Records on another partition than their account's own: decided all the same, and shown with who sent them.

Their producer partitions otherwise than the contract asks (murmur2). What it costs: accounts that two lanes lock in
turn, batches that wait for the lanes of other numbers as well, and lots that a tick may book before such a record,
should its lane lag, could spend from them: a tick asks the lanes with its own number only.

Who sent them is the event's `source`, as the producer gives it. The producer's client id would say more; Kafka's
brokers have it in their request log and metrics only, and give it to no consumer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import structlog

from infra.postgres import Connection
from workers.ledger.model import Request

__all__ = ["OTHERS", "SOURCES", "PartitioningCheck"]

SOURCES = 16  # of each partition that are kept by name: a source is a producer's word, and there may be any number
OTHERS = "(others)"
_SOURCE_LENGTH = 200
_EVERY_SECONDS = 60.0
_KNOWN = "select source, last_offset from misplaced_records where topic = $1 and partition = $2"
_COUNT = (
    "insert into misplaced_records as m (topic, partition, source, records, first_at, last_at, last_offset)"
    " values ($1, $2, $3, $4, $5, $6, $7) on conflict (topic, partition, source) do update set"
    " records = m.records + excluded.records, last_at = excluded.last_at, last_offset = excluded.last_offset"
)


@dataclass(slots=True)
class _LaneReport:
    accounts: int = 0
    sources: "Counter[str]" = field(default_factory=Counter)
    warned_at: float | None = None


@dataclass(slots=True)
class PartitioningCheck:
    """What a worker has seen of them, by partition; a warning a minute and lane tells it, and the books keep it."""

    topic: str
    _lanes: dict[int, _LaneReport] = field(default_factory=dict)

    async def record(
        self, connection: Connection, requests: Sequence[Request[Any]], accounts: Mapping[str, int]
    ) -> None:
        """Count a batch's records of accounts that belong to another partition, inside the transaction that decides it.

        Args:
            connection: its transaction.
            requests: the batch.
            accounts: the own partition of each account of which a request came on another one.

        """
        if not accounts:
            return
        misplaced: dict[int, list[Request[Any]]] = {}
        for request in requests:
            if accounts.get(request.account_id, request.partition) != request.partition:
                misplaced.setdefault(request.partition, []).append(request)
        for partition, each in misplaced.items():
            await self._record(connection, partition, each)

    async def _record(self, connection: Connection, partition: int, misplaced: Sequence[Request[Any]]) -> None:
        """Count the records of one partition whose accounts belong to another one."""
        known = {row["source"]: row["last_offset"] for row in await connection.fetch(_KNOWN, self.topic, partition)}
        counted_to = max(known.values(), default=-1)  # a lane reads in order
        by_source: dict[str, list[Request[Any]]] = {}
        for request in misplaced:
            if request.offset > counted_to:
                source = request.event.source[:_SOURCE_LENGTH]
                if source not in known and len(known.keys() | by_source.keys()) >= SOURCES:
                    source = OTHERS
                by_source.setdefault(source, []).append(request)
        await connection.executemany(
            _COUNT,
            [
                (self.topic, partition, source, len(each), each[0].as_of, each[-1].as_of, each[-1].offset)
                for source, each in by_source.items()
            ],
        )
        sources = Counter(request.event.source[:_SOURCE_LENGTH] for request in misplaced)
        self.count(partition, len({request.account_id for request in misplaced}), sources)

    def count(self, partition: int, accounts: int, sources: "Counter[str]") -> None:
        """Count a batch's accounts that belong to another partition, and warn if it is time."""
        if not accounts:
            return
        lane = self._lanes.setdefault(partition, _LaneReport())
        lane.accounts += accounts
        lane.sources = Counter(dict((lane.sources + sources).most_common(SOURCES)))
        now = monotonic()
        if lane.warned_at is None or now - lane.warned_at >= _EVERY_SECONDS:
            structlog.get_logger("inmail.lane").warning(
                "accounts_of_other_partitions",
                topic=self.topic,
                partition=partition,
                accounts=lane.accounts,  # once for each batch that they were in
                sources=dict(lane.sources),  # records, of those that sent most
                hint="a producer does not partition by key with murmur2",
            )
            self._lanes[partition] = _LaneReport(warned_at=now)
