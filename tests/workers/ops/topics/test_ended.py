"""Topics that were deleted and created again under workers and books, on a broker of their own."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from infra.clock import to_milliseconds, utc_now
from infra.kafka.clients import admin_client, committed_offsets
from infra.kafka.topic_ids import topic_ids
from infra.kafka.transactions import TransactionPair
from infra.local.stack import LocalStack
from infra.postgres import Connection
from infra.settings import RecordTime, Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import Event
from tests.whole import whole
from tests.workers.lagging import QUICK, stands
from tests.workers.life import at_the_end, in_partition, living, once_each
from tests.workers.wire import ends, eventually, publish, read, send, settled
from workers.jobs.balances import with_balances
from workers.jobs.billing import BillingJob
from workers.jobs.send import SendJob
from workers.lane import lane, recovery, server_checks
from workers.ledger.model import WorkerName
from workers.ledger.plans import load_catalogue
from workers.ops.books.audit import audit_books
from workers.ops.group_offsets import set_offsets
from workers.ops.lag import Status, observer
from workers.ops.operations import RefusedError
from workers.ops.replay.rebuild_plan import RebuildRequest, plan_rebuild
from workers.ops.replay.reemit_plan import plan_reemit
from workers.ops.replay.reemit_rows import RowFilter
from workers.ops.replay.rewind_plan import RewindOptions, plan_rewind
from workers.ops.replay.rewind_target import RewindTarget, TargetKind
from workers.ops.topics import ended
from workers.ops.topics.ended import end_topic
from workers.ops.topics.plan import TopicsError, apply_topics, plan_topics, wanted_config

PLACE = TopicPartition(SEND_REQUESTS, 0)
SENDS = [PLACE, TopicPartition(SEND_REQUESTS, 1)]
_DECISIONS = "select partition, first_offset, next_offset from clock_decisions order by 1, 2"


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalStack]:
    """A broker whose topics may go."""
    with LocalStack(postgres=False) as stack:
        yield stack


@pytest.fixture
async def cluster(settings: Settings, broker: LocalStack) -> AsyncIterator[Settings]:
    """Settings for that broker, with new topics of two partitions."""
    changes = {"kafka_bootstrap_servers": broker.kafka_bootstrap_servers, "topic_partitions": 2}
    cluster = settings.model_copy(update=changes)
    await apply_topics(cluster, await plan_topics(cluster))
    yield cluster
    async with admin_client(cluster) as client:
        await client.delete_topics([topic for topic in await client.list_topics() if topic.startswith("inmail.")])
        await eventually(lambda: _gone(client, SEND_REQUESTS), "topics that are gone")


@pytest.fixture
async def admin(cluster: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Another tool's client."""
    async with admin_client(cluster) as client:
        yield client


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lanes and workers look again soon."""
    monkeypatch.setattr(lane, "_HALTED_SECONDS", 0.2)
    monkeypatch.setattr(recovery, "_ATTEMPTS", 1)
    monkeypatch.setattr(server_checks, "_SERVERS_SECONDS", 0.3)


async def _gone(admin: AIOKafkaAdminClient, topic: str) -> bool:
    return topic not in await topic_ids(admin, [topic])


async def _delete(admin: AIOKafkaAdminClient) -> None:
    await admin.delete_topics([SEND_REQUESTS])
    await eventually(lambda: _gone(admin, SEND_REQUESTS), "a topic that is gone")


async def _create(settings: Settings, admin: AIOKafkaAdminClient) -> None:
    """Create the topic as a tool of others would."""
    await admin.create_topics([NewTopic(SEND_REQUESTS, 2, 1, topic_configs=wanted_config(SEND_REQUESTS, settings))])

    async def there() -> bool:
        return not await _gone(admin, SEND_REQUESTS)

    await eventually(there, "a topic that is there")


def _requests(settings: Settings, count: int) -> list[Event]:
    return [send(in_partition(settings, number % 2)) for number in range(count)]


async def _work_off(settings: Settings, requests: list[Event], timestamp_ms: int | None = None) -> None:
    """Publish requests, one batch each, and let a worker decide them."""
    await publish(settings, SEND_REQUESTS, requests, timestamp_ms)
    async with living(settings, with_balances(SendJob(load_catalogue()), settings)):
        await at_the_end(settings, 0, 1)
    await settled(settings)


async def _sound(connection: Connection) -> list[str]:
    return [f"{each.name}: {each.examples}" for each in (await audit_books(connection)).failures()]


async def test_a_topic_that_was_deleted_is_begun_anew_by_apply(
    cluster: Settings, admin: AIOKafkaAdminClient, database: Connection
) -> None:
    """Everything is answered, lag tells the truth before and after, the audit finds nothing; as often as it happens."""
    start = await ends(cluster, SEND_RESULTS)
    asked: list[Event] = []
    for number, count in enumerate((14, 20, 6)):
        if number:
            await _delete(admin)
            plan = await plan_topics(cluster)
            await apply_topics(cluster, plan)
            assert [("create", None), ("renew", {0: 0, 1: 0})] == [(each.kind, each.starts) for each in plan]
            assert [] == await plan_topics(cluster)
        new = _requests(cluster, count)
        asked += new
        await publish(cluster, SEND_REQUESTS, new)
        async with observer(cluster, limits=QUICK) as found:
            unread = await stands(found, SendJob.group, PLACE, Status.STOPPED)
            async with living(cluster):
                await at_the_end(cluster, 0, 1)
            await stands(found, SendJob.group, PLACE, Status.OK)
        await settled(cluster)
        assert count / 2 == unread.records
        assert [] == await _sound(database)

    assert once_each(asked, await read(cluster, start, len(asked)))
    rows = await database.fetch("select topic_id, next_offset, unpublished_from from ended_topics order by as_of")
    assert [(7, None), (7, None), (10, None), (10, None)] == [tuple(row)[1:] for row in rows]
    assert 2 == len({row["topic_id"] for row in rows})


@pytest.mark.whole
@pytest.mark.usefixtures("hasty")
async def test_a_topic_that_another_tool_created_again_halts_its_lanes_until_apply(
    cluster: Settings, admin: AIOKafkaAdminClient, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a worker that runs all the while, and that goes on by itself after it."""
    start = await ends(cluster, SEND_RESULTS)
    asked = _requests(cluster, 14)
    async with living(cluster) as life:
        await publish(cluster, SEND_REQUESTS, asked)
        await at_the_end(cluster, 0, 1)
        monkeypatch.setattr(server_checks, "_lacks_topic", _never)  # it is away for less than two looks
        await _delete(admin)
        await _create(cluster, admin)
        new = _requests(cluster, 40)
        await publish(cluster, SEND_REQUESTS, new)
        await life.not_ready(f"lane {SEND_REQUESTS}/1 is halted: {SEND_REQUESTS} was deleted and created again")
        async with observer(cluster, limits=QUICK) as found:
            recreated = await stands(found, SendJob.group, PLACE, Status.RECREATED)
        await apply_topics(cluster, await plan_topics(cluster))
        await at_the_end(cluster, 0, 1)
        await life.ready()
    await settled(cluster)
    answers = await read(cluster, start, len(asked) + len(new))

    assert 20 == recreated.records
    assert "run `inmail topics apply`" in recreated.reason
    assert Counter(str(event.id) for event in [*asked, *new]) == Counter(each["request_id"] for each in answers)
    assert [] == await _sound(database)
    assert [] == await plan_topics(cluster)


async def _never(*_: object) -> str:
    return ""


@pytest.mark.usefixtures("no_far_times_left")
@pytest.mark.parametrize("time", [RecordTime.CREATE, whole(RecordTime.APPEND)])
async def test_what_was_stored_and_not_published_of_a_topic_that_is_gone_is_published_once(
    cluster: Settings, admin: AIOKafkaAdminClient, database: Connection, time: RecordTime
) -> None:
    """From the books, and no answer that a reader sees already; balances again, which are not counted as answers.

    Whatever time the records have: a watermark that is far ahead says nothing of when answers were published.
    """
    cluster = cluster.model_copy(update={"balances_topic": True, "topic_record_time": time})
    await apply_topics(cluster, await plan_topics(cluster))
    start = await ends(cluster, SEND_RESULTS)
    asked = _requests(cluster, 8)
    tomorrow = to_milliseconds(utc_now() + timedelta(days=1)) if time is RecordTime.CREATE else None
    await _work_off(cluster, asked[:4], tomorrow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionPair, "publish", _fail)
        async with living(cluster):
            await publish(cluster, SEND_REQUESTS, asked[4:], tomorrow)
            await eventually(lambda: _stored(database, len(asked)), "outcomes that are stored")
    # As a worker leaves it that was killed: of what it has published it had noted less.
    await database.execute("update lanes set published = 1")
    await _delete(admin)
    await apply_topics(cluster, await plan_topics(cluster))
    new = _requests(cluster, 6)
    with capture_logs() as logs:
        await _work_off(cluster, new, tomorrow)

    published = [log["answers"] for log in logs if log["event"] == "ended_topic_published"]
    assert [2, 2] == published
    assert once_each([*asked, *new], await read(cluster, start, len(asked) + len(new)))
    assert [] == await _sound(database)


async def _fail(*_: object) -> None:
    raise KafkaError("not now")


async def _stored(connection: Connection, count: int) -> bool:
    return count == await connection.fetchval("select count(*) from journal where is_answer")


@pytest.mark.usefixtures("hasty")
async def test_records_that_a_broker_lost_are_told_and_what_came_since_is_answered(
    cluster: Settings, database: Connection
) -> None:
    """The topic is the same, and ends before what the books have read."""
    asked = _requests(cluster, 4)
    await _work_off(cluster, asked)
    await database.execute("update lanes set next_offset = next_offset + 100, published = published + 100")
    start = await ends(cluster, SEND_RESULTS)
    new = _requests(cluster, 6)
    async with living(cluster) as life:
        await publish(cluster, SEND_REQUESTS, new)
        await life.not_ready("the books have read inmail.send-requests/0 up to offset 102, but the partition ends at 5")
    plan = await plan_topics(cluster)
    await apply_topics(cluster, plan)
    async with living(cluster):
        await at_the_end(cluster, 0, 1)
    await settled(cluster)
    answers = await read(cluster, start, len(new))

    assert [("renew", SEND_REQUESTS)] == [(each.kind, each.topic) for each in plan]
    assert {str(event.id) for event in new} <= {each["request_id"] for each in answers}
    assert [] == await _sound(database)
    assert [] == await plan_topics(cluster)


@pytest.mark.whole
async def test_groups_that_could_not_follow_their_lanes_are_set_back_by_the_next_plan(
    cluster: Settings, admin: AIOKafkaAdminClient, database: Connection
) -> None:
    """That of running workers was refused; another one's is set all the same, and the same command does the rest."""
    await _work_off(cluster, _requests(cluster, 4))
    billing = [TopicPartition(BILLING_EVENTS, number) for number in (0, 1)]
    await set_offsets(cluster, BillingJob.group, dict.fromkeys(billing, 60), [])
    await database.execute("update lanes set next_offset = next_offset + 100, published = published + 100")
    await database.execute(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset)"
        " select $1, $2, n, 1, 70 from generate_series(0, 1) as n",
        BillingJob.group,
        BILLING_EVENTS,
    )
    await set_offsets(cluster, SendJob.group, dict.fromkeys(SENDS, 90), [])
    async with living(cluster) as life:
        await life.not_ready("but the partition ends at")
        with pytest.raises(TopicsError, match=f"group {SendJob.group} could not be started, .* stop its workers first"):
            await apply_topics(cluster, await plan_topics(cluster))
        others = await committed_offsets(admin, BillingJob.group, billing)
    plan = await plan_topics(cluster)
    await apply_topics(cluster, plan)
    start = await ends(cluster, SEND_RESULTS)
    new = _requests(cluster, 6)
    await _work_off(cluster, new)
    answers = await read(cluster, start, len(new))

    assert dict.fromkeys(billing, 0) == others
    assert [("reset", SEND_REQUESTS, {0, 1})] == [(each.kind, each.topic, set(each.starts or ())) for each in plan]
    assert {str(event.id) for event in new} <= {each["request_id"] for each in answers}
    assert [] == await plan_topics(cluster)


async def test_a_rebuild_waits_until_the_lanes_go_on_with_the_new_topic(
    cluster: Settings, admin: AIOKafkaAdminClient, database: Connection
) -> None:
    """Until then it would decide the new topic's records in place of those that the live ledger has decided."""
    await _work_off(cluster, _requests(cluster, 8))
    await _delete(admin)
    await _create(cluster, admin)
    await publish(cluster, SEND_REQUESTS, _requests(cluster, 20))
    await database.execute("create schema again")
    request = RebuildRequest("replay rebuild", schema="again", partial=True)

    with pytest.raises(RefusedError, match=f"^{SEND_REQUESTS} was deleted and created again, .*`inmail topics apply`"):
        await plan_rebuild(cluster, request)
    await apply_topics(cluster, await plan_topics(cluster))
    plan = await plan_rebuild(cluster, request)

    assert {SEND_REQUESTS: 8} == {span.topic: plan.lost for span in plan.spans if span.ended}
    assert 0 == sum(span.end for span in plan.spans)


@pytest.mark.parametrize("how", ["lost", whole("created again")])
async def test_a_plan_that_somebody_carried_out_meanwhile_changes_nothing(
    cluster: Settings, admin: AIOKafkaAdminClient, database: Connection, how: str
) -> None:
    """Two operators at the same prompt: the lanes that the first let go on are no longer those of the plan."""
    await _work_off(cluster, _requests(cluster, 4))
    if how == "lost":
        await database.execute("update lanes set next_offset = next_offset + 100, published = published + 100")
    else:
        await _delete(admin)
        await _create(cluster, admin)
    plan = await plan_topics(cluster)
    await apply_topics(cluster, plan)
    await _work_off(cluster, _requests(cluster, 6))
    before = [await _lanes(database), await _offsets(admin)]
    await apply_topics(cluster, plan)

    assert "renew" in {each.kind for each in plan}
    assert before == [await _lanes(database), await _offsets(admin)]
    assert [] == await plan_topics(cluster)


async def _lanes(database: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await database.fetch("select * from lanes order by topic, partition")]


async def _offsets(admin: AIOKafkaAdminClient) -> dict[TopicPartition, int | None]:
    return await committed_offsets(admin, SendJob.group, SENDS)


@pytest.mark.whole
@pytest.mark.parametrize(("ahead", "starts"), [(timedelta(0), {0: 3, 1: 3}), (timedelta(days=400), {0: 0, 1: 0})])
async def test_what_came_since_a_loss_is_told_apart_from_times_far_ahead(
    cluster: Settings,
    database: Connection,
    monkeypatch: pytest.MonkeyPatch,
    ahead: timedelta,
    starts: dict[int, int],
) -> None:
    """A record that was set aside is none that came since; to a watermark that was carried off, none would be."""
    monkeypatch.setattr(ended, "_CLOCKS_DIFFER", timedelta(0))
    story = cluster.model_copy(update={"topic_record_time": RecordTime.CREATE})
    await apply_topics(story, await plan_topics(story))
    await publish(story, SEND_REQUESTS, _requests(story, 2), to_milliseconds(utc_now() + timedelta(days=200)))
    await apply_topics(cluster, await plan_topics(cluster))
    await publish(cluster, SEND_REQUESTS, _requests(cluster, 4))
    await asyncio.sleep(0.01)  # another millisecond
    read = utc_now()
    await publish(cluster, SEND_REQUESTS, _requests(cluster, 2))
    await database.executemany(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset, as_of)"
        " values ('inmail-send', $1, $2, 1, 100, $3)",
        [(SEND_REQUESTS, partition, read + ahead) for partition in starts],
    )

    async with admin_client(cluster) as admin:
        found = await ended.find_ended(cluster, admin, await admin.list_topics())

    assert {SEND_REQUESTS: starts} == {topic: each.starts for topic, each in found.items()}


async def test_what_was_decided_of_times_far_ahead_ends_with_the_records(database: Connection) -> None:
    """A range of offsets is of the records that had them: from the first that has come since, it is of others."""
    await database.execute(
        "insert into operations (verb, actor, reason, arguments, plan, started_at, noted_at, ended_at, status,"
        " result) values ('clock set-aside', 'ann', 'bad clock', '{}', '{}', now(), now(), now(), 'done', '{}');"
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset) values"
        " ('inmail-send', 'inmail.send-requests', 0, 1, 90), ('inmail-send', 'inmail.send-requests', 1, 1, 90);"
        "insert into clock_decisions (operation, topic, partition, kind, first_offset, next_offset, time)"
        " select 1, 'inmail.send-requests', x.*, now() from (values (0, 'set_aside', 5, 9), (0, 'accept', 30, 99),"
        " (0, 'set_aside', 60, 70), (1, 'set_aside', 5, 9)) as x"
    )

    of_all = [tuple(row) for row in await database.fetch(_DECISIONS)]
    same = uuid4()
    await database.execute("update lanes set topic_id = $1", same)
    await end_topic(database, "inmail-send", SEND_REQUESTS, same, {0: 5})  # it lost its end, and its records are there
    kept = [tuple(row) for row in await database.fetch(_DECISIONS)]
    await database.execute("update lanes set next_offset = 90 where partition = 0")
    await end_topic(database, "inmail-send", SEND_REQUESTS, uuid4(), {0: 40})
    of_what_is_left = [tuple(row) for row in await database.fetch(_DECISIONS)]
    await end_topic(database, "inmail-send", SEND_REQUESTS, uuid4(), {0: 0})

    assert of_all == kept
    assert [(0, 5, 9), (0, 30, 40), (1, 5, 9)] == of_what_is_left
    assert [(1, 5, 9)] == [tuple(row) for row in await database.fetch(_DECISIONS)]


async def test_records_of_other_partitions_count_from_the_first_of_the_new_topic(database: Connection) -> None:
    """Those of the topic before stay counted; their offsets tell nothing of the next ones."""
    await database.execute(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset) values"
        " ('inmail-send', 'inmail.send-requests', 0, 1, 90), ('inmail-send', 'inmail.send-requests', 1, 1, 90);"
        "insert into misplaced_records"
        " select 'inmail.send-requests', x.partition, x.source, 7, now(), now(), x.last_offset"
        " from (values (0, 'crm', 80), (0, 'jobs', 3), (1, 'crm', 80)) as x (partition, source, last_offset)"
    )

    await end_topic(database, "inmail-send", SEND_REQUESTS, uuid4(), {0: 10})
    cut = await database.fetch("select partition, source, records, last_offset from misplaced_records order by 1, 2")

    assert [(0, "crm", 7, 9), (0, "jobs", 7, 3), (1, "crm", 7, 80)] == [tuple(row) for row in cut]


@pytest.mark.whole
async def test_offsets_mean_the_topic_as_it_is_and_not_the_one_before(
    cluster: Settings, admin: AIOKafkaAdminClient
) -> None:
    """A rewind to a request of the one before is refused, and counts none of its rows; a reemission sends none."""
    old, new = _requests(cluster, 12), _requests(cluster, 4)
    await _work_off(cluster, old)
    await _delete(admin)
    await apply_topics(cluster, await plan_topics(cluster))
    await _work_off(cluster, new)
    again = RewindOptions(publish_again=True)

    with pytest.raises(RefusedError, match="send decided it in partition 0 before the topic was created again"):
        await plan_rewind(cluster, WorkerName.SEND, RewindTarget(TargetKind.REQUEST, old[0].id), again)
    plan = await plan_rewind(cluster, WorkerName.SEND, RewindTarget(TargetKind.OFFSET, 0), again)

    whole, from_offset = RowFilter(worker=WorkerName.SEND), RowFilter(worker=WorkerName.SEND, partition=0, start=0)
    counts = [(await plan_reemit(cluster, each, None, 100)).count for each in (whole, from_offset)]

    assert [16, 2] == counts
    assert [(2, 2, 0)] * 2 == [(move.republished, move.first_answers, move.newly_decided) for move in plan.moves]
    async with admin_client(cluster) as client:
        assert {PLACE: 2} == await committed_offsets(client, SendJob.group, [PLACE])
