"""How an owner opens lanes: what keeps one of them keeps no other, and lanes may leave at any moment."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from time import monotonic
from unittest.mock import AsyncMock, Mock

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError, UnknownTopicOrPartitionError
from structlog.testing import capture_logs

from infra.clock import EPOCH
from infra.kafka.transactions import Message, TransactionTimes
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS
from tests.workers.wire import eventually
from workers.jobs.job import StoredRange
from workers.jobs.send import SendJob
from workers.lane import ended_topics, opening, turn
from workers.lane.ended_topics import EndedTopics
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRow, LaneRows
from workers.lane.opening import Opening, split_by_last_owner
from workers.lane.openings import Openings
from workers.lane.readback import Doubt, PublishedAnswers
from workers.lane.recovery import CommittedOffsetCheck
from workers.lane.turn import LaneOwner
from workers.lane.work import Work
from workers.ledger.plans import load_catalogue
from workers.telemetry.health import Health


@pytest.fixture
def lanes(unasked: Settings) -> list[Lane]:
    """Two lanes, which nobody has opened."""
    health = Health(30)
    places = [TopicPartition(SEND_REQUESTS, number) for number in range(2)]
    return [
        Lane(SendJob.group, place, AsyncMock(), unasked, health.lane(place), CommittedOffsetCheck()) for place in places
    ]


@pytest.fixture
def owner(unasked: Settings, lanes: list[Lane]) -> LaneOwner:
    """An owner of them that does not run, of which no client is real."""
    owner = LaneOwner(Work(SendJob(load_catalogue()), unasked, Mock(health=Health(30))), Mock())
    owner._name = "inmail-send.test"
    owner.adopt(lanes)
    return owner


async def test_lanes_that_were_given_back_do_not_wait_for_what_has_to_be_fenced(
    owner: LaneOwner, lanes: list[Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To end the transaction of an owner that is gone may take half a minute."""
    fences = asyncio.Event()

    async def read(found: list[Lane]) -> list[Lane]:
        found[1].row.last_owner = "inmail-send.gone"
        return found

    async def fence(_: Settings, names: set[str]) -> None:
        if names:
            await fences.wait()

    async def acquire(found: list[Lane], _: str) -> list[Lane]:
        return found

    async def open_all(found: Iterable[Lane], *_: object) -> None:
        for lane in found:
            lane.open(0)

    opening_ = Mock(read=read, check_membership=AsyncMock(), acquire=acquire, open=open_all)
    monkeypatch.setattr(turn, "fence_producers", fence)
    monkeypatch.setattr(owner, "_opening", opening_)
    owner._open_due()

    async def are_open(count: int) -> bool:
        return count == sum(lane.is_open for lane in lanes)

    await eventually(lambda: are_open(1), "the lane that was given back is open")
    assert lanes[0].is_open
    fences.set()
    await eventually(lambda: are_open(2), "both are open")
    await owner._openings.end()


def test_an_owner_fences_its_own_last_name_where_the_row_has_lost_it(lanes: list[Lane]) -> None:
    """The database failed over to a replica that had not seen the lane acquired, and a commit of then is in doubt."""
    given_back, lost = lanes
    lost.row.owner = "inmail-send.before"

    parts = split_by_last_owner(lanes, "inmail-send.test")
    lost.row.last_owner = "inmail-send.other"  # which saw nothing of it either
    (_, both) = split_by_last_owner(lanes, "inmail-send.test")

    assert [(set(), [given_back]), ({"inmail-send.before"}, [lost])] == parts
    assert ({"inmail-send.before", "inmail-send.other"}, [lost]) == both


async def test_a_lane_that_is_kept_from_its_row_keeps_no_other_from_being_acquired(
    unasked: Settings, lanes: list[Lane]
) -> None:
    """Somebody may hold a lock on one row for hours: after a deployment the worker would open no lane at all."""

    async def acquire(rows: Sequence[LaneRow], _: str) -> Sequence[LaneRow]:
        if lanes[0].row in rows:
            raise asyncpg.LockNotAvailableError("planted")
        return rows

    opening_ = Opening(Mock(), Mock(), Mock(acquire=acquire), unasked)

    assert [lanes[1]] == await opening_.acquire(lanes, "inmail-send.test")
    assert [True, False] == [lane.open_at > 0 for lane in lanes]
    assert lanes[0].health.locked_out


@pytest.mark.parametrize("is_written", [True, False])
async def test_a_lane_that_cannot_be_given_back_is_not_set_apart(
    owner: LaneOwner, lanes: list[Lane], monkeypatch: pytest.MonkeyPatch, *, is_written: bool
) -> None:
    """Its next owner would find this one's name in its row, and fence it from all its other lanes."""
    owner._turns.finish = AsyncMock()  # type: ignore[method-assign]
    monkeypatch.setattr(owner, "_rows", Mock(release=AsyncMock(return_value=is_written)))
    lanes[0].open(0)
    lanes[0].failures = 2
    lanes[0].inbox.interrupt(asyncpg.LockNotAvailableError("planted"))

    await owner._let_go()

    assert is_written == owner._set_apart.called  # type: ignore[attr-defined]
    assert is_written == (lanes[0] not in owner.lanes)


async def test_a_release_that_meets_a_lock_says_that_it_was_not_written() -> None:
    """And the row has no owner any more for whoever held it: the next one reads what is there."""
    row = LaneRow(0, owner="inmail-send.test", epoch=1)
    rows = LaneRows(AsyncMock(execute=AsyncMock(side_effect=asyncpg.LockNotAvailableError)), "group", SEND_REQUESTS)

    assert not await rows.release([row])
    assert row.owner is None


async def test_lanes_leave_an_owner_whose_producers_do_not_start_and_it_ends(
    owner: LaneOwner, lanes: list[Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers may be silent for longer than a process has to end, and a group waits for who gives partitions up."""
    started = asyncio.Event()

    async def starts() -> None:
        started.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(turn, "TransactionPair", Mock(return_value=Mock(start=starts, discard=AsyncMock())))
    async with asyncio.timeout(5):
        running = asyncio.create_task(owner.run())
        await started.wait()
        await asyncio.wait(owner.give_up(lanes))
        owner.stop()
        await running

    assert set() == owner.lanes


def _opening(settings: Settings, consumer: Mock) -> Opening:
    return Opening(SendJob(load_catalogue()), Mock(consumer=consumer), Mock(topic=SEND_REQUESTS), settings)


@pytest.fixture
def open_lanes(
    unasked: Settings, lanes: list[Lane], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Mock], "asyncio.Future[list[Lane]]"]:
    """Open the lanes with a consumer; return those that are asked for."""

    async def run(consumer: Mock) -> list[Lane]:
        opening_ = _opening(unasked, consumer)
        asked: list[Lane] = []

        async def note(found: list[Lane]) -> dict[Lane, object]:
            asked.extend(found)
            return {}

        monkeypatch.setattr(opening_, "_prepare", AsyncMock())
        monkeypatch.setattr(opening_, "_find_starts", note)
        await opening_.open(lanes, AsyncMock(), Mock())
        return asked

    return lambda consumer: asyncio.ensure_future(run(consumer))


async def test_a_partition_that_no_broker_leads_keeps_no_other_lane_closed(
    lanes: list[Lane], open_lanes: Callable[[Mock], "asyncio.Future[list[Lane]]"]
) -> None:
    """A question for the ends of all would have no answer for 40 s."""
    consumer = Mock(has_leader=lambda place: place.partition == 1, partitions_for_topic=lambda _: {0, 1})

    assert lanes[1:] == await open_lanes(consumer)
    assert lanes[0].open_at > 0
    assert "no broker leads inmail.send-requests/0" in (lanes[0].health.error or "")
    assert 1 == consumer.refresh_topics.call_count


async def test_a_topic_that_a_broker_does_not_know_for_a_moment_halts_no_lane(
    lanes: list[Lane], open_lanes: Callable[[Mock], "asyncio.Future[list[Lane]]"]
) -> None:
    """It would be taken for one with 0 partitions, and operators be told to number the accounts anew."""
    with pytest.raises(UnknownTopicOrPartitionError, match="no topic"):
        await open_lanes(Mock(partitions_for_topic=lambda _: None))

    assert [None, None] == [lane.health.halted for lane in lanes]


async def test_lanes_without_a_doubt_do_not_wait_for_what_is_read_for_others(
    unasked: Settings, lanes: list[Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill whole topics may have to be read for those, for minutes."""
    scanned = asyncio.Event()
    opening_ = _opening(unasked, Mock(has_leader=lambda _: True, partitions_for_topic=lambda _: {0, 1}))

    async def scan(_: Settings, doubts: dict[TopicPartition, Doubt], __: object) -> dict[TopicPartition, object]:
        await scanned.wait()
        return dict.fromkeys(doubts, Mock())

    async def starts(found: list[Lane]) -> dict[Lane, object]:
        doubts = {found[0]: Doubt(range(3, 5), None), found[1]: None}
        return {lane: opening._Start(3, 0, doubt) for lane, doubt in doubts.items()}

    monkeypatch.setattr(opening, "scan_published", scan)
    monkeypatch.setattr(opening_, "_prepare", AsyncMock())
    monkeypatch.setattr(opening_, "_find_starts", starts)
    openings = Openings(Mock(), Mock())
    with capture_logs() as logs:
        await opening_.open(lanes, AsyncMock(), openings.begin)
        first = [lane.is_open for lane in lanes]
        scanned.set()
        await asyncio.wait(list(openings._tasks), timeout=5)
    openings.raise_failures()

    assert [False, True] == first
    assert [True, True] == [lane.is_open for lane in lanes]
    assert lanes[0].published_answers is not None
    assert lanes[1].published_answers is None
    assert [[1], [0]] == [log["partitions"] for log in logs if log["event"] == "lanes_open"]


async def test_a_lane_that_fails_does_not_wait_for_what_is_read_for_others(
    owner: LaneOwner, lanes: list[Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that has just come back tells an offset that is not believed, and the right one a moment later."""
    scanning = asyncio.Event()
    consumer = Mock(has_leader=lambda place: place.partition == 0, partitions_for_topic=lambda _: {0, 1})
    opening_ = _opening(owner._settings, consumer)

    async def scan(*_: object) -> dict[TopicPartition, object]:
        scanning.set()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def acquire(found: list[Lane], _: str) -> list[Lane]:
        return found

    async def starts(found: list[Lane]) -> dict[Lane, object]:
        return {lane: opening._Start(3, 0, Doubt(range(3, 5), None)) for lane in found}

    monkeypatch.setattr(opening, "scan_published", scan)
    monkeypatch.setattr(opening_, "_prepare", AsyncMock())
    monkeypatch.setattr(opening_, "_find_starts", starts)
    monkeypatch.setattr(turn, "fence_producers", AsyncMock())
    monkeypatch.setattr(opening_, "acquire", acquire)
    monkeypatch.setattr(owner, "_opening", opening_)
    owner._openings.begin(lanes, owner._acquire(lanes, set()))
    async with asyncio.timeout(5):
        await scanning.wait()
    owner._openings.raise_failures()
    under_way = owner._openings.lanes
    await owner._openings.end()

    assert lanes[1].open_at > 0
    assert {lanes[0]} == under_way


async def test_no_opening_goes_on_that_another_began_as_it_was_cancelled(owner: LaneOwner, lanes: list[Lane]) -> None:
    """A client that closes may swallow that, as `asyncio.wait_for` of 3.11 does: lanes that left would be acquired."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    states: list[str] = []

    async def acquire() -> None:
        states.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            states.append("ended")

    async def read() -> None:
        await asyncio.wait_for(answer, 60)
        owner._openings.begin(lanes, acquire())

    owner._openings.begin(lanes, read())
    await asyncio.sleep(0)
    answer.set_result(None)
    await owner._openings.end()
    await asyncio.sleep(0)

    assert states in ([], ["began", "ended"])


async def test_an_opening_that_goes_on_is_cancelled_once_more(
    owner: LaneOwner, lanes: list[Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be reading whole topics, for minutes: all lanes would wait for the end of that."""
    monkeypatch.setattr("workers.lane.openings._END_SECONDS", 0.05)
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def read() -> None:
        await asyncio.wait_for(answer, 60)
        await asyncio.sleep(60)

    owner._openings.begin(lanes, read())
    await asyncio.sleep(0)
    answer.set_result(None)
    async with asyncio.timeout(5):
        await owner._openings.end()

    assert set() == owner._openings.lanes


async def test_what_the_input_no_longer_has_is_published_in_parts(unasked: Settings, lanes: list[Lane]) -> None:
    """After a rewind it may be days of records: one transaction could not take them in its time, and would not ever."""
    step = unasked.batch_records
    ranges: list[StoredRange] = []
    offsets: list[Mapping[TopicPartition, int]] = []

    async def replay(_: object, __: int, stored: StoredRange) -> list[Message]:
        ranges.append(stored)
        return []

    async def transact(_: object, to_commit: Mapping[TopicPartition, int]) -> TransactionTimes:
        offsets.append(to_commit)
        return TransactionTimes(0.0, 0.0)

    clients = Mock(pool=Mock(acquire=nullcontext))
    opening_ = Opening(Mock(replay_answers=replay), clients, Mock(topic=SEND_REQUESTS), unasked)
    await opening_._publish_from_books(lanes[0], StoredRange(7, 2 * step + 9), transact)

    assert [(7, step + 7), (step + 7, 2 * step + 7), (2 * step + 7, 2 * step + 9)] == [each[:2] for each in ranges]
    assert [{lanes[0].place: end} for _, end, *_ in ranges] == offsets
    assert 2 * step + 9 == lanes[0].row.published


async def test_what_an_ended_topic_left_is_published_in_parts(
    unasked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a topic that was created again while its answers could not be published, too."""
    step = unasked.batch_records
    published: list[Sequence[Message]] = []
    scans: list[Mapping[TopicPartition, Doubt]] = []

    async def replay(_: object, __: int, stored: StoredRange) -> list[Message]:
        return [Message("a-topic", None, b"%d" % offset) for offset in range(stored.start, stored.end)]

    async def scan(_: object, doubts: Mapping[TopicPartition, Doubt], __: object) -> dict[TopicPartition, object]:
        scans.append(doubts)
        return {place: PublishedAnswers(set(), place, doubt.offsets.stop) for place, doubt in doubts.items()}

    async def publish(messages: Sequence[Message]) -> None:
        published.append(messages)

    monkeypatch.setattr(ended_topics, "scan_published", scan)
    pool = AsyncMock(fetch=AsyncMock(return_value=[(EPOCH, None, 7, 2 * step + 9, None)]))
    rows = Mock(group=SendJob.group, topic=SEND_REQUESTS, fenced=nullcontext)
    await EndedTopics(unasked, pool, Mock(replay_answers=replay), rows).publish(LaneRow(0), publish, Mock())

    assert [b"%d" % offset for offset in range(7, 2 * step + 9)] == [each.value for part in published for each in part]
    assert max(map(len, published)) <= step
    assert 1 == len(scans)


async def test_an_open_lane_is_looked_at_in_time_while_its_opening_works_on_others(
    owner: LaneOwner, lanes: list[Lane]
) -> None:
    """It waits for another lane, say, and nothing comes meanwhile that would wake its owner."""
    lanes[0].open(0)
    lanes[0].inbox.offer([Mock(key=b"", value=b"", headers=(), offset=0)], 1)
    lanes[0].wait.look_at = monotonic() + 0.1
    owner._openings.begin(lanes, asyncio.sleep(60))
    owner._changed.clear()

    async with asyncio.timeout(5):
        await owner._wait()
    await owner._openings.end()


async def test_a_lane_that_was_opened_and_fails_is_opened_again_while_its_opening_works_on_others(
    owner: LaneOwner, lanes: list[Lane]
) -> None:
    """It would wait for what is read for those."""
    owner._openings.begin(lanes, asyncio.sleep(60))
    lanes[0].open(0)
    lanes[0].inbox.interrupt(KafkaError("planted"))
    await owner._let_go()
    opening_ = owner._openings.lanes
    await owner._openings.end()

    assert not lanes[0].is_open
    assert {lanes[1]} == opening_


def test_lanes_are_opened_in_parts_by_who_has_to_be_fenced(unasked: Settings) -> None:
    """Of a worker of 0.1.0 each lane had producers of its own name: they are no part each."""
    old = [f"{SendJob.group}.{SEND_REQUESTS}.{number}" for number in range(7)]
    last = [None, "inmail-send.a", "inmail-send.me", "inmail-send.b", "inmail-send.a", *old[5:]]
    lanes = [
        Lane(SendJob.group, place, AsyncMock(), unasked, Health(30).lane(place), CommittedOffsetCheck())
        for place in (TopicPartition(SEND_REQUESTS, number) for number in range(7))
    ]
    for lane, name in zip(lanes, last, strict=True):
        lane.row.last_owner = name

    parts = opening.split_by_last_owner(lanes, "inmail-send.me")

    assert [
        (set(), [0, 2]),
        ({"inmail-send.a"}, [1, 4]),
        ({"inmail-send.b"}, [3]),
        (set(old[5:]), [5, 6]),
    ] == [(gone, [lane.partition for lane in part]) for gone, part in parts]


@pytest.mark.parametrize(
    ("error", "together"), [(KafkaTimeoutError(), True), (asyncpg.LockNotAvailableError("planted"), False)]
)
def test_lanes_whose_opening_failed_in_kafka_are_opened_together_again(
    owner: LaneOwner, lanes: list[Lane], error: Exception, *, together: bool
) -> None:
    """Each alone would fence their last owner, and the fence of the others. A lock is of one of them only."""
    owner._fail_to_open(lanes, error)

    assert together == (lanes[0].open_at == lanes[1].open_at)
    assert min(lane.open_at for lane in lanes) > monotonic()


@pytest.mark.parametrize("is_written", [True, False])
async def test_an_owner_whose_lanes_left_without_being_given_back_goes_on_under_another_name(
    owner: LaneOwner, lanes: list[Lane], monkeypatch: pytest.MonkeyPatch, *, is_written: bool
) -> None:
    """Whoever gets them finds its name in their rows, and fences it: its other lanes would fail at their next turn."""
    names: list[str] = []

    def pair(_: Settings, name: str) -> Mock:
        names.append(name)
        return Mock(start=AsyncMock(), discard=AsyncMock())

    async def open_all(found: list[Lane]) -> None:
        for lane in found:
            lane.row.owner = owner._name
            lane.open(0)

    async def are_open(begun: int, *opened: Lane) -> bool:
        return len(names) == begun and all(lane.is_open for lane in opened)

    monkeypatch.setattr(turn, "TransactionPair", pair)
    monkeypatch.setattr(owner, "_rows", Mock(release=AsyncMock(side_effect=[is_written, True])))
    monkeypatch.setattr(owner, "_open", open_all)
    running = asyncio.create_task(owner.run())
    await eventually(lambda: are_open(1, *lanes), "both are open")
    await asyncio.wait(owner.give_up(lanes[:1]), timeout=5)
    try:
        await eventually(lambda: are_open(1 if is_written else 2, lanes[1]), "the other goes on")
    finally:
        owner.give_up(lanes)
        owner.stop()
        await asyncio.wait([running], timeout=5)

    assert set() == owner.lanes


async def test_a_partition_that_no_broker_leads_ends_no_worker_and_is_logged_once(
    lanes: list[Lane], open_lanes: Callable[[Mock], "asyncio.Future[list[Lane]]"]
) -> None:
    """Started again it would have no leader either: the worker ended every 300 s, and each attempt was a line."""
    consumer = Mock(has_leader=lambda place: place.partition == 1, partitions_for_topic=lambda _: {0, 1})
    for lane in lanes:
        lane.health.moved_at -= 1_000
    with capture_logs() as logs:
        for _ in range(3):
            for lane in lanes:
                lane.open_at = 0.0
            await open_lanes(consumer)

    assert lanes[0].health.busy_seconds < 100
    assert ["lane_begins_again"] == [log["event"] for log in logs]
    assert "no broker leads" in (lanes[0].health.trouble or "")


def test_a_lane_that_waits_for_another_says_so_until_it_goes_on_or_is_closed(lanes: list[Lane]) -> None:
    """Not that it decides; and one that is closed waits for nobody, however long it is halted then."""
    lane = lanes[0]
    lane.open(0)
    lane.health.takes()
    lane.health.waits_for("inmail-billing")
    waits = lane.health.doing
    lane.health.waits_for(None)
    decides = lane.health.doing
    lane.health.waits_for("inmail-billing")
    lane.close()

    assert ["waiting for another lane", "deciding", "opening"] == [waits, decides, lane.health.doing]
    assert (None, 0.0) == (lane.health.waiting_for, lane.health.wait_seconds("inmail-billing"))
