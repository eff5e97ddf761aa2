"""The interface between a worker and its lanes: batches in, decisions out."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from infra.clock import EARLIEST
from infra.kafka.transactions import Message
from infra.postgres import Connection
from schemas.catalogue import Undecodable
from workers.ledger.model import Place, Request

__all__ = ["Batch", "Decision", "Job", "Message", "Place", "Step", "StoredRange"]


@dataclass(frozen=True, slots=True)
class Batch:
    """The decoded requests of a batch of records from one or several partitions of the job's topic.

    Requests of one partition are in the order of their offsets.
    """

    requests: Sequence[Request[Any]]
    waited_for: str | None = None  # consumer group with records unread that come before these and may give credits
    read_to: datetime = EARLIEST  # up to when the lanes that may give credits have read all they have
    # Partitions whose topic followed another one, with the watermark then: rows up to that are of other records.
    since: Mapping[int, datetime] = field(default_factory=dict)


class StoredRange(NamedTuple):
    """Records of one topic that were decided: from an offset to another, between two watermarks of their lane.

    A topic that was created again has other records at the same offsets. They were decided under a later watermark.
    """

    start: int
    end: int
    after: datetime | None = None  # None: from the beginning
    up_to: datetime | None = None  # None: up to now


class Decision(NamedTuple):
    """The result of deciding a batch."""

    messages: list[Message]  # to publish
    refused: dict[Place, Undecodable]  # valid records that can never succeed: to dead-letter
    codes: "Counter[str]"  # number of outcomes by code, for the metrics


Step = Callable[[Connection, Batch], Awaitable[bool]]


class Job(Protocol):
    """A worker's decisions. Offsets, transactions and failures are the lane's."""

    group: str
    topic: str

    @property
    def gather_seconds(self) -> float:
        """How long answers that are stored may wait for later ones, to be published in one Kafka transaction."""

    @property
    def step(self) -> Step | None:
        """A function that does a bounded part of a batch's work before the decision; None if the job has no such work.

        The function is called in a transaction of its own, with requests of one partition, again and again until it
        returns False: no work is left after it. Rows that it books belong to the batch's records and are published with
        their answers.
        """

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Decide a batch inside the caller's transaction and return the answers in the order of the records.

        A second call with the same records must return the stored answers of the first.
        """

    async def replay_answers(self, connection: Connection, partition: int, stored: StoredRange) -> list[Message]:
        """Return from the books what was decided for a range of records."""
