"""The base class of the send and the billing job, which decide requests of accounts batch by batch."""

from infra.postgres import Connection
from workers.jobs.job import Message
from workers.jobs.partitioning_check import PartitioningCheck
from workers.jobs.result_events import replay_answers
from workers.ledger.model import WorkerName
from workers.ledger.plans import Catalogue
from workers.topology import GROUP_OF, TOPIC_OF

__all__ = ["RequestJob"]


class RequestJob:
    """A job without steps, whose answers are journal rows. A subclass names its worker and implements `decide`."""

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

    async def replay_answers(self, connection: Connection, partition: int, start: int, end: int) -> list[Message]:
        """Return the stored answers and movements for the input offsets [start, end)."""
        return await replay_answers(connection, self.worker, partition, start, end)
