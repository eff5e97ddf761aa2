"""The billing worker: what subscriptions, gifts and corrections make of an account's lots."""

from typing import Any
from uuid import UUID

from infra.postgres import Connection
from schemas.billing import SubscriptionPeriod
from schemas.catalogue import BILLING_EVENTS, Undecodable
from schemas.envelope import AccountEvent
from schemas.results import DeadLetterReason
from workers.events import messages_of, recall_answers
from workers.job import Batch, Decision, Message
from workers.ledger.model import Request, Worker
from workers.ledger.movements import decide
from workers.ledger.plans import Catalogue
from workers.ledger.store import answer_all, open_batch

__all__ = ["BillingJob"]


class BillingJob:
    """Decides billing events: the body of `inmail worker billing`."""

    group = "inmail-billing"
    in_steps = False
    topic = BILLING_EVENTS

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def step(self, connection: Connection, batch: Batch) -> bool:  # noqa: ARG002
        """All is decided at once."""
        return False

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Grant, clamp, correct or refuse; answer every event.

        A fresh event of an unknown plan is set aside: once the catalogue is mended, it can be sent again and succeed.
        One that was answered before keeps its answer, whatever became of its plan.
        """
        opened = await open_batch(connection, Worker.BILLING, batch.partition, batch.requests)
        unknown = {_identity(r) for r, conflict in opened.fresh if not (conflict or self._knows_plan(r.event))}
        refused = {r.offset: self._unknown_plan(r.event) for r in batch.requests if _identity(r) in unknown}
        opened = opened._replace(fresh=[item for item in opened.fresh if _identity(item[0]) not in unknown])
        decided = await decide(connection, opened, self._catalogue)
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


def _identity(request: Request[Any]) -> tuple[str, UUID, int]:
    return request.account_id, request.request_id, request.fingerprint
