"""The circuit breaker: what it counts, when it trips, and that what tripped it is held."""

from dataclasses import replace
from datetime import datetime
from itertools import count
from uuid import UUID, uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.clock import utc_now
from infra.postgres import Connection
from infra.settings import Settings, load_settings
from schemas.catalogue import DEAD_LETTERS, SEND_REQUESTS, SEND_RESULTS, Undecodable
from schemas.dead_letters import DeadLetterReason
from tests.workers.life import in_partition, living, once_each
from tests.workers.wire import Raw, ends, publish, read, read_to_end, send
from workers.errors import BreakerError
from workers.jobs import decoding
from workers.jobs.dead_letters import LETTER_HEADER
from workers.lane.circuit_breaker import FEWEST, CircuitBreaker

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
        self._breaker.record(records, {(0, record.offset): NO_JSON for record in records[:bad]})


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

    after_a_kill.record(records[:FEWEST], bad, stored=FEWEST)
    with pytest.raises(BreakerError, match=rf"^{FEWEST + 1} of the last {FEWEST + 1} records"):
        after_a_kill.record(records[FEWEST : FEWEST + 1], {(0, FEWEST): NO_JSON}, stored=FEWEST)


def test_what_an_operator_has_sent_back_trips_nothing() -> None:
    """It was a dead letter before. A worker that cannot read it yet makes it one again, and goes on."""
    headers = ((LETTER_HEADER, b"0/7"),)
    records = [ConsumerRecord(SEND_REQUESTS, 0, n, 0, 0, None, None, None, 0, 0, headers) for n in range(2 * FEWEST)]
    breaker = CircuitBreaker(load_settings(dead_letter_share=0.4, dead_letter_window=1_000))
    breaker.record(records, {(0, record.offset): NO_JSON for record in records})
    new = [replace(record, offset=1_000 + record.offset, headers=()) for record in records]

    with pytest.raises(BreakerError, match=rf"^{2 * FEWEST} of the last {4 * FEWEST + 1} records"):
        breaker.record(
            [*new, replace(new[-1], offset=2_000, headers=headers)], {(0, each.offset): NO_JSON for each in new}
        )


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


async def test_with_a_share_of_one_all_of_it_becomes_dead_letters(cluster: Settings, account: str) -> None:
    """What the operator has looked at, and wants out of the way."""
    bad: list[Raw] = [(account.encode(), b"{")] * 2 * FEWEST
    letters = await ends(cluster, DEAD_LETTERS)
    await publish(cluster, SEND_REQUESTS, bad)

    async with living(cluster.model_copy(update={"dead_letter_share": 1.0})):
        found = await read(cluster, letters, len(bad))

    assert ["not_json"] * len(bad) == [letter["reason"] for letter in found]
