"""The base class of the send and the billing job, which decide requests of accounts batch by batch."""

from collections.abc import Sequence
from typing import Any

from infra.postgres import Connection
from schemas.catalogue import Undecodable
from schemas.dead_letters import DeadLetterReason
from schemas.envelope import Event
from workers.jobs.job import Batch, Decision, Message, StoredRange
from workers.jobs.partitioning_check import PartitioningCheck
from workers.jobs.result_events import decision_from
from workers.jobs.stored_events import replay_answers
from workers.ledger.accounts import lock_accounts
from workers.ledger.model import Place, Request, WorkerName
from workers.ledger.movements import decide
from workers.ledger.plans import Catalogue
from workers.ledger.store import Answer, Opened, answer_all, open_batch, split_at_repeats
from workers.topology import GROUP_OF, TOPIC_OF

__all__ = ["RequestJob"]


class RequestJob:
    """A job without steps, whose answers are journal rows. A subclass names its worker."""

    worker: WorkerName
    group: str
    topic: str
    gather_seconds = 0.0
    step = None

    def __init_subclass__(cls) -> None:
        cls.topic = TOPIC_OF[cls.worker]
        cls.group = GROUP_OF[cls.topic]

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._partitioning = PartitioningCheck(self.topic)

    def find_problem(self, event: Event) -> Undecodable | None:  # noqa: ARG002 - for subclasses
        """Return why a new request with an event becomes a dead letter; None where it can be decided."""
        return None

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Decide a batch inside the caller's transaction, and answer every request in the order of the records.

        A request becomes a dead letter where its event has a problem and it was not answered before, and where another
        server holds the number of its account.
        """
        answers: list[Answer] = []
        refused: dict[Place, Undecodable] = {}
        for requests in await self._parts(connection, batch):
            opened = await open_batch(
                connection,
                self.worker,
                requests,
                lambda request: self.find_problem(request.event) is None,
                # An answer that is not final is the only one of its record's place: while the batch waits, and would
                # get the like, it stands for the record that has the place now.
                batch.since if batch.waited_for is None else {},
            )
            await self._partitioning.record(connection, requests, opened.foreign)
            decided = await decide(connection, opened, self._catalogue, batch.waited_for)
            problems = {request.place: self.find_problem(request.event) for request in opened.set_aside}
            refused |= {place: problem for place, problem in problems.items() if problem is not None}
            refused |= self._wrong_partitions(opened)
            answered = [each for each in requests if each.place not in refused] if refused else requests
            answers += answer_all(opened, answered, decided)
        return decision_from(answers, refused)

    async def _parts(self, connection: Connection, batch: Batch) -> list[Sequence[Request[Any]]]:
        """Return a batch in the parts to decide one after the other, its accounts locked where they are several.

        Mostly one. Where an answer may not be final, the next record with its id is decided after it.
        """
        if batch.waited_for is None:
            return [batch.requests]
        parts: list[Sequence[Request[Any]]] = list(split_at_repeats(batch.requests))
        if len(parts) > 1:  # all locks are taken at once, in order
            await lock_accounts(connection, batch.requests)
        return parts

    @staticmethod
    def _wrong_partitions(opened: Opened) -> dict[Place, Undecodable]:
        """Return the reason for a dead letter of each request of an account that another server holds."""
        return {
            request.place: Undecodable(
                DeadLetterReason.WRONG_PARTITION,
                f"the account's number is {opened.elsewhere[request.account_id]}, which another server holds, and the"
                f" record came on partition {request.partition}: its producer has to partition by key with murmur2",
            )
            for request in opened.set_aside
            if request.account_id in opened.elsewhere
        }

    async def replay_answers(self, connection: Connection, partition: int, stored: StoredRange) -> list[Message]:
        """Return from the ledger's database what was decided for a range of records."""
        return await replay_answers(connection, self.worker, partition, stored)
