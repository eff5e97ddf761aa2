"""What a worker gives to its lanes: a topic to read, what can never succeed, and how a batch is decided."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from infra.kafka.transactions import Message
from infra.postgres import Connection
from schemas.catalogue import Undecodable
from workers.ledger.model import Request

__all__ = ["Batch", "Decision", "Job", "Message", "Step"]


@dataclass(frozen=True, slots=True)
class Batch:
    """The decodable records that a lane took together from one partition."""

    topic: str
    partition: int
    requests: Sequence[Request[Any]]


class Decision(NamedTuple):
    """What came of a batch: what to publish, and which records, by offset, are well-formed and still cannot succeed.

    And, for who watches, how many outcomes there are of each code.
    """

    messages: list[Message]
    refused: dict[int, Undecodable]
    codes: "Counter[str]"


Step = Callable[[Connection, Batch], Awaitable[bool]]


class Job(Protocol):
    """One worker's part of the work. Everything about offsets, transactions and failures is the lane's."""

    group: str
    topic: str

    @property
    def step(self) -> Step | None:
        """Do a bounded part of a batch's work ahead of its decision, in a transaction of its own; None: there is none.

        Returns whether a part was left; called until none is. What it books belongs to the batch's records, and is
        published with their answers.
        """

    async def decide(self, connection: Connection, batch: Batch) -> Decision:
        """Decide a batch inside the caller's transaction and return its answers, in order.

        Asked again for the same records, it must find what it decided and return the same answers.
        """

    async def recall(self, connection: Connection, partition: int, start: int, end: int) -> list[Message]:
        """Return from the books what was decided for the input offsets [start, end)."""
