"""The metrics of workers and of the books: named in one table, served as they are named, and counting what happened."""

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError, NotLeaderForPartitionError
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from infra.postgres import connect_database
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS
from tests.workers.scraping import Scrape, everyone, observing, scrape
from tests.workers.wire import eventually, promotion, publish, send
from workers.errors import FencedError, StuckError
from workers.ops.books import metrics_exporter
from workers.ops.books.lane_metrics import LaneReader, LaneState
from workers.ops.books.lanes import LaneProgress
from workers.ops.books.metrics_exporter import read_servers_once
from workers.telemetry import render
from workers.telemetry.answer_times import AnswerTimes
from workers.telemetry.health import Health
from workers.telemetry.metric import Metric, MetricKind
from workers.telemetry.metric_table import (
    API_METRICS,
    AUDITED_AT,
    BOOKS_METRICS,
    MISPLACED,
    SERVER_READY,
    TABLE,
    TICKER_METRICS,
    WORKER_METRICS,
)
from workers.telemetry.watchdog import watch_progress
from workers.telemetry.worker_metrics import Retry, WorkerMetrics, render_metrics, retry_class

BASE_UNITS = ("_seconds", "_credits", "_records", "_total", "_connections", "_connections_max", "_lanes", "_ready")
FEW_VALUED = {
    "worker",
    "code",
    "stage",
    "class",
    "kind",
    "neighbour",
    "reason",
    "state",
    "doing",
    "movement",
    "topic",
    "partition",
    "reading",
    "operation",
    "client",  # the operator's word: the name of a token
    "status",
    "server",
    "source",  # a producer's word, bounded where it is kept
}


@pytest.mark.parametrize(
    "metric", [*WORKER_METRICS, *TICKER_METRICS, *BOOKS_METRICS, *API_METRICS], ids=lambda metric: metric.name
)
def test_a_metric_is_named_by_its_unit_and_has_few_labels(metric: Metric) -> None:
    """Base units; `_total` for what only grows; no label whose values nobody can list."""
    assert re.fullmatch("inmail_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
    assert metric.name.endswith((*BASE_UNITS, "_remaining"))
    assert set(metric.labels) <= FEW_VALUED
    assert metric.meaning.endswith(".")


def test_the_document_of_metrics_has_to_be_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is written from the table; a stale one is named."""
    monkeypatch.setattr(render, "ROOT", tmp_path)
    assert 1 == render.main(["--check"])
    assert "docs/metrics.md" in capsys.readouterr().err
    (tmp_path / "docs").mkdir()
    assert 0 == render.main([])
    assert 0 == render.main(["--check"])
    document = tmp_path / "docs" / "metrics.md"
    assert all(f"| `{metric.name}` |" in document.read_text() for metric in TABLE)
    document.write_text(document.read_text() + "\n")
    assert 1 == render.main(["--check"])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FencedError(), Retry.FENCED),
        (TimeoutError(), Retry.TIMEOUT),
        (KafkaTimeoutError(), Retry.TIMEOUT),
        (asyncpg.QueryCanceledError(), Retry.TIMEOUT),
        (NotLeaderForPartitionError(), Retry.KAFKA),
        (KafkaError("no answer to a commit"), Retry.KAFKA),
        (asyncpg.DeadlockDetectedError(), Retry.POSTGRES),
        (asyncpg.ReadOnlySQLTransactionError(), Retry.POSTGRES),
        (asyncpg.ConnectionDoesNotExistError(), Retry.CONNECTION),
        (asyncpg.InterfaceError("connection is closed"), Retry.CONNECTION),
        (RuntimeError("handler is closed"), Retry.CONNECTION),
        (ConnectionRefusedError(), Retry.CONNECTION),
    ],
)
def test_a_retry_is_of_one_of_few_classes(error: Exception, told: Retry) -> None:
    """However many errors there are."""
    kept = WorkerMetrics("send")
    health = Health(300, kept=kept)
    health.lane(TopicPartition(SEND_REQUESTS, 0)).fails(error)
    seen = Scrape(render_metrics(kept.registry)[0].decode())

    assert told == retry_class(error)
    assert {each: float(each is told) for each in Retry} == {
        each: seen.value("inmail_retries_total", {"class": each.value}, worker="send") for each in Retry
    }


async def test_a_loop_that_is_blocked_is_late() -> None:
    """By as long as it was blocked, less what the sleeper would still have slept."""
    kept = WorkerMetrics("send")
    health = Health(0.4, kept=kept)
    watch = asyncio.create_task(watch_progress(health))
    await asyncio.sleep(0)
    blocked = asyncio.get_running_loop().time() + 0.6
    while asyncio.get_running_loop().time() < blocked:
        pass
    with pytest.raises(StuckError):
        await asyncio.wait_for(watch, 5)
    seen = Scrape(render_metrics(kept.registry)[0].decode())

    assert seen.value("inmail_loop_lag_seconds_bucket", le="0.25") < seen["inmail_loop_lag_seconds_count"]
    assert 0.4 < seen["inmail_loop_lag_seconds_sum"] < 5


def test_answer_times_are_those_of_a_histogram_that_observes_each_record() -> None:
    """However a turn's records are mixed: at a bucket's bound, of one moment, and of a clock that is ahead."""
    random, now = Random(7), 1_800_000_000_000.0  # noqa: S311 - a test
    waits = [0, 5, 10, 11, 1000, 1000, 5_000, 1_800_000, 1_800_001, *(random.randrange(3_000_000) for _ in range(500))]
    ours = AnswerTimes("send")
    each = Histogram(
        "each", "", ["worker"], buckets=[float(bound) for bound in _bounds(ours)[:-1]], registry=CollectorRegistry()
    )
    for turn in (waits[:9], waits[9:300], [], waits[300:], [-400, -1]):  # the last came after now, by the broker
        ours.observe([int(now) - wait for wait in turn], now)
        for wait in turn:
            each.labels("send").observe(max(0, wait) / 1000)

    expected = {(sample.name[4:], sample.labels["le"]): sample.value for sample in _samples(each, "_bucket")}
    assert expected == {(sample.name[21:], sample.labels["le"]): sample.value for sample in _samples(ours, "_bucket")}
    assert [511.0] == [sample.value for sample in _samples(ours, "_count")]
    assert [sample.value for sample in _samples(ours, "_sum")] == [
        pytest.approx(sample.value) for sample in _samples(each, "_sum")
    ]


def _samples(collector: Collector, suffix: str) -> list[Sample]:
    return [each for family in collector.collect() for each in family.samples if each.name.endswith(suffix)]


def _bounds(collector: Collector) -> list[str]:
    return [sample.labels["le"] for sample in _samples(collector, "_bucket")]


# -- lanes: stored and not published ----------------------------------------------------------------------------------

PLACE = TopicPartition(SEND_REQUESTS, 3)


def test_outcomes_wait_from_when_they_are_first_seen_until_just_they_are_published() -> None:
    """Under load something is always on its way: what counts is whether it is always the same."""
    now = datetime(2026, 3, 1, tzinfo=UTC)
    lanes = LaneReader(lambda: now)
    seen = []
    for stored, published in [(10, 10), (20, 10), (30, 10), (40, 25), (50, 39), (50, 50), (60, 50)]:
        seen += lanes.measure(
            [LaneProgress("inmail-send", *PLACE, stored, now - timedelta(seconds=7))], {PLACE: published}
        )
        now += timedelta(seconds=10)

    assert [(0, 0), (10, 0), (20, 10), (15, 0), (11, 10), (0, 0), (10, 0)] == [
        (each.unpublished, each.unpublished_seconds) for each in seen
    ]
    assert {7.0} == {each.watermark_age for each in seen}


def test_a_lane_that_never_stored_or_committed_waits_for_nothing() -> None:
    """It has no watermark either."""
    lane = LaneProgress("inmail-send", *PLACE, None, None)

    assert [LaneState(*PLACE, 0, 0.0, None)] == LaneReader().measure([lane], {PLACE: None})


# -- as they are served -----------------------------------------------------------------------------------------------


async def _shows(port: int, name: str, value: float, **labels: str) -> None:
    async def does() -> bool:
        try:
            return (await scrape(port)).value(name, **labels) == value
        except (OSError, KeyError):
            return False

    await eventually(does, f"{name}{labels} = {value}")


async def _has_lanes(port: int) -> bool:
    return "inmail_watermark_age_seconds" in (await scrape(port)).names()


async def test_a_run_is_counted_as_it_was_and_every_metric_of_the_table_is_served(
    cluster: Settings, account: str
) -> None:
    """Credits given, messages sent, one too many, one that nobody can read, one asked twice, and a tick."""
    sends = [send(account) for _ in range(3)]
    async with everyone(cluster) as ports:
        books = ports["metrics"]
        await publish(cluster, BILLING_EVENTS, [promotion(account, 2)])
        await _shows(ports["billing"], "inmail_outcomes_total", 1, code="granted")
        await publish(cluster, SEND_REQUESTS, [*sends, (account.encode(), b"{")])
        await _shows(ports["send"], "inmail_dead_letters_total", 1, reason="not_json")
        await publish(cluster, SEND_REQUESTS, sends[:1])
        await _shows(ports["send"], "inmail_outcomes_total", 1, code="repeat")
        await _shows(books, "inmail_credits_total", 2, movement="spent")
        await eventually(lambda: _has_lanes(books), "a look at lanes that have stored something")
        await _shows(books, "inmail_unpublished_records", 0)
        await _shows(ports["expiry"], "inmail_outcomes_total", cluster.topic_partitions, code="booked")
        await _shows(ports["send"], "inmail_answer_seconds_count", 5)  # each record once, the dead letter as well
        seen = {name: await scrape(port) for name, port in ports.items()}

    def counted(worker: str) -> dict[str, float]:
        codes = ("granted", "charged", "exhausted", "insufficient_credits", "low", "repeat")
        found = {code: seen[worker].value("inmail_outcomes_total", code=code, worker=worker) for code in codes}
        return {code: count for code, count in found.items() if count}

    workers = seen["send"].names()
    assert {metric.name for metric in TICKER_METRICS} <= seen["ticker"].names()
    for metric in WORKER_METRICS:
        assert metric.name in workers or f"{metric.name}_bucket" in workers
    # No record was misplaced, and no audit has moved the mark: a series begins with the first. One server has no name.
    absent = {MISPLACED.name, AUDITED_AT.name, SERVER_READY.name}
    assert {metric.name for metric in BOOKS_METRICS} - absent <= seen["metrics"].names()
    assert {"granted": 1} == counted("billing")
    assert {"charged": 2, "insufficient_credits": 1, "repeat": 1} == {
        code: count for code, count in counted("send").items() if code not in ("low", "exhausted")
    }
    assert 5 == seen["send"]["inmail_batch_records_sum"]
    assert 5 == seen["send"].value("inmail_answer_seconds_bucket", le="300.0")
    assert 0 < seen["send"]["inmail_answer_seconds_sum"] < 5 * 60
    for stage in ("fetch", "wait", "decode", "decide", "publish", "commit"):
        assert seen["send"].value("inmail_stage_seconds_count", stage=stage) > 0
        assert 0 <= seen["send"].value("inmail_stage_seconds_sum", stage=stage) < 30
    assert {"granted": 2, "spent": 2, "expired": 0} == {
        each: seen["metrics"].value("inmail_credits_total", movement=each) for each in ("granted", "spent", "expired")
    }
    assert 0 == seen["metrics"]["inmail_credits_remaining"] == seen["metrics"]["inmail_conservation_difference_credits"]
    assert 3600 == seen["ticker"]["inmail_tick_interval_seconds"]
    assert [1] * 4 == [seen[name].value("inmail_ready", worker=name) for name in ports.keys() - {"metrics", "lag"}]
    assert cluster.topic_partitions == seen["send"].value("inmail_lanes", doing="waiting")
    assert cluster.database_connections == seen["send"]["inmail_pool_connections_max"]
    assert 1 <= seen["send"]["inmail_pool_connections"] <= cluster.database_connections
    assert seen["send"]["process_cpu_seconds_total"] > 0


async def test_the_same_is_told_once_without_a_server(cluster: Settings) -> None:
    """By `inmail metrics`. What is stored and not published is seen where a group's offset is behind the books."""
    connection = await connect_database(cluster)
    await connection.execute("update lanes set next_offset = next_offset + 7 where topic = $1", EXPIRY_TICKS)
    await connection.close()
    seen = Scrape((await read_servers_once(cluster))[0].decode())

    assert 7 * cluster.topic_partitions == seen.value("inmail_unpublished_records", topic=EXPIRY_TICKS)
    assert 0 == seen.value("inmail_unpublished_records", topic=SEND_REQUESTS)


async def test_a_reading_that_fails_is_made_again(cluster: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile the observer is not ready, and its last reading grows old."""
    fail = asyncio.Event()
    fail.set()
    whole = metrics_exporter.open_books
    tried: Counter[str] = Counter()

    def opened(settings: Settings) -> object:
        tried["times"] += 1
        if fail.is_set():
            raise ConnectionRefusedError
        return whole(settings)

    monkeypatch.setattr(metrics_exporter, "open_books", opened)
    async with observing(cluster) as port:

        async def tried_again() -> bool:
            return tried["times"] >= 4

        await eventually(tried_again, "tried again")
        assert {"inmail_credits_total"}.isdisjoint((await scrape(port)).names())
        fail.clear()
        await _shows(port, "inmail_credits_remaining", 0)
