"""The circuit breaker: what it counts, when it trips, and that what tripped it is held."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from itertools import count
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.clock import to_milliseconds, utc_now
from infra.postgres import Connection
from infra.settings import Settings, load_settings
from schemas.catalogue import DEAD_LETTERS, SEND_REQUESTS, SEND_RESULTS, Undecodable
from schemas.dead_letters import DeadLetterReason
from schemas.envelope import encode
from tests.workers.life import in_partition, living, once_each
from tests.workers.wire import Raw, ends, publish, read, read_to_end, send
from workers.errors import BreakerError
from workers.jobs import decoding
from workers.jobs.dead_letters import LETTER_HEADER
from workers.jobs.job import Decision, Place
from workers.jobs.send import SendJob
from workers.lane.circuit_breaker import FEWEST, CircuitBreaker
from workers.lane.deciding import Decider, LaneBatch
from workers.lane.inbox import Taken
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRows, Progress
from workers.lane.recovery import CommittedOffsetCheck
from workers.lane.time_order import Decidable
from workers.ledger.plans import load_catalogue
from workers.telemetry.health import Health
from workers.telemetry.tracing import NO_TRACES

BROKERS_TIME = 1  # a record's time is that of its append
NO_JSON = Undecodable(DeadLetterReason.NOT_JSON, "planted")


class _Reader:
    """Judges batches of one partition, so many records good and bad."""

    def __init__(self, share: float = 0.5, window: int = 100) -> None:
        self._breaker = CircuitBreaker(load_settings(dead_letter_share=share, dead_letter_window=window))
        self._offsets = count()

    def begins(self, topic_id: UUID, since: datetime | None = None) -> None:
        """Read a topic from its oldest record."""
        self._breaker.begin(TopicPartition(SEND_REQUESTS, 0), topic_id, since)
        self._offsets = count()

    def reads(self, good: int, bad: int) -> list[ConsumerRecord]:
        records = [
            ConsumerRecord(SEND_REQUESTS, 0, next(self._offsets), 0, 0, None, None, None, 0, 0, ())
            for _ in range(good + bad)
        ]
        self.again(records, bad)
        return records

    def again(self, records: list[ConsumerRecord], bad: int) -> None:
        _judge(self._breaker, records, {(0, record.offset): NO_JSON for record in records[:bad]})


def _judge(
    breaker: CircuitBreaker, records: list[ConsumerRecord], refused: dict[Place, Undecodable], stored: int = 0
) -> None:
    """Count a batch and judge it, as one that is stored alone."""
    if breaker.record(records, refused, stored):
        breaker.judge()


def test_it_trips_at_more_than_its_share_of_the_last_records() -> None:
    """The share itself is let through, and what is out of the window counts no more."""
    reader = _Reader()
    reader.reads(50, 50)
    reader.reads(50, 50)

    with pytest.raises(BreakerError, match=r"^51 of the last 101 records cannot be decided \(51 not_json\), more than"):
        reader.reads(0, 1)


def test_few_bad_records_trip_nothing_whatever_share_they_are() -> None:
    """A quiet topic whose only record today is bad is no reason to stop."""
    reader = _Reader()
    reader.reads(0, FEWEST - 1)

    with pytest.raises(BreakerError):
        reader.reads(0, 1)


def test_good_batches_pass_a_share_that_is_still_too_large() -> None:
    """Only what has bad records is held: the other lanes of the worker go on."""
    reader = _Reader(window=1_000)
    with pytest.raises(BreakerError):
        reader.reads(0, FEWEST)

    assert 10 == len(reader.reads(10, 0))


def test_a_batch_that_is_decided_again_counts_once() -> None:
    """A lane that begins again, however often, makes nothing worse."""
    reader = _Reader(window=1_000)
    records = reader.reads(40, FEWEST - 1)
    for _ in range(10):
        reader.again(records, FEWEST - 1)

    assert 50 == len(reader.reads(49, 1))


def test_the_records_of_a_topic_that_was_created_again_count_from_the_first() -> None:
    """Their offsets were counted before, of the topic before. One that begins again reads the same topic."""
    reader = _Reader(share=0.3, window=1_000)
    old, new = uuid4(), uuid4()
    reader.begins(old)
    reader.reads(100, 0)
    reader.begins(old)
    reader.begins(new)
    with pytest.raises(BreakerError, match=r"^60 of the last 160 records"):
        reader.reads(0, 60)
    reader.begins(new)

    reader = _Reader(share=0.3, window=1_000)
    reader.begins(new)
    reader.reads(100, 0)
    reader.begins(new, utc_now())  # the same topic, which lost its records
    with pytest.raises(BreakerError, match=r"^60 of the last 160 records"):
        reader.reads(0, 60)


def test_a_batch_that_was_stored_before_the_worker_began_is_let_through() -> None:
    """Another worker's breaker knew of the good records before it: only its answers are missing. It counts, though."""
    reader = _Reader(window=1_000)
    records = reader.reads(200, 0)
    bad = {(0, record.offset): NO_JSON for record in records[:FEWEST]}
    after_a_kill = CircuitBreaker(load_settings(dead_letter_share=0.5, dead_letter_window=1_000))

    _judge(after_a_kill, records[:FEWEST], bad, stored=FEWEST)
    with pytest.raises(BreakerError, match=rf"^{FEWEST + 1} of the last {FEWEST + 1} records"):
        _judge(after_a_kill, records[FEWEST : FEWEST + 1], {(0, FEWEST): NO_JSON}, stored=FEWEST)


def test_what_an_operator_has_sent_back_trips_nothing() -> None:
    """It was a dead letter before. A worker that cannot read it yet makes it one again, and goes on."""
    headers = ((LETTER_HEADER, b"0/7"),)
    records = [ConsumerRecord(SEND_REQUESTS, 0, n, 0, 0, None, None, None, 0, 0, headers) for n in range(2 * FEWEST)]
    breaker = CircuitBreaker(load_settings(dead_letter_share=0.4, dead_letter_window=1_000))
    _judge(breaker, records, {(0, record.offset): NO_JSON for record in records})
    new = [replace(record, offset=1_000 + record.offset, headers=()) for record in records]

    last = replace(new[-1], offset=2_000, headers=headers)
    with pytest.raises(BreakerError, match=rf"^{2 * FEWEST} of the last {4 * FEWEST + 1} records"):
        _judge(breaker, [*new, last], {(0, each.offset): NO_JSON for each in new})


def test_a_share_of_one_lets_everything_through() -> None:
    """As the message of a trip says."""
    assert 500 == len(_Reader(share=1).reads(0, 500))


async def test_what_trips_it_is_held_for_a_version_that_can_read_it(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker ends and says why; neither books nor dead letters know of the batch; mended, it is decided."""
    account = in_partition(cluster, 0)
    requests = [send(account) for _ in range(FEWEST)]
    results, letters = await ends(cluster, SEND_RESULTS), await ends(cluster, DEAD_LETTERS)
    await publish(cluster, SEND_REQUESTS, requests)
    read_to = "select next_offset from lanes where topic = $1 and partition = 0"
    before = await database.fetchval(read_to, SEND_REQUESTS)

    def reads_nothing(*_: object) -> None:
        raise NO_JSON

    monkeypatch.setattr(decoding, "decode", reads_nothing)
    async with living(cluster) as life:
        error = await life.ended()
    assert isinstance(error, BreakerError)
    assert "INMAIL_DEAD_LETTER_SHARE=1" in str(error)
    assert "fatal" == life.health.dead().cause  # type: ignore[union-attr]

    assert before == await database.fetchval(read_to, SEND_REQUESTS)
    monkeypatch.undo()
    async with living(cluster):
        answers = await read(cluster, results, len(requests))
    assert once_each(requests, answers)
    assert [] == await read_to_end(cluster, letters)


@pytest.mark.parametrize("good", [150, 30])
async def test_lanes_that_are_stored_together_are_judged_together(settings: Settings, good: int) -> None:
    """The smallest batch comes first, and a worker that has just begun knows of nothing else: 60 of 60 were bad."""
    stored: list[Sequence[Progress]] = []

    class Rows(LaneRows):
        @asynccontextmanager
        async def fenced(self, progress: Sequence[Progress]) -> AsyncIterator[Connection]:
            yield AsyncMock()
            stored.append(progress)

    pool = AsyncMock()
    job, rows, health = SendJob(load_catalogue()), Rows(pool, SendJob.group, SEND_REQUESTS), Health(30)
    job.decide = AsyncMock(return_value=Decision([], {}, Counter()))  # type: ignore[method-assign]
    decider = Decider(job, rows, CircuitBreaker(settings), health, NO_TRACES)
    batches, now = [], to_milliseconds(utc_now())
    for number, values in enumerate(([b"{"] * 60, [encode(send("alice")) for _ in range(good)])):
        place = TopicPartition(SEND_REQUESTS, number)
        lane = Lane(SendJob.group, place, pool, settings, health.lane(place), CommittedOffsetCheck())
        records = [
            ConsumerRecord(SEND_REQUESTS, number, offset, now, BROKERS_TIME, b"alice", value, None, 5, len(value), ())
            for offset, value in enumerate(values)
        ]
        batches.append(LaneBatch(lane, Taken(records, len(records)), Decidable(len(records))))

    if good == 150:
        (decided,) = await decider.decide(batches)
        assert ([2], 60) == ([len(each) for each in stored], len(decided.messages))
    else:
        with pytest.raises(BreakerError, match=r"^60 of the last 90 records"):
            await decider.decide(batches)
        assert [] == stored


async def test_with_a_share_of_one_all_of_it_becomes_dead_letters(cluster: Settings, account: str) -> None:
    """What the operator has looked at, and wants out of the way."""
    bad: list[Raw] = [(account.encode(), b"{")] * 2 * FEWEST
    letters = await ends(cluster, DEAD_LETTERS)
    await publish(cluster, SEND_REQUESTS, bad)

    async with living(cluster.model_copy(update={"dead_letter_share": 1.0})):
        found = await read(cluster, letters, len(bad))

    assert ["not_json"] * len(bad) == [letter["reason"] for letter in found]
