"""What a lane makes of a broker that has lost what it had said to be committed: nothing of it stays unpublished."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from pydantic_core import from_json, to_json

import schemas
from infra.clock import EPOCH, to_milliseconds, utc_now
from infra.kafka.aiokafka_fixes import Consumer
from infra.kafka.clients import committed_offsets, create_lane_producer
from infra.kafka.transactions import Message, TransactionPair, TransactionTimes
from infra.postgres import Connection
from infra.settings import RecordTime, Settings, load_settings
from schemas.catalogue import (
    BALANCES,
    CATALOGUE,
    DEAD_LETTERS,
    EXPIRY_TICKS,
    OUTPUT_TOPICS,
    SEND_REQUESTS,
    SEND_RESULTS,
    EventType,
)
from schemas.envelope import Event
from tests.whole import whole
from tests.workers.life import at_the_end, in_partition
from tests.workers.replaying import ME
from tests.workers.wire import Raw, ends, prepare, publish, read_to_end, send, set_offset, settled, working
from workers.jobs.result_events import tick_messages
from workers.jobs.send import SendJob
from workers.lane import opening, readback, recovery
from workers.lane.lane import Lane
from workers.lane.lane_rows import LaneRows
from workers.lane.recovery import CommittedOffsetCheck
from workers.ledger.model import Tick, WorkerName
from workers.ledger.plans import load_catalogue
from workers.ops.replay.rewind import rewind
from workers.ops.replay.rewind_plan import RewindOptions, plan_rewind
from workers.ops.replay.rewind_target import RewindTarget, TargetKind
from workers.telemetry.health import Health

PLACE, RESULTS = TopicPartition(SEND_REQUESTS, 0), TopicPartition(SEND_RESULTS, 0)
_ODD = b'{"id": [1], "data": {"source": {"topic": [], "partition": {}, "offset": "x"}}}'


def _job() -> SendJob:
    return SendJob(load_catalogue())


async def test_answers_that_a_broker_has_lost_are_published_and_those_that_it_has_are_not(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane's row says that all are published; the group's offset, that the second batch is not; both may be wrong.

    Here a part of that batch can be read: answers, a dead letter and a repeat are told apart.
    """
    account = in_partition(cluster, PLACE.partition)
    lost, kept = send(account), send(account)
    bad = (account.encode(), b"no event")
    start = await ends(cluster, SEND_RESULTS) | await ends(cluster, DEAD_LETTERS)
    await _work(cluster, [send(account)])
    await _publish_in_doubt(
        cluster, database, monkeypatch, [kept, lost, bad, lost], lambda message: str(kept.id).encode() in message.value
    )

    await _work(cluster, [send(account)])
    found = await read_to_end(cluster, start)

    answers = [(each["request_id"], each["repeat"]) for each in found if "request_id" in each]
    assert 5 == len(answers) == len(set(answers))
    assert {(str(lost.id), False), (str(lost.id), True), (str(kept.id), False)} < set(answers)
    assert 1 == len(found) - len(answers)


@pytest.mark.usefixtures("no_far_times_left")
@pytest.mark.parametrize("time", [RecordTime.CREATE, whole(RecordTime.APPEND)])
async def test_letters_and_repeats_are_found_however_old_and_whatever_their_record_says_of_its_time(
    cluster: Settings, database: Connection, time: RecordTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loaded crash matrix, whose records have the times of a story, had 2,200 answers published again."""
    monkeypatch.setattr(readback, "_EARLIER_MILLISECONDS", 0)
    story = cluster.model_copy(update={"topic_record_time": time})
    await prepare(story)
    tomorrow = to_milliseconds(utc_now() + timedelta(days=1))
    account = in_partition(cluster, PLACE.partition)
    first = send(account)
    await publish(story, SEND_REQUESTS, [first], tomorrow)
    await _work(story, [])
    start = await ends(cluster, SEND_RESULTS) | await ends(cluster, DEAD_LETTERS)
    again = [(account.encode(), b"no event"), first, send(account)]
    await _publish_in_doubt(story, database, monkeypatch, again, timestamp_ms=tomorrow)
    await publish(story, SEND_REQUESTS, [send(account)], tomorrow)
    await _work(story, [])

    assert 4 == len(await read_to_end(cluster, start))


async def test_a_row_says_no_more_than_is_published_while_that_is_in_doubt(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it later, as `inmail shards move` does, takes it for what Kafka has."""
    said = "select published from lanes where (topic, partition) = ($1, $2)"
    account = in_partition(cluster, PLACE.partition)
    await _work(cluster, [send(account)])
    await _publish_in_doubt(cluster, database, monkeypatch, [send(account), send(account)])
    noted = await database.fetchval(said, *PLACE)
    tried = asyncio.Event()

    async def fails(*_: object) -> TransactionTimes:
        tried.set()
        raise KafkaError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(TransactionPair, "publish", fails)
        async with working(cluster, _job()):
            await asyncio.wait_for(tried.wait(), 20)

    assert noted == await database.fetchval(said, *PLACE)


async def test_a_broker_that_has_forgotten_the_last_batch_of_a_killed_worker_is_not_believed(
    cluster: Settings, database: Connection
) -> None:
    """No row notes that batch as published: it would have been with the next one, or as the lane was given back."""
    account = in_partition(cluster, PLACE.partition)
    start = await ends(cluster, SEND_RESULTS)
    await _work(cluster, [send(account), send(account)])
    await _forget_last(cluster, database, 2)

    await _work(cluster, [send(account)])

    answers = await read_to_end(cluster, start)
    assert 3 == len(answers) == len({each["request_id"] for each in answers})


async def test_a_repeat_that_a_killed_worker_left_is_published_though_one_before_it_can_be_read(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client asks three times within a minute. Its second and third answer have one id and the same bytes."""
    event = send(in_partition(cluster, PLACE.partition))
    start = await ends(cluster, SEND_RESULTS)
    await _work(cluster, [event, event])
    await _publish_in_doubt(cluster, database, monkeypatch, [event], lambda _: False)

    await _work(cluster, [])

    assert [False, True, True] == [each["repeat"] for each in await read_to_end(cluster, start)]


async def test_answers_behind_a_transaction_that_is_open_are_found(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker was frozen in it: until it is ended, nobody who reads what is committed sees what follows."""
    monkeypatch.setattr(readback, "_EARLIER_MILLISECONDS", 0)
    account = in_partition(cluster, PLACE.partition)
    await _work(cluster, [send(account)])
    start = await ends(cluster, SEND_RESULTS)
    patient = cluster.model_copy(update={"transaction_seconds": 60.0})
    frozen = create_lane_producer(patient, "inmail-send.frozen")
    look = Consumer.offsets_for_times

    async def ends_after_a_look(self: Consumer, timestamps: dict[TopicPartition, int]) -> Any:
        found = await look(self, timestamps)
        await frozen.abort_transaction()
        return found

    async with frozen:
        await frozen.begin_transaction()
        await frozen.send_and_wait(SEND_RESULTS, b"of another", partition=PLACE.partition)
        await publish(cluster, SEND_REQUESTS, [send(account), send(account)])
        async with working(cluster, _job()):
            await at_the_end(cluster, PLACE.partition)
        await _forget_last(cluster, database, 2)
        with monkeypatch.context() as patch:
            patch.setattr(Consumer, "offsets_for_times", ends_after_a_look)
            await _work(cluster, [send(account)])

    answers = await read_to_end(cluster, start)
    assert 3 == len(answers) == len({each["request_id"] for each in answers})


async def test_what_was_published_in_doubt_is_not_published_again_by_the_next_owner(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group's offset stays before it until the doubt is over: a broker that tells the truth tells of less."""
    account = in_partition(cluster, PLACE.partition)
    start = await ends(cluster, SEND_RESULTS)
    await _work(cluster, [send(account)])
    stored = [send(account), send(account)]
    await _publish_in_doubt(cluster, database, monkeypatch, stored, lambda _: False)
    (end,) = await database.fetchrow("select next_offset from lanes where (topic, partition) = ($1, $2)", *PLACE) or ()
    await database.execute("update lanes set published = $3 - 2 where (topic, partition) = ($1, $2)", *PLACE, end)

    async def tell_less(*_: object) -> dict[TopicPartition, int | None]:
        told = await committed_offsets(*_)  # type: ignore[arg-type]
        return {place: end - 3 if place == PLACE else offset for place, offset in told.items()}

    with monkeypatch.context() as patch:
        last = _publish_at_most(2, patch)
        patch.setattr(opening, "committed_offsets", tell_less)
        async with working(cluster.model_copy(update={"batch_records": 1}), _job()):
            await asyncio.wait_for(last.wait(), 20)
    in_doubt = await database.fetchval("select doubted from lanes where (topic, partition) = ($1, $2)", *PLACE)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "committed_offsets", tell_less)
        patch.setattr(recovery, "_ATTEMPTS", 1_000)  # the next owner asks once: what it is told is no news
        await _work(cluster, [])

    answers = await read_to_end(cluster, start)
    assert 3 == len(answers) == len({each["request_id"] for each in answers})
    over = await database.fetchval("select doubted from lanes where (topic, partition) = ($1, $2)", *PLACE)
    assert (end - 3, None) == (in_doubt, over)


async def test_looking_for_answers_begins_where_the_lane_had_noted_the_last_ones(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where times are their producers', and where a backlog of hours is worked off, all results were read before."""
    monkeypatch.setattr(readback, "_EARLIER_MILLISECONDS", 0)
    story = cluster.model_copy(update={"topic_record_time": RecordTime.CREATE})
    await prepare(story)
    account = in_partition(story, PLACE.partition)
    await _work(story, [send(account) for _ in range(5)])
    noted, start = (await ends(story, SEND_RESULTS))[RESULTS], await ends(story, SEND_RESULTS)
    await asyncio.sleep(0.01)  # another millisecond
    await _be_killed(story, monkeypatch, [send(account) for _ in range(3)], published=2)
    begun = _note_starts(monkeypatch)
    await _work(story, [])

    assert begun
    assert noted <= min(begun)
    answers = await read_to_end(story, start)
    assert 3 == len(answers) == len({each["request_id"] for each in answers})


@pytest.mark.parametrize("time", [whole(RecordTime.CREATE), RecordTime.APPEND])
async def test_looking_for_answers_of_a_quiet_lane_begins_where_its_records_in_doubt_came_in(
    cluster: Settings, database: Connection, time: RecordTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had published hours ago, so the answers of all lanes since then were read. A producer's time says nothing."""
    monkeypatch.setattr(readback, "_EARLIER_MILLISECONDS", 0)
    own = cluster.model_copy(update={"topic_record_time": time})
    await prepare(own)
    account = in_partition(own, PLACE.partition)
    await _work(own, [send(account) for _ in range(5)])
    noted, start = (await ends(own, SEND_RESULTS))[RESULTS], await ends(own, SEND_RESULTS)
    await asyncio.sleep(0.01)  # another millisecond
    await _be_killed(own, monkeypatch, [send(account) for _ in range(3)], published=2)
    hours_ago = utc_now() - timedelta(hours=5)
    await database.execute(
        "update lanes set published_time = $3 where (topic, partition) = ($1, $2)", *PLACE, hours_ago
    )
    begun = _note_starts(monkeypatch)
    await _work(own, [])

    assert (time is RecordTime.APPEND) == (noted <= min(begun))
    answers = await read_to_end(own, start)
    assert 3 == len(answers) == len({each["request_id"] for each in answers})


@pytest.mark.parametrize(
    ("since", "is_of_topic", "received", "found"),
    [
        (-5, True, -2, -2),
        (-5, True, -7, -5),  # a batch of before a rewind: what was published then is not looked for
        (-5, True, None, -5),
        (-5, True, 1, -5),  # a broker's clock was ahead when it came in
        (-5, False, -2, -5),  # of a topic that is gone: the record at that offset is another one
        (None, True, -2, -2),
        (None, True, None, None),
        (None, True, 1, None),
        (1, True, -2, None),
    ],
)
async def test_since_when_answers_may_have_been_published(
    monkeypatch: pytest.MonkeyPatch, since: int | None, received: int | None, found: int | None, *, is_of_topic: bool
) -> None:
    """In hours from now; beside a lane that has noted its last answers a moment ago, and whose record is not read."""
    now, other = utc_now(), TopicPartition(SEND_REQUESTS, 1)
    asked: dict[TopicPartition, int] = {}

    async def received_first(_: object, firsts: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        asked.update(firsts)
        return {} if received is None else {PLACE: to_milliseconds(now + timedelta(hours=received))}

    monkeypatch.setattr(readback, "_received_first", received_first)
    told = None if since is None else now + timedelta(hours=since)
    doubts = {PLACE: readback.Doubt(range(3, 5), told, is_of_topic), other: readback.Doubt(range(7, 8), now)}
    expected = None if found is None else to_milliseconds(now + timedelta(hours=found))

    assert expected == await readback._find_since(load_settings(), doubts)
    assert asked.keys() <= {PLACE}
    assert is_of_topic or not asked


def _note_starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return where a partition of results is read from, from now on."""
    begun: list[int] = []
    read_to = readback.read_to

    def note_start(consumer: Consumer, unread: dict[TopicPartition, int], *rest: Any) -> Any:
        begun.extend(offset for place, offset in unread.items() if place == RESULTS)
        return read_to(consumer, unread, *rest)

    monkeypatch.setattr(readback, "read_to", note_start)
    return begun


async def test_answers_are_found_though_a_brokers_clock_was_ahead_when_the_last_one_was_noted(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was set right since, so what was published later has an earlier time."""
    account = in_partition(cluster, PLACE.partition)
    await _work(cluster, [send(account)])
    start = await ends(cluster, SEND_RESULTS)
    await _be_killed(cluster, monkeypatch, [send(account) for _ in range(3)], published=2)
    ahead = utc_now() + timedelta(days=400)
    await database.execute("update lanes set published_time = $3 where (topic, partition) = ($1, $2)", *PLACE, ahead)

    await _work(cluster, [])

    answers = await read_to_end(cluster, start)
    assert 3 == len(answers) == len({each["request_id"] for each in answers})


@pytest.mark.parametrize("published", [whole(0), 1, whole(2)])
async def test_a_kill_within_a_rewind_leaves_nothing_out(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch, published: int
) -> None:
    """An answer that can be read from before the rewind was taken for the one that is to be published again."""
    monkeypatch.setattr(readback, "_EARLIER_MILLISECONDS", 0)
    account = in_partition(cluster, PLACE.partition)
    first = (await ends(cluster, SEND_REQUESTS))[PLACE]
    events = [send(account) for _ in range(3)]
    for event in events:
        await _work(cluster, [event])
    start = await ends(cluster, SEND_RESULTS)
    target, options = RewindTarget(TargetKind.OFFSET, first, (PLACE.partition,)), RewindOptions(publish_again=True)
    plan = await plan_rewind(cluster, WorkerName.SEND, target, options)
    await rewind(cluster, target, options, plan, who=ME, stop=asyncio.Event(), drain_seconds=20)
    await _be_killed(cluster, monkeypatch, [], published)

    await _work(cluster, [])

    assert [str(each.id) for each in events] == [each["request_id"] for each in await read_to_end(cluster, start)]


def test_the_time_of_a_turn_that_left_out_what_it_found_is_not_noted(settings: Settings) -> None:
    """What lies beyond it was published before that turn, too: the next owner would look for it too late."""
    lane = Lane(SendJob.group, PLACE, AsyncMock(), settings, Health(30).lane(PLACE), CommittedOffsetCheck())
    lane.row.published, lane.row.published_time = 100, EPOCH

    lane.note_published(200, utc_now(), is_committed=False)
    in_doubt = lane.row.published, lane.row.published_time
    lane.note_published(300, now := utc_now(), is_committed=True)

    assert (200, EPOCH) == in_doubt
    assert (300, now) == (lane.row.published, lane.row.published_time)


def _publish_at_most(turns: int, patch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let transactions fail after so many; return what is set by the first that does."""
    begun, failed = 0, asyncio.Event()
    publish_ = TransactionPair.publish

    async def publish_some(self: TransactionPair, *arguments: Any) -> TransactionTimes:
        nonlocal begun
        begun += 1
        if begun > turns:
            failed.set()
            raise KafkaError("planted")
        return await publish_(self, *arguments)

    patch.setattr(TransactionPair, "publish", publish_some)
    return failed


async def _be_killed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, events: list[Event | Raw], published: int
) -> None:
    """Let a worker publish so many turns of one record, decide one more, and end without giving its lanes back."""

    async def keep(*_: object) -> None:
        pass

    await publish(settings, SEND_REQUESTS, events)
    with monkeypatch.context() as patch:
        last = _publish_at_most(published, patch)
        patch.setattr(LaneRows, "release", keep)
        async with working(settings.model_copy(update={"batch_records": 1}), _job()):
            await asyncio.wait_for(last.wait(), 20)


async def _forget_last(settings: Settings, database: Connection, records: int) -> None:
    """Leave a lane as a killed worker does whose last batch had so many records; the broker forgets its offset."""
    (end,) = await database.fetchrow("select next_offset from lanes where (topic, partition) = ($1, $2)", *PLACE) or ()
    await database.execute(
        "update lanes set owner = 'inmail-send.killed', owner_epoch = epoch, published = $3, maybe_published = $4"
        " where (topic, partition) = ($1, $2)",
        *PLACE,
        end - records,
        end,
    )
    await set_offset(settings, SendJob.group, PLACE, end - records)


async def _publish_in_doubt(  # noqa: PLR0917 - two servers, and what they are to be in doubt of
    settings: Settings,
    database: Connection,
    monkeypatch: pytest.MonkeyPatch,
    records: list[Event | Raw],
    is_kept: Callable[[Message], bool] = lambda _: True,
    timestamp_ms: int | None = None,
) -> None:
    """Let a lane publish what is kept of the answers to records, but not its offset; its row notes all but the last."""
    published = asyncio.Event()
    publish_ = TransactionPair.publish

    async def without_offset(self: TransactionPair, messages: list[Message], _: object, group: str) -> TransactionTimes:
        if published.is_set():
            raise KafkaError("planted")
        spent = await publish_(self, [each for each in messages if is_kept(each)], {}, group)
        if messages:
            published.set()
            raise KafkaError("planted")
        return spent

    with monkeypatch.context() as patch:
        patch.setattr(TransactionPair, "publish", without_offset)
        await publish(settings, SEND_REQUESTS, records, timestamp_ms)
        async with working(settings, _job()):
            await asyncio.wait_for(published.wait(), 20)
    await database.execute("update lanes set published = next_offset - 1 where (topic, partition) = ($1, $2)", *PLACE)
    monkeypatch.setattr(recovery, "_ATTEMPTS", 1)


async def _work(settings: Settings, events: list[Event | Raw]) -> None:
    await publish(settings, SEND_REQUESTS, events)
    async with working(settings, _job()):
        await at_the_end(settings, PLACE.partition)
    await settled(settings)


@pytest.mark.parametrize("row", [row for row in CATALOGUE if row.topic in OUTPUT_TOPICS], ids=lambda row: row.name)
def test_every_event_tells_which_record_it_answers(row: EventType) -> None:
    """One that did not would be looked for in vain, and published again, as balances are: they answer no record."""
    value = _example(row.name)
    data = from_json(value)["data"]
    at = data.get("source") or data["origin"]

    event = readback._parse_event(value, ())

    assert event is not None
    assert (TopicPartition(at["topic"], at["partition"]), at["offset"]) == (event.place, event.offset)


@pytest.mark.parametrize("origin", [(0, 9), None], ids=["read again", "from the books"])
def test_balances_are_published_again(origin: tuple[int, int] | None) -> None:
    """They answer no record, and their topic is not read: whether one can be read there is not known, nor asked.

    The newest balance may be published again (workers/jobs/balances.py); none that was lost would stay lost.
    """
    answer = from_json(_example("inmail.send.decided.v1"))
    value = _example("inmail.balance.v1")
    messages = [
        Message(SEND_RESULTS, b"a", to_json(answer), None, origin),
        Message(BALANCES, b"a inmail-send 0", value, 0, origin),
    ]
    event = readback._parse_event(messages[0].value, ())
    assert event is not None
    lost, kept = (readback.PublishedAnswers(each, event.place, event.offset + 1) for each in (set(), {event}))

    first, second = (each.drop_published(messages, {})[0] for each in (kept, lost))
    of_balances = kept.drop_published(messages[1:], {})[0]

    assert [messages[1:], messages, messages[1:]] == [first, second, of_balances]


def test_the_repeat_of_a_tick_says_which_record_it_answers() -> None:
    """Its body is that of the first answer, and names the record of that one."""
    never = (EPOCH, 0, 0)
    tick = Tick(1, UUID(int=1), 1, "booked", 3, EPOCH, EPOCH, 0, 0, True, 1, never, never, never)
    (message,) = tick_messages(tick, [], 9)

    event = readback._parse_event(message.value, message.headers or ())
    assert event is not None
    assert (True, TopicPartition(EXPIRY_TICKS, 1), 9) == event[1:]
    assert readback._parse_event(message.value, ()) is None


def test_what_other_lanes_publish_in_the_same_turn_is_theirs() -> None:
    """Their offsets, lower ones too, are committed with them."""
    answer = {"id": "1", "data": {"source": {"topic": SEND_REQUESTS, "partition": 1, "offset": 3}}}
    message, other = Message(SEND_RESULTS, b"a", to_json(answer), None, (1, 3)), TopicPartition(SEND_REQUESTS, 1)
    published = readback.PublishedAnswers(set(), PLACE, 1_000)

    assert ([message], {other: 4}) == published.drop_published([message], {PLACE: 900, other: 4})


def _example(name: str) -> bytes:
    return (Path(schemas.__file__).parent / "examples" / f"{name}.json").read_bytes()


@pytest.mark.parametrize("value", [None, b"no event", b"[1]", b'{"id": "1"}', b'{"id": "1", "data": null}', _ODD])
def test_what_is_no_event_is_passed_over(value: bytes | None) -> None:
    """Anybody may have written to a result topic: a lane that looks for its answers must not end of it."""
    assert readback._parse_event(value, ()) is None
