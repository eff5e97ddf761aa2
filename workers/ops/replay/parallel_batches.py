"""Records that may be decided together, though others came between them.

Decisions about two accounts do not touch each other, so only an account's own records have to keep their order; a tick
looks at all accounts, and nothing passes it. Inside a topic the order is kept too, since time never runs back there.
"""

from dataclasses import dataclass, field

from aiokafka.structs import ConsumerRecord

from workers.jobs.job import Job

__all__ = ["BatchCombiner", "CombinedBatch"]


@dataclass(frozen=True, slots=True)
class CombinedBatch:
    """Records of one topic to be decided together."""

    job: Job
    records: list[ConsumerRecord] = field(default_factory=list)


class BatchCombiner:
    """Deals records, which come in the one order, to runs that give the same when they follow one another."""

    def __init__(self) -> None:
        self.runs: list[CombinedBatch] = []
        self.count = 0  # of records
        self._newest: dict[int, int] = {}  # run of each job that still takes records
        self._last: dict[bytes | None, int] = {}  # run with an account's last record
        self._earliest = 0  # run that still takes records

    def add(self, job: Job, record: ConsumerRecord) -> None:
        """Take the next record. Its key is its account: with another one it would be refused."""
        self.count += 1
        number = self._newest.get(id(job), -1)
        if number < max(self._earliest, self._last.get(record.key, 0)):
            number = self._newest[id(job)] = len(self.runs)
            self.runs.append(CombinedBatch(job))
        self.runs[number].records.append(record)
        self._last[record.key] = number
        if job.step is not None:
            self._earliest = len(self.runs)
