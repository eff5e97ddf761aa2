"""Rewinding: nothing is decided twice, nothing unread is passed over, and nothing is set under a worker's feet."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from infra import postgres
from infra.clock import EPOCH, from_milliseconds
from infra.kafka import clients
from infra.kafka.clients import admin_client, committed_offsets, create_lane_producer, partition_of, partitions_of
from infra.postgres import Connection, create_pool
from infra.settings import Settings
from infra.terminal import format_instant
from schemas.catalogue import BILLING_EVENTS, DEAD_LETTERS, EXPIRY_TICKS, SEND_REQUESTS, SEND_RESULTS
from tests.ledger.book import Book
from tests.whole import whole
from tests.workers.letters import platinum, records_of
from tests.workers.life import living
from tests.workers.noted_operations import list_operations
from tests.workers.replaying import ME, Marks, fund_and_send, mark, published, seen, whole_history, work_off
from tests.workers.wire import ends, promotion, publish, send
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.lane import opening, recovery
from workers.lane.lane_rows import LaneRow, LaneRows
from workers.ledger.model import WorkerName
from workers.ledger.plans import load_catalogue
from workers.ops.operations import OngoingOperation, OperationStatus, RefusedError
from workers.ops.replay import rewind as rewinding
from workers.ops.replay import rewind_target
from workers.ops.replay.rewind import rewind
from workers.ops.replay.rewind_plan import RewindOptions, RewindPlan, plan_rewind
from workers.ops.replay.rewind_target import RewindTarget, TargetKind

AGAIN = RewindOptions(publish_again=True)
_TABLES = (
    "accounts, subscriptions, lots, journal, ticks, lanes, operations, redriven, decided_ahead, partitioning,"
    " clock_decisions, clock_set_backs, misplaced_records, ended_topics, earlier_rows, original_ids"
)
_ROWS = (
    "select sequence, code, amount, balance_before, balance_after, request_id, as_of from journal"
    " where account = (select account from accounts where account_id = $1) order by sequence"
)
IDLE = (
    "select count(*) from pg_stat_activity where state = 'idle in transaction' and datname = current_database()"
    " and pid <> pg_backend_pid()"
)


async def back(
    settings: Settings,
    target: RewindTarget,
    options: RewindOptions = AGAIN,
    worker: WorkerName = WorkerName.SEND,
    wait: float = 20,
) -> tuple[RewindPlan, OngoingOperation]:
    """Rewind a group; return what was planned and what came of it."""
    plan = await plan_rewind(settings, worker, target, options)
    done = await rewind(settings, target, options, plan, who=ME, stop=asyncio.Event(), drain_seconds=wait)
    return plan, done


async def stands(
    settings: Settings, topic: str = SEND_REQUESTS, group: str = SendJob.group
) -> Mapping[int, int | None]:
    """Return where a group stands."""
    async with admin_client(settings) as admin:
        found = await committed_offsets(admin, group, partitions_of(topic, settings.topic_partitions))
    return {place.partition: offset for place, offset in found.items()}


def at(number: int, offset: int) -> RewindTarget:
    """Return an offset of a partition."""
    return RewindTarget(TargetKind.OFFSET, offset, (number,))


def home(settings: Settings, account: str) -> int:
    """Return the partition of an account."""
    return partition_of(account.encode(), settings.topic_partitions)


async def books(database: Connection) -> list[object]:
    """Return all that is in the journal."""
    return [tuple(row) for row in await database.fetch("select * from journal order by account, sequence")]


# -- nothing twice ----------------------------------------------------------------------------------------------------


async def test_a_rewound_worker_publishes_the_same_bytes_and_books_nothing(
    cluster: Settings, database: Connection, account: str
) -> None:
    """Charges, a refusal, a reversal, notices, a repeat, a conflict: all of it as it was, and not one row more."""
    number, begin = home(cluster, account), (await ends(cluster, SEND_REQUESTS))
    start = await mark(cluster)
    await whole_history(cluster, Book(database), account)
    first = [seen(each) for each in await start.read(cluster) if b'"inmail.send-requests"' in each.value]
    before, stood, again = await books(database), await stands(cluster), await mark(cluster)

    plan, done = await back(cluster, at(number, begin[TopicPartition(SEND_REQUESTS, number)]))
    rewound = await stands(cluster)
    with capture_logs() as logs:
        await work_off(cluster, SendJob(load_catalogue()))

    assert "lane_begins_again" not in {log["event"] for log in logs}  # the lane was told that its offset goes back
    second = [seen(each) for each in await again.read(cluster)]
    assert 7 + 1 == len(first)  # an answer each, and that no credits are left
    assert Counter(first) == Counter(second)
    assert before == await books(database)
    (move,) = plan.moves
    assert (7, 6, 0) == (move.republished, move.first_answers, move.newly_decided)
    assert {number: move.target} == {n: o for n, o in rewound.items() if o != stood[n]}
    assert (True, stood) == (done.result["set"], await stands(cluster))


@pytest.mark.whole
async def test_ticks_are_answered_again_and_expire_nothing_again(
    cluster: Settings, database: Connection, account: str
) -> None:
    """By the tick's request id, which every partition has; the other groups stay where they are."""
    asked = await whole_history(cluster, Book(database), account)
    before, sending = await books(database), await stands(cluster)

    plan, _ = await back(cluster, RewindTarget(TargetKind.REQUEST, asked), worker=WorkerName.EXPIRY)

    left = await stands(cluster, EXPIRY_TICKS, "inmail-expiry")
    assert [1] * cluster.topic_partitions == [move.first_answers for move in plan.moves]
    assert {move.partition: move.current - 1 for move in plan.moves} == left
    assert (before, sending) == (await books(database), await stands(cluster))


async def test_offsets_are_set_over_the_connection_that_holds_the_lock(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the lanes' announcement nor the note afterwards waits for a connection of its own."""
    requests = await fund_and_send(cluster, account, 1)
    connect, set_offsets = postgres._connect, rewinding._set_offsets
    opened: list[str] = []

    async def connects(*arguments: Any, **options: Any) -> Any:
        opened.append("a connection")
        return await connect(*arguments, **options)

    async def sets(*arguments: Any) -> None:
        opened.clear()
        await set_offsets(*arguments)
        opened.append("set")

    monkeypatch.setattr(postgres, "_connect", connects)
    monkeypatch.setattr(rewinding, "_set_offsets", sets)
    _, done = await back(cluster, RewindTarget(TargetKind.REQUEST, requests[0].id))

    assert ["set"] == opened
    assert done.result["set"]


async def test_it_is_refused_unless_publishing_again_is_asked_for(cluster: Settings, account: str) -> None:
    """It would move no credit, and readers would see everything again: the refusal says so, and what to do instead."""
    requests = await fund_and_send(cluster, account, 2)
    before = await stands(cluster)
    target = RewindTarget(TargetKind.REQUEST, requests[0].id)

    plan = await plan_rewind(cluster, WorkerName.SEND, target, RewindOptions())
    with pytest.raises(RefusedError, match=r"2 records have an outcome.*--publish-again.*inmail replay reemit"):
        await back(cluster, target, RewindOptions())

    assert "2 records have an outcome" in (plan.refusal or "")
    assert before == await stands(cluster)
    assert (OperationStatus.FAILED, "rewind") == (
        (operation := (await list_operations(cluster, 1))[0]).status,
        operation.verb,
    )


@pytest.mark.whole
async def test_what_restored_books_do_not_know_is_decided_without_asking(
    cluster: Settings, database: Connection, account: str
) -> None:
    """The lane refuses to guess and names the offset; the rewind takes it there. Nothing stored lies in between."""
    number = home(cluster, account)
    await fund_and_send(cluster, account, 2)
    end = (await stands(cluster))[number] or 0
    await database.execute("delete from journal where worker = 'send'")  # as in a backup from before
    await database.execute("update lots set remaining = granted")
    await database.execute(
        "update lanes set next_offset = $2 where topic = $1 and partition = $3", SEND_REQUESTS, end - 2, number
    )

    plan, _ = await back(cluster, at(number, end - 2), RewindOptions())
    await work_off(cluster, SendJob(load_catalogue()))

    assert [(0, 2)] == [(move.republished, move.newly_decided) for move in plan.moves]
    assert 2 == await database.fetchval("select count(*) from journal where worker = 'send' and is_answer")


@pytest.mark.whole
@pytest.mark.timeout(240)  # all that the tests before it have left on the topics is decided again
async def test_books_that_are_lost_are_decided_again_from_topics_that_are_whole(
    cluster: Settings, database: Connection, account: str
) -> None:
    """As docs/operate.md tells: an empty database, all groups set back. Readers hear of no event that they lack.

    But to the oldest time, where the docs say offset 0: the topics that tests share have lost their beginnings, and
    offset 0 is refused. Much of what is left on them is malformed on purpose.
    """
    start = await mark(cluster)
    await whole_history(cluster, Book(database), account)
    first, before = await _ids_of(account, start, cluster), await database.fetch(_ROWS, account)
    again = await mark(cluster)
    await database.execute(f"truncate {_TABLES} cascade")

    jobs = (SendJob(load_catalogue()), BillingJob(load_catalogue()), ExpiryJob(load_catalogue(), cluster))
    plans = [
        (await back(cluster, RewindTarget(TargetKind.TIME, EPOCH), RewindOptions(), worker))[0] for worker in WorkerName
    ]
    await work_off(cluster.model_copy(update={"dead_letter_share": 1.0}), *jobs, seconds=120)

    assert {0} == {move.republished for plan in plans for move in plan.moves}
    assert before == await database.fetch(_ROWS, account)
    assert first == await _ids_of(account, again, cluster)


async def _ids_of(account: str, since: Marks, settings: Settings) -> list[str]:
    """Return the ids of an account's events since then, each as often as it was published."""
    events = [json.loads(each.value) for each in await since.read(settings)]
    return sorted(event["id"] for event in events if event.get("subject") == account)


async def test_what_had_been_set_aside_is_set_aside_again_or_decided_once_it_can_be(
    mended: Settings, cluster: Settings, database: Connection, account: str
) -> None:
    """The one thing that a rewind may decide below the books' end: it has no outcome yet. The letter keeps its id."""
    begin, number = await ends(cluster, BILLING_EVENTS), home(cluster, account)
    target = at(number, begin[TopicPartition(BILLING_EVENTS, number)])
    await publish(cluster, BILLING_EVENTS, [promotion(account, 2), platinum(account)])
    await work_off(cluster, BillingJob(load_catalogue()))

    plan, _ = await back(cluster, target, worker=WorkerName.BILLING)
    await work_off(cluster, BillingJob(load_catalogue()))
    letters = [json.loads(each.value)["id"] for each in await records_of(cluster, DEAD_LETTERS, account)]
    before = await database.fetchval("select sum(granted) from lots")
    await back(cluster, target, worker=WorkerName.BILLING)
    await work_off(cluster, BillingJob(load_catalogue(mended.plans_file)))

    assert [(2, 1)] == [(move.republished, move.first_answers) for move in plan.moves]
    assert (2, 1) == (len(letters), len(set(letters)))
    assert (2, 2 + 7) == (before, await database.fetchval("select sum(granted) from lots"))


# -- where to ---------------------------------------------------------------------------------------------------------


@pytest.mark.whole
async def test_no_transaction_is_open_while_kafka_is_asked(
    cluster: Settings, database: Connection, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow broker would be told as Postgres that cannot be reached: it ends idle transactions after 10 s."""
    await fund_and_send(cluster, account, 1)
    idle: list[int] = []

    @asynccontextmanager
    async def reader(*arguments: Any) -> AsyncIterator[Any]:
        idle.append(await database.fetchval(IDLE))
        async with clients.reader(*arguments) as consumer:
            yield consumer

    monkeypatch.setattr(rewind_target, "reader", reader)
    target = RewindTarget(TargetKind.TIME, datetime(2026, 1, 1, tzinfo=UTC))
    plan = await plan_rewind(cluster, WorkerName.SEND, target, AGAIN)

    assert [0, 0] == idle
    assert plan.moves


async def test_a_time_means_the_first_record_at_or_after_it(cluster: Settings, account: str) -> None:
    """By the broker's time, to the millisecond and rounded up; where no partition has such a record, it is refused."""
    await fund_and_send(cluster, account, 1)
    while datetime.now(UTC) <= await _newest(cluster, account) + timedelta(milliseconds=1):
        pass  # a millisecond
    await publish(cluster, SEND_REQUESTS, [send(account)])
    await work_off(cluster, SendJob(load_catalogue()))
    records = await records_of(cluster, SEND_REQUESTS, account)
    times = [from_milliseconds(each.timestamp) for each in records]

    goes = []
    for time in (times[1], times[1] - timedelta(microseconds=1), times[0] + timedelta(microseconds=1), times[0]):
        plan = await plan_rewind(cluster, WorkerName.SEND, RewindTarget(TargetKind.TIME, time), AGAIN)
        goes.append({move.partition: move.target for move in plan.moves})
    with pytest.raises(RefusedError, match=r"inmail\.send-requests has no record from 2100"):
        await plan_rewind(
            cluster, WorkerName.SEND, RewindTarget(TargetKind.TIME, datetime(2100, 1, 1, tzinfo=UTC)), AGAIN
        )

    (first, second), number = (each.offset for each in records), home(cluster, account)
    # Other tests may have left records of a later time in other partitions.
    assert [second, second, second, first] == [each[number] for each in goes]


async def _newest(settings: Settings, account: str) -> datetime:
    return from_milliseconds((await records_of(settings, SEND_REQUESTS, account))[-1].timestamp)


async def test_what_is_not_there_or_would_be_passed_over_is_refused_with_what_is_allowed(
    cluster: Settings, database: Connection, account: str
) -> None:
    """Beyond retention, beyond the end, over unread records, no such partition, no such request."""
    number, requests = home(cluster, account), await fund_and_send(cluster, account, 3)
    stood = (await stands(cluster))[number] or 0
    await publish(cluster, SEND_REQUESTS, [send(account) for _ in range(2)])
    place = TopicPartition(SEND_REQUESTS, number)
    async with admin_client(cluster) as admin:
        await admin.delete_records({place: RecordsToDelete(before_offset=stood - 1)})
    last = await database.fetchval("select as_of from journal where source_offset = $1 and worker = 'send'", stood - 2)
    allowed, taken = rf"allowed is {stood - 1} to {stood}", re.escape(format_instant(last))

    for target, words in [
        (at(number, stood - 2), rf"retention has deleted offset {stood - 2} \({allowed}; `inmail replay reemit`"),
        (RewindTarget(TargetKind.REQUEST, requests[0].id), rf"retention has deleted .*{allowed}"),
        (
            RewindTarget(TargetKind.TIME, datetime(2026, 1, 1, tzinfo=UTC), (number,)),
            rf"allowed are times after {taken}",
        ),
        (at(number, stood + 1), rf"{stood + 1} would skip 1 unanswered records \({allowed}"),
        (at(number, stood + 9), rf"there is no offset {stood + 9}, it ends at {stood + 2} \({allowed}\)"),
        (at(99, 0), "no partition 99: its partitions are 0 to 3"),
        (RewindTarget(TargetKind.REQUEST, uuid4()), "send has no stored outcome of request"),
        (RewindTarget(TargetKind.UNDO, 10**9), "is not a rewind of send"),
    ]:
        with pytest.raises(RefusedError, match=words):
            await plan_rewind(cluster, WorkerName.SEND, target, AGAIN)

    later = RewindTarget(TargetKind.TIME, last + timedelta(microseconds=1), (number,))
    assert stood - 1 <= (await plan_rewind(cluster, WorkerName.SEND, later, AGAIN)).targets[number]
    assert stood == (await stands(cluster))[number]


@pytest.mark.whole
async def test_a_request_of_another_worker_is_told_whose_it_is(
    cluster: Settings, database: Connection, account: str
) -> None:
    """At night, send and billing are soon mixed up."""
    await fund_and_send(cluster, account, 1)
    grant: UUID = await database.fetchval("select request_id from journal where worker = 'billing' and is_answer")

    with pytest.raises(RefusedError, match=f"billing decided it in partition {home(cluster, account)}"):
        await plan_rewind(cluster, WorkerName.SEND, RewindTarget(TargetKind.REQUEST, grant), AGAIN)


# -- under nobody's feet ----------------------------------------------------------------------------------------------


async def test_a_group_with_members_is_refused_and_with_drain_waited_for(cluster: Settings, account: str) -> None:
    """What its worker publishes while it ends counts: the plan is made anew once it has gone."""
    requests = await fund_and_send(cluster, account, 1)
    target, number, told = RewindTarget(TargetKind.REQUEST, requests[0].id), home(cluster, account), []
    options = RewindOptions(publish_again=True, drain=True)

    async with living(cluster) as life:
        await life.ready()
        with pytest.raises(RefusedError, match=r"has members \(inmail-send at .*--drain"):
            await back(cluster, target)
        plan = await plan_rewind(cluster, WorkerName.SEND, target, options)
        await publish(cluster, SEND_REQUESTS, [send(account)])
        await published(cluster, SendJob(load_catalogue()))

        def tell(line: str) -> None:
            told.append(line)
            life.stop.set()

        done = await rewind(cluster, target, options, plan, who=ME, stop=asyncio.Event(), drain_seconds=20, tell=tell)

    (move,) = done.result["moves"]
    assert (1, 2) == (plan.moves[0].republished, move["published_again"])
    assert "waiting for 1 member (inmail-send at" in told[0]
    assert move["to"] == (await stands(cluster))[number]


@pytest.mark.whole
async def test_a_worker_that_does_not_end_is_not_waited_for_for_ever(cluster: Settings, account: str) -> None:
    """Nor is a wait that its operator ends: either way nothing has moved."""
    requests = await fund_and_send(cluster, account, 1)
    target, options, stop = (
        RewindTarget(TargetKind.REQUEST, requests[0].id),
        RewindOptions(publish_again=True, drain=True),
        asyncio.Event(),
    )
    before = await stands(cluster)
    stop.set()

    async with living(cluster) as life:
        await life.ready()
        plan = await plan_rewind(cluster, WorkerName.SEND, target, options)
        with pytest.raises(RefusedError, match="still has 1 member"):
            await rewind(cluster, target, options, plan, who=ME, stop=asyncio.Event(), drain_seconds=0.1)
        done = await rewind(cluster, target, options, plan, who=ME, stop=stop, drain_seconds=20)

    assert before == await stands(cluster)
    assert (True, OperationStatus.STOPPED) == (done.stopped, (await list_operations(cluster, 1))[0].status)


async def test_a_worker_that_comes_in_between_is_refused_by_the_broker(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last look and before the offsets are set: the group is not empty, so nothing is."""
    requests = await fund_and_send(cluster, account, 1)
    before, set_offsets = await stands(cluster), rewinding.set_offsets

    async def late(settings: Settings, group: str, offsets: Mapping[TopicPartition, int], owners: set[str]) -> None:
        async with living(cluster) as life:
            await life.ready()
            await set_offsets(settings, group, offsets, owners)

    monkeypatch.setattr(rewinding, "set_offsets", late)
    with pytest.raises(RefusedError, match="has members again"):
        await back(cluster, RewindTarget(TargetKind.REQUEST, requests[0].id))

    assert before == await stands(cluster)


@pytest.mark.parametrize("version", ["this", whole("0.1.0")])
async def test_an_offset_that_a_killed_worker_left_in_a_transaction_does_not_come_after(
    cluster: Settings, database: Connection, account: str, version: str
) -> None:
    """Its transaction is ended before the offsets are set, and its owner is shut out: it could write them later."""
    requests, number = await fund_and_send(cluster, account, 2), home(cluster, account)
    place = TopicPartition(SEND_REQUESTS, number)
    stood = (await stands(cluster))[number] or 0
    name = f"{SendJob.group}.{SEND_REQUESTS}.{number}" if version == "0.1.0" else f"{SendJob.group}.zombie"
    await database.execute(
        "update lanes set epoch = epoch + 1, owner = $1,"
        " owner_epoch = case when $1::text is not null then epoch + 1 end"
        " where topic = $2 and partition = $3",
        None if version == "0.1.0" else name,
        SEND_REQUESTS,
        number,
    )
    zombie = create_lane_producer(cluster, f"{name}.0")
    await zombie.start()
    await zombie.begin_transaction()
    await zombie.send_offsets_to_transaction({place: stood}, SendJob.group)

    try:
        await back(cluster, RewindTarget(TargetKind.REQUEST, requests[0].id))
        with pytest.raises(KafkaError, match=r"(?i)fenced|epoch"):
            await zombie.commit_transaction()
    finally:
        await zombie.stop()

    assert stood - 2 == (await stands(cluster))[number]


# -- broken off, and taken back ---------------------------------------------------------------------------------------


async def test_a_worker_that_was_frozen_meanwhile_does_not_take_a_rewind_back(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group has counted it out. It wakes, and gives its lane back with what it knows to be published."""
    monkeypatch.setattr(recovery, "_ATTEMPTS", 1)
    number, frozen = home(cluster, account), LaneRow(home(cluster, account))
    await fund_and_send(cluster, account, 2)
    end = (await stands(cluster))[number] or 0
    async with create_pool(cluster) as pool:
        rows = LaneRows(pool, SendJob.group, SEND_REQUESTS)
        await rows.read([frozen])
        assert [frozen] == await rows.acquire([frozen], "inmail-send.frozen")
        again = await mark(cluster)
        await back(cluster, at(number, end - 2))
        await rows.release([frozen])
    await work_off(cluster, SendJob(load_catalogue()))

    assert 2 == len(await again.read(cluster))


async def test_a_broker_that_forgets_a_rewind_does_not_take_it_back(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers from before it can be read; they were taken for those that were to be published again."""
    monkeypatch.setattr(recovery, "_ATTEMPTS", 1)
    number = home(cluster, account)
    await fund_and_send(cluster, account, 2)
    end = (await stands(cluster))[number] or 0
    await back(cluster, at(number, end - 2))
    again, told = await mark(cluster), 0

    async def forget(*_: object) -> dict[TopicPartition, int | None]:
        nonlocal told
        told += 1
        offsets = await committed_offsets(*_)  # type: ignore[arg-type]
        return {place: None if place.partition == number else offset for place, offset in offsets.items()}

    with monkeypatch.context() as patch:
        patch.setattr(opening, "committed_offsets", forget)
        await work_off(cluster, SendJob(load_catalogue()))

    assert 2 <= told
    # Where retention has taken records, the lane reads those of other tests again, of which these books know nothing.
    assert 2 == len([record for record in await again.read(cluster) if record.key == account.encode()])


@pytest.mark.whole
async def test_a_rewind_that_was_not_set_leaves_what_is_in_doubt(
    cluster: Settings, database: Connection, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed worker may have published more than its row notes. Once the offsets are set, nothing of it counts."""
    await fund_and_send(cluster, account, 2)
    number = home(cluster, account)
    end = (await stands(cluster))[number] or 0
    said = "select published, maybe_published from lanes where topic = $1 and partition = $2"
    await database.execute("update lanes set maybe_published = next_offset where topic = $1", SEND_REQUESTS)

    async def dies(*_: object) -> None:
        raise OSError("planted")

    with monkeypatch.context() as broken:
        broken.setattr(rewinding, "set_offsets", dies)
        with pytest.raises(OSError, match="planted"):
            await back(cluster, at(number, end - 2))
    unset = await database.fetchrow(said, SEND_REQUESTS, number)
    await back(cluster, at(number, end - 2))

    assert (end - 2, end) == tuple(unset or ())
    assert (end - 2, end - 2) == tuple(await database.fetchrow(said, SEND_REQUESTS, number) or ())


async def test_one_that_was_broken_off_is_done_again_and_then_there_is_nothing_to_do(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the offsets are set nothing has happened; after it, all has."""
    requests, number = await fund_and_send(cluster, account, 2), home(cluster, account)
    target, before = RewindTarget(TargetKind.REQUEST, requests[0].id), await stands(cluster)

    async def dies(*_: object) -> None:
        raise OSError("planted")

    with monkeypatch.context() as broken:
        broken.setattr(rewinding, "set_offsets", dies)
        with pytest.raises(OSError, match="planted"):
            await back(cluster, target)
    unmoved = await stands(cluster)
    with monkeypatch.context() as broken:
        broken.setattr(rewinding, "committed_offsets", dies)
        with pytest.raises(OSError, match="planted"):
            await back(cluster, target)
    moved = await stands(cluster)
    plan, done = await back(cluster, target)

    assert (before, (before[number] or 0) - 2) == (unmoved, moved[number])
    assert ([], [], moved) == (plan.moves, done.result["moves"], await stands(cluster))
    ended = [each.status for each in await list_operations(cluster, 3)]
    assert [OperationStatus.DONE, OperationStatus.FAILED, OperationStatus.FAILED] == ended


async def test_a_rewind_is_not_taken_back_over_what_was_decided_since(
    cluster: Settings, database: Connection, account: str
) -> None:
    """Of restored books: their lane decided a record again and was killed before it published the answer."""
    requests = await fund_and_send(cluster, account, 2)
    number = home(cluster, account)
    # As in a backup from between the two.
    await database.execute("create temp table decided as select * from journal where worker = 'send'")
    await database.execute("delete from journal where request_id = $1", requests[1].id)
    offset = await database.fetchval("select max(source_offset) from decided")
    lane = "update lanes set next_offset = $1 where topic = $2 and partition = $3"
    await database.execute(lane, offset, SEND_REQUESTS, number)
    planned, done = await back(cluster, RewindTarget(TargetKind.REQUEST, requests[0].id, (number,)))
    await database.execute(
        "insert into journal select * from decided where request_id = $1 and is_answer", requests[1].id
    )
    await database.execute(lane, offset + 1, SEND_REQUESTS, number)
    undo = RewindTarget(TargetKind.UNDO, done.number)

    for targets in (None, {number: offset + 1}):  # as it is planned first, and after a drain
        with pytest.raises(RefusedError, match=f"partition {number}: 1 record up to .* had no outcome"):
            await plan_rewind(cluster, WorkerName.SEND, undo, AGAIN, targets)
    assert [(1, 1)] == [(each.first_answers, each.newly_decided) for each in planned.moves]
    assert offset - 1 == (await stands(cluster))[number]


async def test_a_rewind_is_taken_back_to_where_it_found_the_group(cluster: Settings, account: str) -> None:
    """The only way forward: all before that was published. Readers then see nothing again."""
    requests = await fund_and_send(cluster, account, 2)
    before, again = await stands(cluster), await mark(cluster)
    _, done = await back(cluster, RewindTarget(TargetKind.REQUEST, requests[0].id))

    plan, undone = await back(cluster, RewindTarget(TargetKind.UNDO, done.number), RewindOptions())
    restored = await stands(cluster)
    await publish(cluster, SEND_REQUESTS, [request := send(account)])
    await work_off(cluster, SendJob(load_catalogue()))

    assert before == restored
    assert (0, 1) == (plan.records, len(undone.result["moves"]))
    answers = [each for each in await again.read(cluster, SEND_RESULTS) if b"send.decided" in each.value]
    assert [True] == [str(request.id).encode() in each.value for each in answers]
