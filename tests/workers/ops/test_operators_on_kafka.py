"""The operator's questions on real Kafka: publishing, reading results, lag and dead letters."""

import asyncio
import io
import json
from collections import Counter
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from structlog.testing import capture_logs

from infra.kafka.clients import admin_client, create_consumer, create_producer, partition_of, reader
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS
from schemas.dead_letters import DeadLetterReason
from schemas.envelope import Event, encode
from schemas.ticks import ExpiryTick, ExpiryTickData
from tests.workers.wire import ends, promotion, read, send, settled, working
from workers.jobs import partitioning_check
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.partitioning_check import PartitioningCheck
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue
from workers.ops.dead_letters.history import LetterHistory
from workers.ops.dead_letters.letters import LetterFilter, NoSuchDeadLetterError
from workers.ops.dead_letters.pages import list_dead_letters
from workers.ops.dead_letters.report import report_dead_letter
from workers.ops.lag import GroupLag, read_lag
from workers.ops.topics.plan import TopicChange, TopicsError, apply_topics
from workers.ops.topics.publish import PublishReport, publish
from workers.ops.topics.results import Result, ResultFilter, read_results, sort_by_time


def _file(*lines: Event | bytes | dict[str, object]) -> io.BytesIO:
    texts = [
        line if isinstance(line, bytes) else encode(line) if isinstance(line, Event) else json.dumps(line).encode()
        for line in lines
    ]
    return io.BytesIO(b"\n".join(texts) + b"\n")


async def _lag(settings: Settings, group: str) -> GroupLag:
    (found,) = [each for each in await read_lag(settings) if each.group == group]
    return found


async def _work_off(settings: Settings) -> None:
    """Decide everything that is there."""
    catalogue = load_catalogue()
    async with working(settings, SendJob(catalogue), BillingJob(catalogue)):
        while any(each.records for each in await read_lag(settings) if each.topic != EXPIRY_TICKS):
            pass  # each look takes its time
    await settled(settings)


async def _results(settings: Settings, **selection: object) -> list[Result]:
    # All of them in order, however many other tests left here.
    async with aclosing(sort_by_time(read_results(settings, ResultFilter(**selection)), held=1_000_000)) as results:  # type: ignore[arg-type]
        return [result async for result in results]


async def test_what_is_published_is_decided_and_read_back_by_account_and_request(
    cluster: Settings, account: str
) -> None:
    """The way of a file through the system, and the two ways to look for one of its answers."""
    request = uuid4()
    published = await publish(cluster, _file(promotion(account, 2), promotion(f"{account}-2", 1)))
    assert published == PublishReport(published.records, [], 2, published.bytes)
    assert published.records == {BILLING_EVENTS: 2}
    await _work_off(cluster)
    await publish(cluster, _file(send(account), send(account, request), send(account), send(account, request)))
    await _work_off(cluster)

    found = await _results(cluster, account=account)
    told = [(each.data["sequence"], each.data["code"]) for each in found]
    assert [
        (1, "granted"),
        (2, "charged"),
        (3, "charged"),
        (3, "charged"),
        (4, "exhausted"),
        (5, "insufficient_credits"),
    ] == sorted(told)
    answers = await _results(cluster, request=request)
    assert [(account, "charged", False), (account, "charged", True), (account, "exhausted", False)] == sorted(
        (each.account_id, each.data["code"], each.data["repeat"]) for each in answers
    )
    assert [] == await _results(cluster, account=account, request=UUID(int=0))


async def test_a_follower_sees_what_comes_after_it_began(cluster: Settings, account: str) -> None:
    """From the end: nothing of before, and no waiting for an end."""
    await publish(cluster, _file(promotion(account, 5)))
    await _work_off(cluster)
    async with aclosing(read_results(cluster, ResultFilter(account), follow=True)) as results:
        first = await anext(results)
        await publish(cluster, _file(send(account)))
        await _work_off(cluster)
        second = await anext(results)

    assert ("granted", "charged") == (first.data["code"], second.data["code"])


async def test_lines_that_cannot_be_published_are_told_and_the_rest_is_published(
    cluster: Settings, account: str
) -> None:
    """By number, counted from 1, blank lines included."""
    published = await publish(
        cluster, _file(b"{", promotion(account, 1), b"", {"record": {"topic": "x"}}, {"type": "inmail.x.v1"})
    )

    assert {BILLING_EVENTS: 1} == published.records
    assert [1, 4, 5] == [number for number, _ in published.failures]


async def test_a_record_that_kafka_refuses_fails_alone(cluster: Settings, account: str) -> None:
    """Larger than any record may be: told of its line, after which the file goes on."""
    huge = {"record": {"topic": SEND_REQUESTS, "key": account, "value": "x" * 1_200_000}}

    published = await publish(cluster, _file(huge, promotion(account, 1)))

    assert {BILLING_EVENTS: 1} == published.records
    ((number, reason),) = published.failures
    assert (1, "refused") == (number, reason.partition(":")[0])


async def test_a_record_that_the_broker_refuses_costs_no_other_its_place(cluster: Settings, account: str) -> None:
    """It refuses a whole batch for one record, and then what follows: a new producer sends the others again."""
    far = {"record": {"topic": BILLING_EVENTS, "key": account, "timestamp": "2100-01-01T00:00:00Z", "value": "{}"}}
    events = [promotion(account, 1) for _ in range(200)]
    start = await ends(cluster, BILLING_EVENTS)

    async with admin_client(cluster) as admin, asyncio.timeout(30):
        await _set_time(admin, "CreateTime")
        published = await publish(cluster, _file(events[0], far, *events[1:-1], far, events[-1]))
        await _set_time(admin, "LogAppendTime")

    assert [(2, "refused: InvalidTimestampError()"), (201, "refused: InvalidTimestampError()")] == published.failures
    assert {BILLING_EVENTS: len(events)} == published.records
    assert [str(event.id) for event in events] == [each["id"] for each in await read(cluster, start, len(events))]


async def _set_time(admin: AIOKafkaAdminClient, kind: str) -> None:
    config = {"message.timestamp.type": kind}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, BILLING_EVENTS, configs=config)])


async def test_a_tick_is_published_to_every_partition(cluster: Settings) -> None:
    """One line, as many records as there are partitions."""
    tick = {"type": "inmail.expiry.tick.v1", "data": {}}
    before = await _lag(cluster, "inmail-expiry")

    published = await publish(cluster, _file(tick))

    after = await _lag(cluster, "inmail-expiry")
    assert {EXPIRY_TICKS: cluster.topic_partitions} == published.records
    assert [1] * cluster.topic_partitions == [
        b.end - a.end for a, b in zip(before.partitions, after.partitions, strict=True)
    ]


async def test_lag_counts_unread_records_and_their_age(cluster: Settings, account: str) -> None:
    """In the account's partition, until the worker has answered; then none, whatever markers lie at the end."""
    await _work_off(cluster)
    assert (0, 0.0) == ((await _lag(cluster, "inmail-send")).records, (await _lag(cluster, "inmail-send")).seconds)
    await publish(cluster, _file(send(account), send(account)))

    behind = await _lag(cluster, "inmail-send")

    assert (2, False) == (behind.records, behind.never_committed)
    partition = behind.partitions[partition_of(account.encode(), cluster.topic_partitions)]
    assert partition.records == 2
    assert partition.committed is not None
    assert partition.end - partition.committed == 2
    assert 0 <= behind.seconds < 60
    await _work_off(cluster)
    assert (await _lag(cluster, "inmail-send")).records == 0


async def test_lag_counts_what_an_open_transaction_holds_back(cluster: Settings, account: str) -> None:
    """Its records are unread, and so are those behind them, though no worker could read them yet."""
    await _work_off(cluster)
    value = encode(send(account))
    open_one = AIOKafkaProducer(**cluster.kafka_client(), transactional_id=f"test-{account}")
    await open_one.start()
    await open_one.begin_transaction()
    await open_one.send_and_wait(SEND_REQUESTS, value, account.encode())
    await publish(cluster, _file(send(account)))

    behind = await _lag(cluster, "inmail-send")

    await open_one.commit_transaction()
    await open_one.stop()
    assert (2, 2) == (behind.records, behind.held)
    assert 0 < behind.seconds < 60
    partition = behind.partitions[partition_of(account.encode(), cluster.topic_partitions)]
    assert "an open transaction holds 2 back" == partition.note
    assert (2, 2) == (behind.summary()["records"], behind.summary()["held"])
    await _work_off(cluster)
    assert (0, 0) == ((await _lag(cluster, "inmail-send")).records, (await _lag(cluster, "inmail-send")).held)


async def test_the_answers_to_ticks_that_booked_nothing_can_be_left_out(cluster: Settings, account: str) -> None:
    """All but the one that is asked for by its id."""
    tick, now = uuid4(), datetime.now(UTC)
    event = ExpiryTick.create(id=tick, source="/test", time=now, data=ExpiryTickData(as_of=now))
    await publish(cluster, _file(event, promotion(account, 1)))
    await _work_off(cluster)
    async with (
        working(cluster, ExpiryJob(load_catalogue(), cluster)),
    ):
        while any(each.records for each in await read_lag(cluster)):
            pass  # each look takes its time
    await settled(cluster)

    asked_for = await _results(cluster, request=tick, empty_ticks=False)

    with_them, without = await _results(cluster), await _results(cluster, empty_ticks=False)
    assert [True] * cluster.topic_partitions == [each.is_empty_tick for each in asked_for]
    assert str(tick) in {each.data.get("request_id") for each in with_them}  # among others' events of own kinds
    assert [each for each in with_them if not each.is_empty_tick] == without
    assert account in {each.account_id for each in without}


async def test_an_account_on_another_partition_is_decided_and_told_to_the_operator(
    cluster: Settings, account: str
) -> None:
    """Its producer partitions in a way of its own."""
    await publish(cluster, _file(promotion(account, 1)))
    await _work_off(cluster)
    other = (partition_of(account.encode(), cluster.topic_partitions) + 1) % cluster.topic_partitions
    async with create_producer(cluster, "test") as producer:
        await producer.send_and_wait(SEND_REQUESTS, encode(send(account)), account.encode(), partition=other)

    with capture_logs() as logs:
        await _work_off(cluster)

    told = [line for line in logs if line["event"] == "accounts_of_other_partitions"]
    assert [("warning", SEND_REQUESTS, other, 1, {"/test": 1})] == [
        (line["log_level"], line["topic"], line["partition"], line["accounts"], line["sources"]) for line in told
    ]
    assert "charged" in {each.data["code"] for each in await _results(cluster, account=account)}


def test_accounts_on_other_partitions_are_told_of_once_a_minute_and_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is lost by it: the next warning counts those that came meanwhile."""
    now = 0.0
    monkeypatch.setattr(partitioning_check, "monotonic", lambda: now)
    seen = PartitioningCheck(SEND_REQUESTS)
    with capture_logs() as logs:
        for now, partition, accounts in [(0, 0, 0), (1, 0, 2), (2, 0, 3), (3, 1, 4), (60, 0, 0), (61, 0, 5)]:  # noqa: B007
            seen.count(partition, accounts, Counter({f"/{partition}": accounts}))

    assert [(0, 2), (1, 4), (0, 8)] == [(line["partition"], line["accounts"]) for line in logs]
    assert [{"/0": 2}, {"/1": 4}, {"/0": 8}] == [line["sources"] for line in logs]


async def test_a_group_whose_workers_run_is_not_started_and_its_operator_told_why(
    cluster: Settings, account: str
) -> None:
    """The broker refuses; once the workers are gone it does not, however recently they left."""
    start = TopicChange("start", SEND_REQUESTS, "", group=f"group-{account}", starts={0: 0})
    consumer = create_consumer(cluster, f"group-{account}", 10)
    consumer.subscribe([SEND_REQUESTS])
    await consumer.start()
    with pytest.raises(TopicsError, match=f"group-{account} .* with 1 member: stop its workers first"):
        await apply_topics(cluster, [start])

    await consumer.stop()
    await apply_topics(cluster, [start])
    async with reader(cluster, f"group-{account}") as again:
        place = TopicPartition(SEND_REQUESTS, 0)
        assert (await again.beginning_offsets([place]))[place] == await again.committed(place)


async def test_dead_letters_are_listed_and_shown_in_full(cluster: Settings, account: str, tmp_path: Path) -> None:
    """The newest first, by reason and by origin; one of them with its bytes, key and headers as they were."""
    bad = {
        "record": {"topic": SEND_REQUESTS, "key": account, "value": "{oops", "headers": {"trace": "1", "none": None}}
    }
    file = tmp_path / "bad.ndjson"
    file.write_bytes(_file(bad).getvalue())
    with file.open("rb") as opened:
        await publish(cluster, opened)
    await publish(cluster, _file({"record": {"topic": BILLING_EVENTS, "key": account, "value": None}}))
    await _work_off(cluster)

    mine = (await list_dead_letters(cluster, LetterFilter(account=account))).letters
    assert ["no_value", "not_json"] == sorted(each.reason for each in mine)
    not_json = LetterFilter(DeadLetterReason.NOT_JSON, SEND_REQUESTS, account)
    (letter,) = (await list_dead_letters(cluster, not_json)).letters
    ((shown, fate),) = (await report_dead_letter(cluster, letter.partition, letter.offset)).letters
    assert (letter, LetterHistory()) == (shown, fate)
    assert (b"{oops", account.encode()) == (letter.value, letter.key)
    assert (("trace", b"1"), ("none", None)) == letter.headers
    found = await _results(cluster, account=account, dead_letters=True)
    assert ["inmail.message.dead-lettered.v1"] * 2 == [each.event["type"] for each in found]


@pytest.mark.parametrize(("partition", "offset"), [(0, 10**9), (99, 0)])
async def test_a_dead_letter_that_is_not_there_is_said_to_be_missing(
    cluster: Settings, partition: int, offset: int
) -> None:
    """At once: no waiting for one to come."""
    with pytest.raises(NoSuchDeadLetterError, match=f"{partition}/{offset}"):
        await report_dead_letter(cluster, partition, offset)
