"""The billing worker: what subscriptions, gifts and corrections make of an account's lots."""

from infra.postgres import Connection
from schemas.billing import SubscriptionPeriod
from schemas.catalogue import BILLING_EVENTS, Undecodable
from schemas.envelope import Event
from schemas.results import DeadLetterReason
from workers.jobs.job import Batch, Decision, Message
from workers.jobs.partitioning_check import PartitioningCheck
from workers.jobs.result_events import decision_of, recall_answers
from workers.ledger.model import WorkerName
from workers.ledger.movements import decide
from workers.ledger.plans import Catalogue
from workers.ledger.store import answer_all, open_batch
from workers.topology import GROUP_OF

__all__ = ["BillingJob", "unknown_plan"]


class BillingJob:
    """Decides billing events: the body of `inmail worker billing`."""

    group = GROUP_OF[BILLING_EVENTS]
    in_steps = False
    topic = BILLING_EVENTS

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._misplaced = PartitioningCheck(self.topic)

    async def step(self, connection: Connection, batch: Batch) -> bool:  # noqa: ARG002
        """All is decided at once."""
        return False

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Grant, clamp, correct or refuse; answer every event.

        A fresh event of an unknown plan is set aside: once the catalogue is mended, it can be sent again and succeed.
        One that was answered before keeps its answer, whatever became of its plan.
        """
        opened = await open_batch(
            connection,
            WorkerName.BILLING,
            batch.partition,
            batch.requests,
            lambda request: unknown_plan(request.event, self._catalogue) is None,
        )
        await self._misplaced.record(connection, batch.partition, batch.requests, opened.foreign)
        decided = await decide(connection, opened, self._catalogue)
        told = {request.offset: unknown_plan(request.event, self._catalogue) for request in opened.set_aside}
        refused = {offset: problem for offset, problem in told.items() if problem is not None}
        answered = [request for request in batch.requests if request.offset not in refused]
        return decision_of(answer_all(opened, answered, decided), batch.partition, refused)

    async def recall(self, connection: Connection, partition: int, start: int, end: int) -> list[Message]:
        """Return from the books what was decided for the input offsets [start, end)."""
        return await recall_answers(connection, WorkerName.BILLING, partition, start, end)


def unknown_plan(event: Event, catalogue: Catalogue) -> Undecodable | None:
    """Return what to say of an event whose plan the catalogue does not have; None of any other."""
    if not isinstance(event, SubscriptionPeriod) or event.data.plan in catalogue.plans:
        return None
    return Undecodable(
        DeadLetterReason.UNKNOWN_PLAN,
        f"data.plan: expected one of {', '.join(sorted(catalogue.plans))}, got {event.data.plan[:64]!r}",
    )
