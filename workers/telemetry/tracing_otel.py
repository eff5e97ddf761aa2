"""Traces by OpenTelemetry, after its conventions for messaging: https://opentelemetry.io/docs/specs/semconv/messaging/.

A batch has a span of its own, linked to the contexts that its records came with (W3C `traceparent` in their headers).
A record that came with one has a span besides: a child of the sender's, so that one trace goes from whoever asked to
whoever reads the answer, which carries this span's context in its headers. A record that came with none has none.

Where to send and what to sample is told by OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and the like.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from time import time_ns
from types import TracebackType
from typing import Any, Self

from aiokafka import TopicPartition
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

__all__ = ["OtelTraces", "exported"]

_STOP_SECONDS = 2.0  # what is left of traces may hold an end up for so long
_NOTHING = Context()

Headers = Sequence[tuple[str, bytes | None]]


class _HeaderGetter(Getter[Headers]):
    """Reads a record's headers. What is no text is no trace's."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        values = [value.decode("ascii", "replace") for name, value in carrier if name == key and value is not None]
        return values or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name for name, _ in carrier]


class _HeaderSetter(Setter["list[tuple[str, bytes]]"]):
    """Writes headers of a record."""

    def set(self, carrier: "list[tuple[str, bytes]]", key: str, value: str) -> None:
        carrier.append((key, value.encode()))


_propagator = TraceContextTextMapPropagator()
_read, _write = _HeaderGetter(), _HeaderSetter()


@asynccontextmanager
async def exported(service: str) -> AsyncIterator["OtelTraces"]:
    """Give traces that are sent by OTLP over HTTP, from a thread of their own; the last of them at the end."""
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
    """A worker's traces."""

    def __init__(self, tracer: Tracer, group: str) -> None:
        self._tracer = tracer
        self._group = group

    def deciding(self, tp: TopicPartition, records: Sequence[ConsumerRecord]) -> "_BatchSpans":
        """Return the trace of a batch that is about to be decided."""
        common = {
            "messaging.system": "kafka",
            "messaging.consumer.group.name": self._group,
            "messaging.destination.name": tp.topic,
            "messaging.destination.partition.id": str(tp.partition),
        }
        return _BatchSpans(self._tracer, common, records)


class _BatchSpans:
    """One batch: its span, those of its records, and that of publishing."""

    def __init__(self, tracer: Tracer, common: dict[str, Any], records: Sequence[ConsumerRecord]) -> None:
        self._tracer = tracer
        self._process = common | {"messaging.operation.name": "process", "messaging.operation.type": "process"}
        self._came_with = {}
        for record in records:
            context = _propagator.extract(record.headers, _NOTHING, _read)
            if get_current_span(context).get_span_context().is_valid:
                self._came_with[record.offset] = context
        self._count = len(records)
        self._began = time_ns()
        self._span: Span

    def __enter__(self) -> Self:
        """Begin its span."""
        self._began = time_ns()
        self._span = self._tracer.start_span(
            f"process {self._process['messaging.destination.name']}",
            _NOTHING,
            SpanKind.CONSUMER,
            self._process | {"messaging.batch.message_count": self._count},
            [
                Link(get_current_span(context).get_span_context(), {"messaging.kafka.offset": offset})
                for offset, context in self._came_with.items()
            ],
            self._began,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End its span, with the error that ended it if one did."""
        _end(self._span, error)

    def answered(self, messages: list[Message]) -> list[Message]:
        """Return the messages; those that answer a record that came with a trace carry it on."""
        if not self._came_with:
            return messages
        answers: dict[int, list[Message]] = {}
        for message in messages:
            if message.origin is not None and message.origin in self._came_with:
                answers.setdefault(message.origin, []).append(message)
        headers = {offset: self._of_record(offset, answers.get(offset, ())) for offset in self._came_with}
        return [
            message._replace(headers=headers[message.origin]) if message.origin in headers else message
            for message in messages
        ]

    def _of_record(self, offset: int, answers: Sequence[Message]) -> "list[tuple[str, bytes]]":
        """Make a record's span; return the headers that carry it on."""
        span = self._tracer.start_span(
            f"process {self._process['messaging.destination.name']}",
            self._came_with[offset],
            SpanKind.CONSUMER,
            self._process | {"messaging.kafka.offset": offset},
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
    def publishing(self, messages: Sequence[Message]) -> Iterator[None]:
        """Make the span of the transaction that publishes the messages."""
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


def _end(span: Span, error: BaseException | None) -> None:
    if error is not None:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(StatusCode.ERROR, str(error))
    span.end()


def _outcome(answer: Message) -> dict[str, str]:
    """Return what a person looks for in a trace: which event answered, and what it says."""
    event = json.loads(answer.value)
    data = event["data"]
    found = {"messaging.message.id": event["id"], "inmail.event.type": event["type"]}
    return found | {f"inmail.{name}": str(data[name]) for name in ("code", "request_id", "reason") if name in data}
