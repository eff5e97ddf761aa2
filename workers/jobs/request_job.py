"""What the send and the billing job share: they decide requests of accounts, each batch at once."""

from infra.postgres import Connection
from workers.jobs.job import Message
from workers.jobs.partitioning_check import PartitioningCheck
from workers.jobs.result_events import recall_answers
from workers.ledger.model import WorkerName
from workers.ledger.plans import Catalogue
from workers.topology import GROUP_OF, TOPIC_OF

__all__ = ["RequestJob"]


class RequestJob:
    """A job without steps, whose answers stand in the journal. A subclass names its worker and decides."""

    worker: WorkerName
    group: str
    topic: str
    step = None

    def __init_subclass__(cls) -> None:
        cls.topic = TOPIC_OF[cls.worker]
        cls.group = GROUP_OF[cls.topic]

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._partitioning = PartitioningCheck(self.topic)

    async def recall(self, connection: Connection, partition: int, start: int, end: int) -> list[Message]:
        """Return from the ledger's database what was decided for the input offsets [start, end)."""
        return await recall_answers(connection, self.worker, partition, start, end)
