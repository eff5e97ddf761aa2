"""The billing worker: what subscriptions, gifts and corrections make of an account's lots."""

from infra.postgres import Connection
from schemas.billing import SubscriptionPeriod
from schemas.catalogue import BILLING_EVENTS, Undecodable
from schemas.envelope import AccountEvent
from schemas.results import DeadLetterReason
from workers.events import messages_of, recall_answers
from workers.job import Batch, Decision, Message
from workers.ledger.model import Worker
from workers.ledger.movements import decide
from workers.ledger.plans import Catalogue
from workers.ledger.store import answer_all, open_batch
from workers.misplaced import Misplaced

__all__ = ["BillingJob"]


class BillingJob:
    """Decides billing events: the body of `inmail worker billing`."""

    group = "inmail-billing"
    in_steps = False
    topic = BILLING_EVENTS

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._misplaced = Misplaced(self.topic)

    async def step(self, connection: Connection, batch: Batch) -> bool:  # noqa: ARG002
        """All is decided at once."""
        return False

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Grant, clamp, correct or refuse; answer every event.

        A fresh event of an unknown plan is set aside: once the catalogue is mended, it can be sent again and succeed.
        One that was answered before keeps its answer, whatever became of its plan.
        """
        opened = await open_batch(
            connection, Worker.BILLING, batch.partition, batch.requests, lambda request: self._knows_plan(request.event)
        )
        self._misplaced.count(batch.partition, opened.foreign)
        decided = await decide(connection, opened, self._catalogue)
        refused = {request.offset: self._unknown_plan(request.event) for request in opened.set_aside}
        answered = [request for request in batch.requests if request.offset not in refused]
        return Decision(messages_of(answer_all(opened, answered, decided), batch.partition), refused)

    def _knows_plan(self, event: AccountEvent) -> bool:
        return not isinstance(event, SubscriptionPeriod) or event.data.plan in self._catalogue.plans

    def _unknown_plan(self, event: SubscriptionPeriod) -> Undecodable:
        return Undecodable(
            DeadLetterReason.UNKNOWN_PLAN,
            f"data.plan: expected one of {', '.join(sorted(self._catalogue.plans))}, got {event.data.plan[:64]!r}",
        )

    async def recall(self, connection: Connection, partition: int, start: int, end: int) -> list[Message]:
        """Return from the books what was decided for the input offsets [start, end)."""
        return await recall_answers(connection, Worker.BILLING, partition, start, end)
