"""Results that are published again are no news in the console, and those of after an outage are."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from infra.clock import utc_now
from infra.kafka.clients import partition_of
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS
from schemas.dead_letters import DeadLetterReason
from tests.workers.replaying import ME, work_off
from tests.workers.wire import ends, prepare, publish, send
from workers.console.ledger_sample import LedgerSample
from workers.console.published_marks import PublishedMarks
from workers.console.query_limiter import QueryLimiter
from workers.console.result_tail import ResultTail
from workers.console.system_monitor import SystemMonitor
from workers.jobs.send import SendJob
from workers.ledger.model import WorkerName
from workers.ledger.plans import load_catalogue
from workers.ops.books.lanes import LaneProgress
from workers.ops.replay.rewind import rewind
from workers.ops.replay.rewind_plan import RewindOptions, plan_rewind
from workers.ops.replay.rewind_target import RewindTarget, TargetKind
from workers.ops.topics.plan import apply_topics, plan_topics

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ACCOUNT = "rewound"
BAD = (ACCOUNT.encode(), b"{}")


@pytest.fixture
async def marks() -> PublishedMarks:
    """The marks of a console that has seen none."""
    return PublishedMarks()


@pytest.fixture
async def tail(settings: Settings, marks: PublishedMarks) -> AsyncIterator[ResultTail]:
    """A reader at the ends of the result topics, whose groups are at the ends of theirs."""
    await prepare(settings)
    opened = ResultTail(settings, marks)
    await opened.read()
    yield opened
    await opened.close()


async def test_a_rewind_brings_no_new_dead_letters_and_no_latencies(
    settings: Settings, marks: PublishedMarks, tail: ResultTail
) -> None:
    """Answers count, as downstream sees them; what came while the workers were away is published the first time."""
    number = partition_of(ACCOUNT.encode(), settings.topic_partitions)
    begin = next(offset for place, offset in (await ends(settings, SEND_REQUESTS)).items() if place.partition == number)
    free = [send(ACCOUNT, relationship="connection") for _ in range(3)]
    await publish(settings, SEND_REQUESTS, [BAD, BAD, *free[:2]])
    await work_off(settings, SendJob(load_catalogue()))
    first = await tail.read()
    sample = LedgerSample(settings)
    await sample.read()
    marks.add_sample(utc_now() - timedelta(seconds=61), sample.lanes)  # as if it had stood for a minute
    await publish(settings, SEND_REQUESTS, [BAD, free[2]])
    target, options = RewindTarget(TargetKind.OFFSET, begin, (number,)), RewindOptions(publish_again=True)
    plan = await plan_rewind(settings, WorkerName.SEND, target, options)
    await rewind(settings, target, options, plan, who=ME, stop=asyncio.Event(), drain_seconds=20)
    await work_off(settings, SendJob(load_catalogue()))
    second = await tail.read()

    assert first is not None
    assert second is not None
    assert ({DeadLetterReason.INVALID_EVENT: 2}, 2) == (first.dead_letters, first.latencies.total())
    assert ({DeadLetterReason.INVALID_EVENT: 1}, 1) == (second.dead_letters, second.latencies.total())
    assert {"free": 3} == second.outcomes


def _lane(published: int | None, topic_id: int = 1) -> list[LaneProgress]:
    return [LaneProgress("inmail-send", SEND_REQUESTS, 0, 99, NOW, published, UUID(int=topic_id))]


def _judge(marks: PublishedMarks, offset: int, minutes: float) -> bool:
    origin = {"topic": SEND_REQUESTS, "partition": 0, "offset": offset}
    return marks.were_published(origin, NOW + timedelta(minutes=minutes))


async def test_only_what_a_lane_had_noted_a_minute_before_was_published_before(marks: PublishedMarks) -> None:
    """A first publication is noted after it; brokers' clocks may be ahead."""
    for minute, published in ((0, None), (1, 10), (3, 20)):
        marks.add_sample(NOW + timedelta(minutes=minute), _lane(published))

    assert [False, True, False] == [_judge(marks, offset, 2.5) for offset in (10, 9, 15)]
    assert [False, False, True] == [_judge(marks, 19, minutes) for minutes in (1.5, 3.5, 4.5)]
    assert not _judge(marks, 20, 600)


async def test_marks_stay_through_a_rewind_and_go_with_their_topic(marks: PublishedMarks) -> None:
    """The lane's own note goes back; in a topic that was created again each offset is another record's."""
    marks.add_sample(NOW, _lane(50))
    marks.add_sample(NOW + timedelta(minutes=1), _lane(5))
    rewound = _judge(marks, 49, 3)
    for minute in range(2, 60):
        marks.add_sample(NOW + timedelta(minutes=minute), _lane(5))
    later = _judge(marks, 49, 61)
    kept = len(next(iter(marks._lanes.values())).marks)
    marks.add_sample(NOW + timedelta(minutes=60), _lane(7, topic_id=2))

    assert (True, True) == (rewound, later)
    assert kept <= 7
    assert [True, False] == [_judge(marks, offset, 62) for offset in (6, 7)]


@pytest.mark.parametrize("origin", [None, 3, [], {}, {"topic": SEND_REQUESTS, "partition": "0", "offset": 1}])
async def test_a_foreign_origin_is_of_no_lane(marks: PublishedMarks, origin: object) -> None:
    """Anybody with the right may write to the result topics."""
    marks.add_sample(NOW, _lane(50))

    assert not marks.were_published(origin, NOW + timedelta(hours=1))


async def test_a_sample_has_the_marks_of_the_ledger(settings: Settings, database: Connection) -> None:
    """What the books note as published when a sample is taken is known a minute later."""
    await apply_topics(settings, await plan_topics(settings))
    await database.execute(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset, published)"
        " values ('inmail-send', $1, 0, 1, 9, 7)",
        SEND_REQUESTS,
    )
    monitor = SystemMonitor(QueryLimiter(settings), {})
    await monitor.take_sample()
    marks, at = monitor.recorder.marks, utc_now() + timedelta(seconds=61)
    await monitor.close()

    origins = [{"topic": SEND_REQUESTS, "partition": 0, "offset": offset} for offset in (6, 7)]
    assert [True, False] == [marks.were_published(origin, at) for origin in origins]
