"""The billing worker: what subscriptions, gifts and corrections make of an account's lots."""

from infra.postgres import Connection
from schemas.billing import SubscriptionPeriod
from schemas.catalogue import BILLING_EVENTS, Undecodable
from schemas.envelope import AccountEvent
from schemas.results import DeadLetterReason
from workers.events import messages_of, recall_answers
from workers.job import Batch, Message
from workers.ledger.model import Worker
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

    def screen(self, event: AccountEvent) -> None:
        """Set aside an event of an unknown plan: once the catalogue is mended, it can be sent again and succeed."""
        if isinstance(event, SubscriptionPeriod) and event.data.plan not in self._catalogue.plans:
            raise Undecodable(
                DeadLetterReason.UNKNOWN_PLAN,
                f"data.plan: expected one of {', '.join(sorted(self._catalogue.plans))}, got {event.data.plan[:64]!r}",
            )

    async def step(self, connection: Connection, batch: Batch) -> bool:  # noqa: ARG002
        """All is decided at once."""
        return False

    async def decide(self, connection: Connection, batch: Batch) -> list[Message]:
        """Grant, clamp, correct or refuse; answer every event."""
        opened = await open_batch(connection, Worker.BILLING, batch.partition, batch.requests)
        decided = await decide(connection, opened, self._catalogue)
        return messages_of(answer_all(opened, batch.requests, decided), batch.partition)

    async def recall(self, connection: Connection, partition: int, start: int, end: int) -> list[Message]:
        """Return from the books what was decided for the input offsets [start, end)."""
        return await recall_answers(connection, Worker.BILLING, partition, start, end)
