"""What a worker of twelve lanes writes to its log while a server is away: a line a cause in ten seconds."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from unittest.mock import AsyncMock, Mock

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaConnectionError

from infra.kafka.transactions import Message
from infra.log import configure_logging
from infra.settings import LogFormat, Settings
from schemas.catalogue import SEND_REQUESTS
from tests.workers.wire import eventually
from workers.jobs.send import SendJob
from workers.lane import opening, turn
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRow
from workers.lane.opening import Opening
from workers.lane.readback import Doubt, PublishedAnswers
from workers.lane.recovery import CommittedOffsetCheck
from workers.lane.turn import LaneOwner
from workers.lane.work import Work
from workers.ledger.plans import load_catalogue
from workers.telemetry.health import Health

_AWAY_SECONDS = 1.5
_LANES = 12

Fail = Callable[[], None]


@pytest.fixture
def written(unasked: Settings) -> io.StringIO:
    """The worker's log."""
    file = io.StringIO()
    configure_logging(unasked.model_copy(update={"log_format": LogFormat.JSON}), file)
    return file


@pytest.fixture
def lanes(unasked: Settings, written: io.StringIO) -> list[Lane]:
    """Twelve lanes, which nobody has opened."""
    assert not written.getvalue()
    health = Health(30)
    places = [TopicPartition(SEND_REQUESTS, number) for number in range(_LANES)]
    return [
        Lane(SendJob.group, place, AsyncMock(), unasked, health.lane(place), CommittedOffsetCheck()) for place in places
    ]


def _lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


@asynccontextmanager
async def _owner(
    settings: Settings,
    lanes: list[Lane],
    monkeypatch: pytest.MonkeyPatch,
    *,
    start: Fail = lambda: None,
    read: Fail = lambda: None,
    acquire: Callable[[Sequence[LaneRow]], None] = lambda _: None,
    find: Fail = lambda: None,
) -> AsyncIterator[None]:
    """Run an owner of the lanes without servers; wait at the end until all are open.

    Args:
        settings: of servers that are not asked.
        lanes: its lanes.
        monkeypatch: of the test.
        start: called where its producers start.
        read: called where rows are read.
        acquire: called with rows where they are acquired.
        find: called where offsets are asked for.

    """

    async def acquire_rows(rows: Sequence[LaneRow], _: str) -> Sequence[LaneRow]:
        acquire(rows)
        return rows

    async def read_rows(found: list[Lane]) -> list[Lane]:
        read()
        return found

    async def open_all(found: list[Lane], *_: object) -> None:
        find()
        for lane in found:
            lane.open(0)

    async def are_open() -> bool:
        return all(lane.is_open for lane in lanes)

    producers = Mock(start=AsyncMock(side_effect=start), discard=AsyncMock())
    monkeypatch.setattr(turn, "TransactionPair", Mock(return_value=producers))
    monkeypatch.setattr(turn, "fence_producers", AsyncMock())
    job = SendJob(load_catalogue())
    owner = LaneOwner(Work(job, settings, Mock(health=Health(30))), Mock())
    rows = Mock(topic=SEND_REQUESTS, acquire=acquire_rows, release=AsyncMock(return_value=True))
    begins = Opening(job, Mock(), rows, settings)
    for name, stand_in in {"read": read_rows, "check_membership": AsyncMock(), "open": open_all}.items():
        monkeypatch.setattr(begins, name, stand_in)
    monkeypatch.setattr(owner, "_opening", begins)
    monkeypatch.setattr(owner, "_rows", rows)
    owner.adopt(lanes)
    running = asyncio.create_task(owner.run())
    try:
        yield
        await eventually(are_open, "all lanes are open")
    finally:
        owner.give_up(lanes)
        owner.stop()
        await asyncio.wait([running], timeout=5)


def _away(error: Exception, calls: list[float], seconds: float = _AWAY_SECONDS) -> Fail:
    """Return what raises an error for so many seconds, and notes each call."""
    until = monotonic() + seconds

    def fail() -> None:
        calls.append(monotonic())
        if monotonic() < until:
            raise error

    return fail


async def test_a_postgres_that_restarts_is_two_lines_of_a_worker_with_twelve_lanes(
    unasked: Settings, lanes: list[Lane], written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each lane backed off alone, and wrote a line each time: 54 in ten seconds of two workers.

    One line is of connections that are refused, one of a server that starts; and it is not asked for each lane.
    """
    asked: list[float] = []
    refused = _away(ConnectionRefusedError(111, "Connection refused"), asked, 0.4)
    starting = _away(asyncpg.CannotConnectNowError("the database system is starting up"), [])

    def read() -> None:
        refused()
        starting()

    async with _owner(unasked, lanes, monkeypatch, read=read):
        pass
    lines = _lines(written)

    assert ["Connection refused", "starting up"] == [
        line["error"].rstrip(")")[-18:].split(" is ")[-1] for line in lines
    ]
    assert all(line["partitions"] == list(range(_LANES)) for line in lines)
    assert {(SendJob.group, SEND_REQUESTS)} == {(line["worker"], line["topic"]) for line in lines}
    assert len(asked) < 10


async def test_a_broker_that_is_away_is_one_line_of_a_worker(
    unasked: Settings, lanes: list[Lane], written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its client says of the same broker is held back meanwhile."""
    away = _away(KafkaConnectionError("Unable to bootstrap from [('127.0.0.1', 9092)]"), [])
    client = logging.getLogger("aiokafka.conn")

    def start() -> None:
        try:
            away()
        except KafkaConnectionError:  # and no more once it is back: the next test's log is not this one's
            asyncio.get_running_loop().call_later(0.01, client.error, "Unable connect to node with id 1")
            raise

    async with _owner(unasked, lanes, monkeypatch, start=start):
        pass

    (line,) = _lines(written)
    assert line["error"].startswith("Kafka: ")
    assert list(range(_LANES)) == line["partitions"]


async def test_lanes_that_lose_their_coordinator_one_by_one_wait_for_it_together(
    unasked: Settings, lanes: list[Lane], written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They asked it a hundred times: each lane at times of its own, as each had begun again at a time of its own."""
    asked: list[float] = []
    find = _away(GroupCoordinatorNotAvailableError("group coordinator not available"), asked)
    async with _owner(unasked, lanes, monkeypatch, find=find):
        for number, lane in enumerate(lanes):
            lane.open_at = monotonic() + 0.02 * number
    lines = _lines(written)

    assert 2 >= len(lines)  # the first of one lane, or of several
    assert len(asked) < _LANES + 10


async def test_a_lane_whose_row_is_locked_keeps_no_other_one_waiting(
    unasked: Settings, lanes: list[Lane], written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All fail together at first, since their rows are locked in one statement: each tries alone then."""
    locked = lanes[3]
    held = True

    def acquire(rows: Sequence[LaneRow]) -> None:
        if held and locked.row in rows:
            raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout")

    async def others_are_open() -> bool:
        return all(lane.is_open for lane in lanes if lane is not locked)

    async with _owner(unasked, lanes, monkeypatch, acquire=acquire):
        await eventually(others_are_open, "the others are open")
        held = False
    assert 3 >= len(_lines(written))


async def test_a_doubt_is_logged_once_with_its_places_however_many_turns_and_openings_it_lasts(
    unasked: Settings, lanes: list[Lane], written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a warning of each lane and turn, 216 a second, which named no partition."""

    async def scan(_: Settings, doubts: dict[TopicPartition, Doubt], __: object) -> dict[TopicPartition, object]:
        return {place: PublishedAnswers(set(), place, doubt.offsets.stop) for place, doubt in doubts.items()}

    monkeypatch.setattr(opening, "scan_published", scan)
    begins = Opening(SendJob(load_catalogue()), Mock(), Mock(topic=SEND_REQUESTS), unasked)
    starts = {lane: opening._Start(3, 0, Doubt(range(3, 9), None)) for lane in lanes}
    transact: Callable[..., Awaitable[Any]] = AsyncMock()
    source = {"topic": SEND_REQUESTS, "partition": 0, "offset": 3}
    answer = Message("inmail.send-results", b"", json.dumps({"id": "a", "data": {"source": source}}).encode())
    for _ in range(3):
        await begins._begin_all(starts, transact)
        for _ in range(20):
            for lane in lanes:
                assert lane.published_answers is not None
                assert ([answer], {}) == lane.published_answers.drop_published([answer], {lane.place: 4})
    doubts = [line for line in _lines(written) if line["event"] == "answers_looked_for"]

    assert 1 == len(doubts)
    assert "info" == doubts[0]["level"]
    assert (SendJob.group, SEND_REQUESTS) == (doubts[0]["worker"], doubts[0]["topic"])
    assert {str(n): {"from": 3, "to": 9, "found": 0} for n in range(_LANES)} == doubts[0]["answers"]
