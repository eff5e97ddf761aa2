"""The send worker: may this message be sent, what does it cost, and does its credit come back."""

from infra.postgres import Connection
from workers.jobs.job import Batch, Decision
from workers.jobs.request_job import RequestJob
from workers.jobs.result_events import decision_of
from workers.ledger.model import WorkerName
from workers.ledger.movements import decide
from workers.ledger.store import answer_all, open_batch

__all__ = ["SendJob"]


class SendJob(RequestJob):
    """Decides send requests: the body of `inmail worker send`."""

    worker = WorkerName.SEND

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Charge each paid send that finds a credit, take back what did not arrive; answer every request."""
        opened = await open_batch(connection, self.worker, batch.partition, batch.requests)
        await self._partitioning.record(connection, batch.partition, batch.requests, opened.foreign)
        decided = await decide(connection, opened, self._catalogue)
        return decision_of(answer_all(opened, batch.requests, decided), batch.partition)
