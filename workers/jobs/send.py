"""The send job: decides whether a message may be sent, its cost, and whether its credit comes back."""

from workers.jobs.request_job import RequestJob
from workers.ledger.model import WorkerName

__all__ = ["SendJob"]


class SendJob(RequestJob):
    """Charges paid sends that find a credit, and reverses undelivered ones: the body of `inmail worker send`."""

    worker = WorkerName.SEND
