"""What a turn takes of which lanes."""

from unittest.mock import AsyncMock

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS
from workers.lane.inbox import MOST_BYTES
from workers.lane.lane import Lane
from workers.lane.recovery import CommittedOffsetCheck
from workers.lane.turn_size import fill_turn
from workers.telemetry.health import Health
from workers.topology import GROUP_OF


@pytest.fixture
def lanes(settings: Settings) -> list[Lane]:
    """Four lanes that are open."""
    made = []
    for number in range(4):
        place = TopicPartition(SEND_REQUESTS, number)
        health = Health(30).lane(place)
        made.append(Lane(GROUP_OF[SEND_REQUESTS], place, AsyncMock(), settings, health, CommittedOffsetCheck()))
        made[-1].open(0)
    return made


def _offer(lane: Lane, count: int, value: bytes = b"v") -> None:
    records = [ConsumerRecord(*lane.place, each, 0, 0, None, value, None, 0, 0, ()) for each in range(count)]
    lane.inbox.offer(records, count)


def test_a_turn_takes_much_of_few_lanes_and_the_others_come_first_in_the_next(lanes: list[Lane]) -> None:
    """Few of many would be slower: an account is locked and written once for all of its own."""
    for lane in lanes:
        _offer(lane, 30)

    turns = [[(lane.partition, len(taken.records)) for lane, taken in fill_turn(lanes, 10, 20)] for _ in range(3)]

    assert [[(0, 10), (1, 10)], [(2, 10), (3, 10)], [(0, 10), (1, 10)]] == turns


def test_a_turn_takes_what_little_there_is_of_all_lanes(lanes: list[Lane]) -> None:
    """One transaction for all of it."""
    for lane in lanes:
        _offer(lane, 3)

    assert [3, 3, 3, 3] == [len(taken.records) for _, taken in fill_turn(lanes, 10, 20)]


def test_a_turn_of_large_records_is_bounded_by_their_bytes(lanes: list[Lane]) -> None:
    """One Kafka transaction has to take it in its time, however many lanes it is of."""
    for lane in lanes:
        _offer(lane, 10, bytes(MOST_BYTES // 4))

    assert [3] == [len(taken.records) for _, taken in fill_turn(lanes[:1], 10, 20)]
    assert [3, 1] == [len(taken.records) for _, taken in fill_turn(lanes[1:], 10, 20)]
