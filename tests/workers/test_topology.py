"""What operators are told to run in the database moves the lane that it is about, and no other."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from aiokafka import TopicPartition

from infra.postgres import Connection
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from workers.errors import LaneError
from workers.lane.recovery import check_start
from workers.ops.lag.model import Facts, Sample
from workers.ops.lag.offsets import classify_offsets
from workers.topology import GROUP_OF

GROUP, PLACE = GROUP_OF[SEND_REQUESTS], TopicPartition(SEND_REQUESTS, 2)
NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
STORED, FROM, END = 7, 12, 20
LANE = (GROUP, *PLACE)
OTHERS = [
    (GROUP, "inmail.send-requests-before", 2),
    (GROUP, SEND_REQUESTS, 1),
    (GROUP_OF[BILLING_EVENTS], BILLING_EVENTS, 2),
]


def _told_by_a_lane_after_retention() -> str:
    with pytest.raises(LaneError) as told:
        check_start(GROUP, PLACE, STORED, STORED, kept=(FROM, END))
    return str(told.value)


def _told_by_a_lane_behind_its_offset() -> str:
    with pytest.raises(LaneError) as told:
        check_start(GROUP, PLACE, FROM, STORED, kept=(0, END))
    return str(told.value)


def _told_by_lag() -> str:
    facts = Facts(NOW, seconds=60.0, readable=1, members=0, ours=True, stored=STORED, oldest=FROM, place=("send", 2))
    found = classify_offsets(Sample(NOW, STORED, END, END - STORED), facts, "13 of its records are unread")
    assert found is not None
    return found.reason


@pytest.mark.parametrize(
    "told",
    [_told_by_a_lane_after_retention, _told_by_a_lane_behind_its_offset, _told_by_lag],
    ids=lambda each: each.__name__,
)
async def test_the_statement_that_an_operator_is_told_moves_one_lane(
    database: Connection, told: Callable[[], str]
) -> None:
    """Neither the lanes of other partitions and groups, nor one of another topic that the group has read."""
    await database.executemany(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset) values ($1, $2, $3, 1, $4)",
        [(*lane, STORED) for lane in (LANE, *OTHERS)],
    )

    _, found, statement = told().partition("run in the database: ")
    done = await database.execute(statement)
    rows = await database.fetch("select consumer_group, topic, partition, next_offset from lanes")

    assert ("run in the database: ", "UPDATE 1") == (found, done)
    assert {LANE: FROM, **dict.fromkeys(OTHERS, STORED)} == {tuple(row)[:3]: row["next_offset"] for row in rows}
