"""The send worker: may this message be sent, and what does it cost."""

from infra.postgres import Connection
from schemas.catalogue import SEND_REQUESTS
from schemas.sends import SendRequested
from workers.events import answer, recall_answers
from workers.job import Batch, Message
from workers.ledger.model import Worker
from workers.ledger.movements import debit
from workers.ledger.plans import Catalogue
from workers.ledger.store import answer_all, open_batch

__all__ = ["SendJob"]


class SendJob:
    """Decides send requests: the body of `inmail worker send`."""

    group = "inmail-send"
    topic = SEND_REQUESTS

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def screen(self, event: SendRequested) -> None:
        """Nothing that decodes is beyond deciding."""

    async def decide(self, connection: Connection, batch: Batch) -> list[Message]:
        """Charge one credit for each paid send that finds one; answer every request."""
        opened = await open_batch(connection, batch.partition, batch.requests)
        decided = await debit(connection, opened, batch.partition, self._catalogue.free_relationships)
        return [
            answer(request.account_id, entry, batch, request.offset)
            for request, entry in answer_all(opened, batch.requests, decided)
        ]

    async def recall(self, connection: Connection, partition: int, start: int, end: int) -> list[Message]:
        """Return from the books what was decided for the input offsets [start, end)."""
        return await recall_answers(connection, Worker.SEND, partition, start, end)
