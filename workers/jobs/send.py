"""The send worker: may this message be sent, what does it cost, and does its credit come back."""

from infra.postgres import Connection
from schemas.catalogue import SEND_REQUESTS
from workers.jobs.job import Batch, Decision, Message
from workers.jobs.partitioning_check import PartitioningCheck
from workers.jobs.result_events import decision_of, recall_answers
from workers.ledger.model import WorkerName
from workers.ledger.movements import decide
from workers.ledger.plans import Catalogue
from workers.ledger.store import answer_all, open_batch
from workers.topology import GROUP_OF

__all__ = ["SendJob"]


class SendJob:
    """Decides send requests: the body of `inmail worker send`."""

    group = GROUP_OF[SEND_REQUESTS]
    in_steps = False
    topic = SEND_REQUESTS

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._misplaced = PartitioningCheck(self.topic)

    async def step(self, connection: Connection, batch: Batch) -> bool:  # noqa: ARG002
        """All is decided at once."""
        return False

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Charge each paid send that finds a credit, take back what did not arrive; answer every request."""
        opened = await open_batch(connection, WorkerName.SEND, batch.partition, batch.requests)
        await self._misplaced.record(connection, batch.partition, batch.requests, opened.foreign)
        decided = await decide(connection, opened, self._catalogue)
        return decision_of(answer_all(opened, batch.requests, decided), batch.partition)

    async def recall(self, connection: Connection, partition: int, start: int, end: int) -> list[Message]:
        """Return from the books what was decided for the input offsets [start, end)."""
        return await recall_answers(connection, WorkerName.SEND, partition, start, end)
