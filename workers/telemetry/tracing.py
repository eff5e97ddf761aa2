"""The interface through which a lane reports batches for tracing, and an implementation that does nothing.

`tracing_otel.py` implements the interface with OpenTelemetry, and is imported only if traces are switched on.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Protocol, Self

from aiokafka.structs import ConsumerRecord

from infra.kafka.transactions import Message
from infra.settings import Settings, SettingsError

__all__ = ["NO_TRACE", "NO_TRACES", "BatchTrace", "Traces", "open_traces"]


class BatchTrace(Protocol):
    """The trace of one batch: a context manager around its decision. An error that leaves the context is recorded."""

    def __enter__(self) -> Self:
        """Record that the decision begins."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record that the decision is stored, or the error."""

    def add_headers(self, messages: list[Message]) -> list[Message]:
        """Return the messages, with the headers that continue each request's trace."""

    def trace_publishing(self, messages: Sequence[Message]) -> AbstractContextManager[object]:
        """Return a context manager for the time in which the batch's messages are published."""


class Traces(Protocol):
    """Creates a worker's traces."""

    def trace_batch(self, topic: str, records: Sequence[ConsumerRecord]) -> BatchTrace:
        """Return the trace of a batch before its decision."""


class _NoTraces:
    """Traces that record nothing, for a worker whose traces are switched off."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def add_headers(self, messages: list[Message]) -> list[Message]:
        return messages

    def trace_publishing(self, messages: Sequence[Message]) -> "_NoTraces":  # noqa: ARG002
        return self

    def trace_batch(self, topic: str, records: Sequence[ConsumerRecord]) -> "_NoTraces":  # noqa: ARG002
        return self


_no_traces = _NoTraces()
NO_TRACE: BatchTrace = _no_traces
NO_TRACES: Traces = _no_traces


@asynccontextmanager
async def open_traces(settings: Settings, service: str) -> AsyncIterator[Traces]:
    """Provide a worker's traces; at the end, send the traces not yet sent.

    Raises:
        SettingsError: when traces are switched on and a package that they need is not installed.

    """
    if not settings.traces:
        yield NO_TRACES
        return
    try:
        from workers.telemetry.tracing_otel import export_traces  # noqa: PLC0415 - the import takes half a second
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"INMAIL_TRACES: {error.name} is not installed: pip install 'inmail-ledger[traces]'"
        ) from error
    async with export_traces(service) as traces:
        yield traces
