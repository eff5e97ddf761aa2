"""The billing job: applies subscriptions, gifts and corrections to an account's lots."""

from schemas.billing import SubscriptionPeriod
from schemas.catalogue import Undecodable
from schemas.dead_letters import DeadLetterReason
from schemas.envelope import Event
from workers.jobs.request_job import RequestJob
from workers.ledger.model import WorkerName
from workers.ledger.plans import Catalogue

__all__ = ["BillingJob", "unknown_plan"]


class BillingJob(RequestJob):
    """Grants, clamps, corrects or refuses: the body of `inmail worker billing`."""

    worker = WorkerName.BILLING
    # Sends wait for what it stores, and nobody for what it publishes: a Kafka transaction for each of few events cost
    # as much CPU as a hundred sends.
    gather_seconds = 0.2

    def find_problem(self, event: Event) -> Undecodable | None:
        """Return why an event becomes a dead letter: its plan is unknown.

        Once the catalogue has the plan, a redrive succeeds. An event that was answered before keeps its answer, also if
        its plan has been removed since.
        """
        return unknown_plan(event, self._catalogue)


def unknown_plan(event: Event, catalogue: Catalogue) -> Undecodable | None:
    """Return the reason for a dead letter if an event names a plan that the catalogue lacks, else None."""
    if not isinstance(event, SubscriptionPeriod) or event.data.plan in catalogue.plans:
        return None
    return Undecodable(
        DeadLetterReason.UNKNOWN_PLAN,
        f"data.plan: expected one of {', '.join(sorted(catalogue.plans))}, got {event.data.plan[:64]!r}",
    )
