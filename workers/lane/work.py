"""What the owners of one worker share: the job, its settings and its clients."""

from typing import NamedTuple

from infra.settings import Settings
from workers.jobs.job import Job
from workers.lane.clients import Clients

__all__ = ["Work"]


class Work(NamedTuple):
    """A worker's job and what it does it with."""

    job: Job
    settings: Settings
    clients: Clients
