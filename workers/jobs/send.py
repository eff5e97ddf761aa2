"""The send job: decides whether a message may be sent, its cost, and whether its credit comes back."""

from infra.postgres import Connection
from schemas.catalogue import Undecodable
from workers.jobs.job import Batch, Decision
from workers.jobs.request_job import RequestJob
from workers.jobs.result_events import decision_from
from workers.ledger.model import Place, WorkerName
from workers.ledger.movements import decide
from workers.ledger.store import Answer, answer_all, open_batch

__all__ = ["SendJob"]


class SendJob(RequestJob):
    """Decides send requests: the body of `inmail worker send`."""

    worker = WorkerName.SEND

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Charge paid sends that find a credit, reverse undelivered ones, and answer every request.

        A request of an account whose number another server holds becomes a dead letter.
        """
        answers: list[Answer] = []
        refused: dict[Place, Undecodable] = {}
        for requests in await self._parts(connection, batch):
            opened = await open_batch(connection, self.worker, requests)
            await self._partitioning.record(connection, requests, opened.foreign)
            decided = await decide(connection, opened, self._catalogue, batch.waited_for)
            if wrong := self._wrong_partitions(opened):
                refused |= wrong
                requests = [each for each in requests if each.place not in wrong]  # noqa: PLW2901 - of this part
            answers += answer_all(opened, requests, decided)
        return decision_from(answers, refused)
