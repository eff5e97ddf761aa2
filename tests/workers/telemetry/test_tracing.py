"""Traces: a sender's trace goes on to whoever reads the answer; and where they are off there is nothing of them."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest
from aiohttp import web
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import ConsumerRecord
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from infra.kafka.clients import reader
from infra.kafka.transactions import Message
from infra.settings import Settings, SettingsError
from schemas.catalogue import DEAD_LETTERS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import EVENT_HEADERS, encode
from tests.workers.wire import ends, send, working
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue
from workers.telemetry.tracing import open_traces
from workers.telemetry.tracing_otel import OtelTraces, export_traces

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = [("traceparent", f"00-{TRACE}-{PARENT}-01".encode()), ("tracestate", b"shop=42")]
LANE = TopicPartition(SEND_REQUESTS, 3)


# -- through a worker -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _collector(patch: pytest.MonkeyPatch) -> AsyncIterator[list[Span]]:
    """Collect spans as an OpenTelemetry collector does."""
    spans: list[Span] = []

    async def take(request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        spans.extend(span for of_one in sent.resource_spans for scope in of_one.scope_spans for span in scope.spans)
        return web.Response()

    application = web.Application()
    application.router.add_post("/v1/traces", take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    patch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    try:
        yield spans
    finally:
        await runner.cleanup()


async def _read(settings: Settings, start: dict[TopicPartition, int], count: int) -> list[ConsumerRecord]:
    found: list[ConsumerRecord] = []
    async with reader(settings) as consumer, asyncio.timeout(30):
        consumer.assign(list(start))
        for tp, offset in start.items():
            consumer.seek(tp, offset)
        while len(found) < count:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += records
    return found


def _attributes(span: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def test_one_trace_goes_from_the_sender_to_the_answer(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer, and a dead letter, carry the trace of their request; a request without one is answered without."""
    traced, plain = send(account, relationship="connection"), send(account)
    start = await ends(cluster, SEND_RESULTS) | await ends(cluster, DEAD_LETTERS)
    async with AIOKafkaProducer(bootstrap_servers=cluster.kafka_bootstrap_servers) as producer:
        await producer.send_and_wait(SEND_REQUESTS, encode(traced), account.encode(), headers=SENT)
        await producer.send_and_wait(SEND_REQUESTS, encode(plain), account.encode())
        await producer.send_and_wait(SEND_REQUESTS, b"{}", account.encode(), headers=SENT)

    traced_worker = working(cluster.model_copy(update={"traces": True}), SendJob(load_catalogue()))
    async with _collector(monkeypatch) as spans, traced_worker:
        records = await _read(cluster, start, 3)

    sent_on = {(record.topic, str(traced.id).encode() in record.value): dict(record.headers) for record in records}
    assert sent_on[SEND_RESULTS, False] == dict(EVENT_HEADERS)
    for place in ((SEND_RESULTS, True), (DEAD_LETTERS, False)):
        assert sent_on[place]["tracestate"] == b"shop=42"
        assert sent_on[place].items() >= dict(EVENT_HEADERS).items()
        match = re.fullmatch(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-01", sent_on[place]["traceparent"])
        assert match is not None
        assert match[1].decode() == TRACE
        (own,) = [span for span in spans if span.span_id.hex() == match[2].decode()]
        assert (own.name, own.parent_span_id.hex()) == (f"process {SEND_REQUESTS}", PARENT)
        code = "inmail.code" if place[0] == SEND_RESULTS else "inmail.reason"
        assert _attributes(own)[code] in {"free", "insufficient_credits", "invalid_event", "not_an_event"}
    batches = [span for span in spans if not span.parent_span_id]
    assert sum(_attributes(span)["messaging.batch.message_count"] for span in batches) == 3  # type: ignore[misc]
    assert {link.trace_id.hex() for span in batches for link in span.links} == {TRACE}
    assert any(span.name.startswith("send") for span in spans)


# -- what a batch makes -----------------------------------------------------------------------------------------------


def _traces() -> tuple[OtelTraces, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OtelTraces(provider.get_tracer("test"), "inmail-send"), exporter


def _record(offset: int, headers: object) -> ConsumerRecord:
    return ConsumerRecord(LANE.topic, LANE.partition, offset, 0, 0, b"k", b"{}", None, 1, 2, headers)


def _answer(offset: int) -> Message:
    return Message(SEND_RESULTS, b"k", b'{"id":"x","type":"t","data":{"code":"free"}}', None, (LANE.partition, offset))


def test_publishing_is_a_span_of_the_batch() -> None:
    """And says where to and how many."""
    traces, exporter = _traces()
    with traces.trace_batch(LANE.topic, [_record(7, SENT)]) as batch:
        pass
    messages = batch.add_headers([_answer(7), _answer(8)])
    with batch.trace_publishing(messages):
        pass
    (decided, of_record, published) = exporter.get_finished_spans()
    assert [dict(message.headers or ()).keys() for message in messages] == [{"traceparent", "tracestate"}, set()]
    assert decided.context is not None
    assert published.parent == decided.context
    assert published.attributes is not None
    assert published.attributes["messaging.batch.message_count"] == 2
    assert published.name == f"send {SEND_RESULTS}"
    assert [link.context for link in of_record.links] == [decided.context]


@pytest.mark.parametrize(
    "headers",
    [
        (),
        [("traceparent", None)],
        [("traceparent", b"\xff\xfe")],
        [("traceparent", b"00-0-0-01")],
        [("tracestate", b"a")],
    ],
)
def test_headers_that_are_no_trace_are_none(headers: object) -> None:
    """Whatever a producer writes, nobody pays for it."""
    traces, exporter = _traces()
    with traces.trace_batch(LANE.topic, [_record(7, headers)]) as batch:
        pass
    assert batch.add_headers([_answer(7)]) == [_answer(7)]
    (decided,) = exporter.get_finished_spans()
    assert list(decided.links) == []


def test_a_batch_that_fails_says_so() -> None:
    """Its span has the error."""
    traces, exporter = _traces()
    with pytest.raises(OSError, match="away"), traces.trace_batch(LANE.topic, [_record(7, SENT)]):
        raise OSError("away")
    (decided,) = exporter.get_finished_spans()
    assert (decided.status.is_ok, decided.status.description) == (False, "away")
    assert decided.attributes is not None
    assert decided.attributes["error.type"] == "OSError"


def test_a_transaction_that_fails_says_so() -> None:
    """The batch was decided all the same."""
    traces, exporter = _traces()
    with traces.trace_batch(LANE.topic, [_record(7, ())]) as batch:
        pass
    with pytest.raises(OSError, match="away"), batch.trace_publishing([]):
        raise OSError("away")
    decided, published = exporter.get_finished_spans()
    assert [span.status.description for span in (decided, published)] == [None, "away"]


# -- on and off -------------------------------------------------------------------------------------------------------


def test_a_worker_without_traces_imports_nothing_for_them() -> None:
    """Off means free: not even memory."""
    loaded = "any(name.startswith('opentelemetry') for name in sys.modules)"
    program = f"import sys, workers.cli, workers.lane.worker; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


async def test_what_traces_need_is_named_where_it_is_missing(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wish that cannot be met ends the start, and says what to install."""
    monkeypatch.delitem(sys.modules, "workers.telemetry.tracing_otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"pip install 'inmail-ledger\[traces\]'"):
        async with open_traces(cluster.model_copy(update={"traces": True}), "inmail-send"):
            pass


async def test_a_collector_that_does_not_answer_holds_no_end_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of traces is worth two seconds, no more."""
    gone = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until whoever asks gives up
        writer.close()
        gone.set()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    async with export_traces("inmail-send") as traces:
        with traces.trace_batch(LANE.topic, [_record(7, ())]):
            pass
        began = monotonic()
    assert monotonic() - began < 4
    server.close()
    await asyncio.wait_for(gone.wait(), 20)
