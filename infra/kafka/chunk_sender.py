"""Sends records at a rate in chunks, with a hook before and after each chunk that records what was sent."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from aiokafka.errors import BrokerResponseError, KafkaError
from aiokafka.structs import RecordMetadata

from infra.kafka.sender import Outgoing, Sender
from infra.rate_limit import RateLimit
from infra.settings import Settings

__all__ = ["ChunkResult", "ChunkSender"]

Item = TypeVar("Item")


@dataclass(slots=True)
class ChunkResult(Generic[Item]):
    """The brokers' answers to one chunk. Items in none of the first three lists are in doubt."""

    sent: list[tuple[Item, RecordMetadata]] = field(default_factory=list)
    refused: list[tuple[Item, BrokerResponseError]] = field(default_factory=list)
    unsent: list[Item] = field(default_factory=list)  # not sent because of a stop or an error
    handed_over: list[Item] = field(default_factory=list)  # given to the producer, in order
    failed: bool = False  # an error ended the chunk; it is raised after the hook


class ChunkSender(ABC, Generic[Item]):
    """Sends records at a rate, in chunks of at most one second, with a hook before and after each chunk.

    A subclass records in the hooks what it is about to send and what was sent. So a process that is killed leaves at
    most one chunk in doubt.
    """

    def __init__(  # noqa: PLR0913 - one parameter a setting
        self,
        settings: Settings,
        client_id: str,
        rate: float,
        stop: asyncio.Event,
        *,
        chunk_size: int,
        large: bool = False,
    ) -> None:
        """Create a sender of `rate` records a second and at most `chunk_size` records a chunk, ended by `stop`."""
        self._stop = stop
        self._size = max(1, min(chunk_size, round(rate)))
        self._rate_limit = RateLimit(rate, stop)
        self._sender = Sender(settings, client_id, self._note_sent, self._note_refused, stop=stop, large=large)
        self._chunk: Sequence[tuple[Item, Outgoing]] = ()
        self._result: ChunkResult[Item] = ChunkResult()

    async def before_chunk(self, items: Sequence[Item]) -> None:
        """Record the items that are about to be sent."""

    @abstractmethod
    async def after_chunk(self, result: ChunkResult[Item]) -> None:
        """Record the brokers' answers."""

    async def start(self) -> None:
        """Start the producer, so that an unreachable cluster is found before anything is recorded.

        Raises:
            KafkaError: when the cluster cannot be reached.

        """
        await self._sender.start()

    async def send_all(self, records: Sequence[tuple[Item, Outgoing]]) -> bool:
        """Send records until all are sent or a stop is requested; return whether a stop left some unsent.

        Raises:
            KafkaError, OSError: when the brokers do not answer; the chunk's result was given to `after_chunk` before.

        """
        for start in range(0, len(records), self._size):
            if self._stop.is_set():
                return True
            await self._send_chunk(records[start : start + self._size])
            if self._result.unsent:
                return True
        return False

    async def close(self) -> None:
        """Stop the producer, within 5 s."""
        await self._sender.close()

    async def _send_chunk(self, chunk: Sequence[tuple[Item, Outgoing]]) -> None:
        self._chunk, self._result = chunk, ChunkResult()
        await self.before_chunk([item for item, _ in chunk])
        try:
            for number, (item, outgoing) in enumerate(chunk):
                if await self._rate_limit.before():
                    break
                self._result.handed_over.append(item)  # before the send: a record whose hand-over fails is in doubt
                await self._sender.send(number, outgoing)
            await self._sender.settle()
        except (KafkaError, OSError):
            self._result.failed = True
            await self._end_chunk()
            raise
        await self._end_chunk()

    async def _end_chunk(self) -> None:
        self._result.unsent = [item for item, _ in self._chunk[len(self._result.handed_over) :]]
        await self.after_chunk(self._result)

    def _note_sent(self, number: int, _: Outgoing, metadata: RecordMetadata) -> None:
        self._result.sent.append((self._chunk[number][0], metadata))

    def _note_refused(self, number: int, error: BrokerResponseError) -> None:
        self._result.refused.append((self._chunk[number][0], error))
