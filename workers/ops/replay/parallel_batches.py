"""Combines records of several topics into batches whose decisions equal those in decision order.

Decisions on two accounts are independent, so only an account's own records must keep their order. A tick reads all
accounts, so no record may pass a tick. Records of one topic keep their order, since time never runs back in a topic.
"""

from dataclasses import dataclass, field

from aiokafka.structs import ConsumerRecord

from workers.jobs.job import Job

__all__ = ["BatchCombiner", "CombinedBatch"]


@dataclass(frozen=True, slots=True)
class CombinedBatch:
    """Records of one topic to decide together."""

    job: Job
    records: list[ConsumerRecord] = field(default_factory=list)


class BatchCombiner:
    """Adds records, given in decision order, to batches to decide one after another."""

    def __init__(self) -> None:
        self.batches: list[CombinedBatch] = []
        self.count = 0  # of records
        self._newest: dict[int, int] = {}  # last batch of each job
        self._last: dict[bytes | None, int] = {}  # batch with an account's last record
        self._earliest = 0  # first batch that still takes records

    def add(self, job: Job, record: ConsumerRecord) -> None:
        """Add the next record. Its key is its account: a record with another key would be a dead letter."""
        self.count += 1
        number = self._newest.get(id(job), -1)
        if number < max(self._earliest, self._last.get(record.key, 0)):
            number = self._newest[id(job)] = len(self.batches)
            self.batches.append(CombinedBatch(job))
        self.batches[number].records.append(record)
        self._last[record.key] = number
        if job.step is not None:
            self._earliest = len(self.batches)
