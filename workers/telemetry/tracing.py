"""Traces of what a lane does: where they are off, nothing, and nothing is imported for it.

A lane tells of a batch when it decides it and when it publishes what came of it. What becomes of that is in
`traces_otel.py`; here is what it tells it to.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Protocol, Self

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.kafka.transactions import Message
from infra.settings import Settings, SettingsError

__all__ = ["NO_TRACE", "NO_TRACES", "BatchTrace", "Traces", "open_traces"]


class BatchTrace(Protocol):
    """One batch. Entered while it is decided; an error that leaves it is what became of the batch."""

    def __enter__(self) -> Self:
        """Its decision begins."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Its decision is stored, or failed."""

    def answered(self, messages: list[Message]) -> list[Message]:
        """Return what is to publish, with the headers that carry each request's trace on."""

    def publishing(self, messages: Sequence[Message]) -> AbstractContextManager[object]:
        """Return what to enter while its messages are published."""


class Traces(Protocol):
    """The traces of a worker."""

    def deciding(self, tp: TopicPartition, records: Sequence[ConsumerRecord]) -> BatchTrace:
        """Return the trace of a batch that is about to be decided."""


class _Nothing:
    """The trace of a batch, where traces are off."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def answered(self, messages: list[Message]) -> list[Message]:
        return messages

    def publishing(self, messages: Sequence[Message]) -> "_Nothing":  # noqa: ARG002
        return self

    def deciding(self, tp: TopicPartition, records: Sequence[ConsumerRecord]) -> "_Nothing":  # noqa: ARG002
        return self


_nothing = _Nothing()
NO_TRACE: BatchTrace = _nothing
NO_TRACES: Traces = _nothing


@asynccontextmanager
async def open_traces(settings: Settings, service: str) -> AsyncIterator[Traces]:
    """Give a worker's traces, and send what is left of them at the end.

    Raises:
        SettingsError: when they are switched on and what they need is not installed.

    """
    if not settings.traces:
        yield NO_TRACES
        return
    try:
        from workers.telemetry.tracing_otel import exported  # noqa: PLC0415 - half a second that only those pay who want traces
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"INMAIL_TRACES: {error.name} is not installed: pip install 'inmail-ledger[traces]'"
        ) from error
    async with exported(service) as traces:
        yield traces
