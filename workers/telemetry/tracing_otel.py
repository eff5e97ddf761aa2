"""Traces with OpenTelemetry, by its conventions for messaging: https://opentelemetry.io/docs/specs/semconv/messaging/.

Each batch has a span, linked to the trace contexts of its records (W3C `traceparent` in the headers). A record with a
trace context also has a span of its own, a child of the producer's. The answer's headers carry the context of this
span, so that one trace leads from the producer to the reader of the answer.

OpenTelemetry's own variables configure the export and sampling: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER,
OTEL_RESOURCE_ATTRIBUTES and others.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from time import time_ns
from types import TracebackType
from typing import Any, Self

from aiokafka.structs import ConsumerRecord
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import Getter, Setter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from infra.kafka.transactions import Message

__all__ = ["OtelTraces", "export_traces"]

_STOP_SECONDS = 2.0  # sending the last traces may delay the end of the process by this much
_NOTHING = Context()

Headers = Sequence[tuple[str, bytes | None]]


class _HeaderGetter(Getter[Headers]):
    """Reads a record's headers for OpenTelemetry, with bytes that are not ASCII replaced."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        values = [value.decode("ascii", "replace") for name, value in carrier if name == key and value is not None]
        return values or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name for name, _ in carrier]


class _HeaderSetter(Setter["list[tuple[str, bytes]]"]):
    """Writes a record's headers for OpenTelemetry."""

    def set(self, carrier: "list[tuple[str, bytes]]", key: str, value: str) -> None:
        carrier.append((key, value.encode()))


_propagator = TraceContextTextMapPropagator()
_read, _write = _HeaderGetter(), _HeaderSetter()


@asynccontextmanager
async def export_traces(service: str) -> AsyncIterator["OtelTraces"]:
    """Provide traces that a thread sends by OTLP over HTTP; at the end, send the traces not yet sent."""
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield OtelTraces(provider.get_tracer("inmail"), service)
    finally:
        # A collector that does not answer must not keep a worker from ending.
        last = threading.Thread(target=provider.shutdown, name="last-traces", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, _STOP_SECONDS)


class OtelTraces:
    """Creates a worker's traces with OpenTelemetry."""

    def __init__(self, tracer: Tracer, group: str) -> None:
        self._tracer = tracer
        self._group = group

    def trace_batch(self, topic: str, records: Sequence[ConsumerRecord]) -> "_BatchSpans":
        """Return the trace of a batch before its decision."""
        common = {
            "messaging.system": "kafka",
            "messaging.consumer.group.name": self._group,
            "messaging.destination.name": topic,
        }
        return _BatchSpans(self._tracer, common, records)


class _BatchSpans:
    """The spans of one batch: of its decision, its records and its publication."""

    def __init__(self, tracer: Tracer, common: dict[str, Any], records: Sequence[ConsumerRecord]) -> None:
        self._tracer = tracer
        self._process = common | {"messaging.operation.name": "process", "messaging.operation.type": "process"}
        self._contexts: dict[tuple[int, int], Context] = {}  # by partition and offset
        for record in records:
            context = _propagator.extract(record.headers, _NOTHING, _read)
            if get_current_span(context).get_span_context().is_valid:
                self._contexts[record.partition, record.offset] = context
        self._count = len(records)
        self._began = time_ns()
        self._span: Span

    def __enter__(self) -> Self:
        """Begin the batch's span."""
        self._began = time_ns()
        self._span = self._tracer.start_span(
            f"process {self._process['messaging.destination.name']}",
            _NOTHING,
            SpanKind.CONSUMER,
            self._process | {"messaging.batch.message_count": self._count},
            [
                Link(get_current_span(context).get_span_context(), _place_attributes(place))
                for place, context in self._contexts.items()
            ],
            self._began,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the batch's span, with the error if there was one."""
        _end(self._span, error)

    def add_headers(self, messages: list[Message]) -> list[Message]:
        """Return the messages; answers to records with a trace context get headers that continue the trace."""
        if not self._contexts:
            return messages
        answers: dict[tuple[int, int], list[Message]] = {}
        for message in messages:
            if message.origin is not None and message.origin in self._contexts:
                answers.setdefault(message.origin, []).append(message)
        headers = {place: self._trace_record(place, answers.get(place, ())) for place in self._contexts}
        return [
            message._replace(headers=[*(message.headers or ()), *headers[message.origin]])
            if message.origin in headers
            else message
            for message in messages
        ]

    def _trace_record(self, place: tuple[int, int], answers: Sequence[Message]) -> "list[tuple[str, bytes]]":
        """Record a record's span and return the headers that continue its trace."""
        span = self._tracer.start_span(
            f"process {self._process['messaging.destination.name']}",
            self._contexts[place],
            SpanKind.CONSUMER,
            self._process | _place_attributes(place),
            [Link(self._span.get_span_context())],
            self._began,
        )
        if span.is_recording() and answers:
            span.set_attributes(_outcome(answers[0]))
        span.end()
        headers: list[tuple[str, bytes]] = []
        _propagator.inject(headers, set_span_in_context(span, _NOTHING), _write)
        return headers

    @contextmanager
    def trace_publishing(self, messages: Sequence[Message]) -> Iterator[None]:
        """Record the span of the transaction that publishes the messages."""
        topics = {message.topic for message in messages}
        place = {"messaging.destination.name": topics.pop()} if len(topics) == 1 else {}
        span = self._tracer.start_span(
            " ".join(("send", *place.values())),
            set_span_in_context(self._span, _NOTHING),
            SpanKind.CLIENT,
            {
                "messaging.system": "kafka",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.batch.message_count": len(messages),
                **place,
            },
        )
        try:
            yield
        except BaseException as error:
            _end(span, error)
            raise
        _end(span, None)


def _place_attributes(place: tuple[int, int]) -> dict[str, str | int]:
    partition, offset = place
    return {"messaging.destination.partition.id": str(partition), "messaging.kafka.offset": offset}


def _end(span: Span, error: BaseException | None) -> None:
    if error is not None:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(StatusCode.ERROR, str(error))
    span.end()


def _outcome(answer: Message) -> dict[str, str]:
    """Return the attributes of an answer for its span: event id, type, code, request id and reason."""
    event = json.loads(answer.value)
    data = event["data"]
    found = {"messaging.message.id": event["id"], "inmail.event.type": event["type"]}
    return found | {f"inmail.{name}": str(data[name]) for name in ("code", "request_id", "reason") if name in data}
