"""Records on another partition than their account's own: decided all the same, and shown to the operator.

Their producer partitions otherwise than the contract asks (murmur2). What it costs: accounts that two lanes lock in
turn, records of one account that are decided in no particular order, and lots that a tick may book before such a
record, should its lane lag, could spend from them: a tick asks the lanes with its own number only.
"""

from dataclasses import dataclass, field
from time import monotonic

import structlog

__all__ = ["PartitioningCheck"]

_EVERY_SECONDS = 60.0


@dataclass(slots=True)
class _LaneReport:
    accounts: int = 0
    warned_at: float | None = None


@dataclass(slots=True)
class PartitioningCheck:
    """What a worker has seen of them, by partition; a warning a minute and lane tells it."""

    topic: str
    _lanes: dict[int, _LaneReport] = field(default_factory=dict)

    def count(self, partition: int, accounts: int) -> None:
        """Count a batch's accounts that belong to another partition, and warn if it is time."""
        if not accounts:
            return
        lane = self._lanes.setdefault(partition, _LaneReport())
        lane.accounts += accounts
        now = monotonic()
        if lane.warned_at is None or now - lane.warned_at >= _EVERY_SECONDS:
            structlog.get_logger("inmail.lane").warning(
                "accounts_of_other_partitions",
                topic=self.topic,
                partition=partition,
                accounts=lane.accounts,  # once for each batch that they were in
                hint="a producer does not partition by key with murmur2",
            )
            lane.accounts, lane.warned_at = 0, now
