"""What became of a redriven message is told only where the search for it came to its end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import NotLeaderForPartitionError
from aiokafka.structs import ConsumerRecord

from infra.clock import utc_now
from infra.kafka.backwards import ReadBudget
from infra.kafka.clients import create_producer
from infra.kafka.peek import read_through
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS, SEND_REQUESTS, Undecodable
from schemas.dead_letters import DeadLetterReason
from workers.commands.views.dead_letters import history_sentences
from workers.jobs.dead_letters import dead_letter
from workers.ops.dead_letters import copies
from workers.ops.dead_letters.copies import find_copies
from workers.ops.dead_letters.history import LetterHistory, Redrive, StoredAnswer, letter_key
from workers.ops.dead_letters.letters import FoundLetters, MessagePosition, parse_dead_letter
from workers.ops.dead_letters.server_answers import LetterAnswers, LetterRedrives, make_histories

_numbers = count(3 * 10**9)
_NOISE = 60
_LATER = timedelta(minutes=1)  # by which a search begins earlier: the clocks may differ


def _message(partition: int) -> ConsumerRecord:
    return ConsumerRecord(SEND_REQUESTS, partition, next(_numbers), 1_900_000_000_000, 1, b"a", b"{", None, 0, 0, ())


async def _plant(settings: Settings, partition: int, noise: int) -> MessagePosition:
    """Write dead letters, and return the position of the last one's message."""
    problem = Undecodable(DeadLetterReason.NOT_JSON, "planted")
    messages = [_message(partition) for _ in range(noise + 1)]
    async with create_producer(settings, "test", large=True) as producer:
        sent = []
        for message in messages:
            each = dead_letter(message, problem)
            sent.append(await producer.send(each.topic, each.value, each.key, partition=partition))
        await asyncio.gather(*sent)
    return SEND_REQUESTS, partition, messages[-1].offset


async def test_what_the_budget_leaves_unsearched_is_told_and_keeps_no_other_partition_from_its_share(
    cluster: Settings,
) -> None:
    """Neither as found nor as not there. Without a budget, all is found."""
    at = utc_now() + _LATER
    far, near = await _plant(cluster, 0, _NOISE), await _plant(cluster, 1, 0)
    nowhere = (SEND_REQUESTS, 1, next(_numbers))
    sent = dict.fromkeys((far, near, nowhere), at)

    by_offsets = await find_copies(cluster, sent, ReadBudget(_NOISE, 10**9))
    by_bytes = await find_copies(cluster, sent, ReadBudget(10**9, 4000))
    everything = await find_copies(cluster, sent)

    assert ({near}, {far}) == (set(by_offsets.places), by_offsets.unsearched)
    assert ({near}, {far}) == (set(by_bytes.places), by_bytes.unsearched)
    assert ({near, far}, set()) == (set(everything.places), everything.unsearched)


async def test_a_partition_that_cannot_be_read_is_unsearched(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error is no answer, and the other partitions are searched."""
    at = utc_now() + _LATER
    silent, there = await _plant(cluster, 0, 0), await _plant(cluster, 1, 0)

    async def read_but_one(
        lookup: object, place: TopicPartition, start: int, end: int, *, strict: bool
    ) -> AsyncIterator[ConsumerRecord]:
        if place == TopicPartition(DEAD_LETTERS, 0):
            raise NotLeaderForPartitionError
        async for record in read_through(lookup, place, start, end, strict=strict):  # type: ignore[arg-type]
            yield record

    monkeypatch.setattr(copies, "read_through", read_but_one)
    found = await find_copies(cluster, {silent: at, there: at})

    assert ({there}, {silent}) == (set(found.places), found.unsearched)


def test_an_outcome_that_was_not_searched_for_to_the_end_is_unknown() -> None:
    """A stored answer, or a dead letter that was found, is known."""
    now = datetime(2026, 1, 31, tzinfo=UTC)
    record = _message(0)
    written = dead_letter(record, Undecodable(DeadLetterReason.NOT_JSON, "planted"))
    letter = parse_dead_letter(replace(record, key=written.key, value=written.value))
    sent = Redrive(1, "ops-1", SEND_REQUESTS, 0, 5, now)
    position = (SEND_REQUESTS, 0, 5)
    redrives, answer = LetterRedrives({letter_key(letter): [sent]}), StoredAnswer("charged", now, 3)

    def history(found: FoundLetters, *, is_answered: bool = False) -> LetterHistory:
        answers = LetterAnswers({letter_key(letter): answer} if is_answered else {})
        ((_, history),) = make_histories(Settings(), found, redrives, answers)
        assert history is not None
        return history

    unknown = history(FoundLetters([letter], {}, {position}))

    assert (True, None) == (unknown.summary()["unknown"], unknown.summary()["again"])
    assert "unknown: the search" in history_sentences(unknown)[-1]
    assert not history(FoundLetters([letter])).is_unknown
    assert not history(FoundLetters([letter], {position: "0/9"}, {position})).is_unknown
    assert not history(FoundLetters([letter], {}, {position}), is_answered=True).is_unknown
