"""The billing job: applies subscriptions, gifts and corrections to an account's lots."""

from infra.postgres import Connection
from schemas.billing import SubscriptionPeriod
from schemas.catalogue import Undecodable
from schemas.envelope import Event
from schemas.results import DeadLetterReason
from workers.jobs.job import Batch, Decision
from workers.jobs.request_job import RequestJob
from workers.jobs.result_events import decision_from
from workers.ledger.model import Place, WorkerName
from workers.ledger.movements import decide
from workers.ledger.plans import Catalogue
from workers.ledger.store import Answer, answer_all, open_batch

__all__ = ["BillingJob", "unknown_plan"]


class BillingJob(RequestJob):
    """Decides billing events: the body of `inmail worker billing`."""

    worker = WorkerName.BILLING

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Grant, clamp, correct or refuse; answer every event.

        A new event with an unknown plan becomes a dead letter: once the catalogue has the plan, a redrive succeeds. An
        event that was answered before keeps its answer, also if its plan has been removed since. So does an event of an
        account whose number another server holds.
        """
        answers: list[Answer] = []
        refused: dict[Place, Undecodable] = {}
        for requests in await self._parts(connection, batch):
            opened = await open_batch(
                connection,
                self.worker,
                requests,
                lambda request: unknown_plan(request.event, self._catalogue) is None,
            )
            await self._partitioning.record(connection, requests, opened.foreign)
            decided = await decide(connection, opened, self._catalogue, batch.waited_for)
            problems = {request.place: unknown_plan(request.event, self._catalogue) for request in opened.set_aside}
            refused |= {place: problem for place, problem in problems.items() if problem is not None}
            refused |= self._wrong_partitions(opened)
            answers += answer_all(opened, [each for each in requests if each.place not in refused], decided)
        return decision_from(answers, refused)


def unknown_plan(event: Event, catalogue: Catalogue) -> Undecodable | None:
    """Return the reason for a dead letter if an event names a plan that the catalogue lacks, else None."""
    if not isinstance(event, SubscriptionPeriod) or event.data.plan in catalogue.plans:
        return None
    return Undecodable(
        DeadLetterReason.UNKNOWN_PLAN,
        f"data.plan: expected one of {', '.join(sorted(catalogue.plans))}, got {event.data.plan[:64]!r}",
    )
