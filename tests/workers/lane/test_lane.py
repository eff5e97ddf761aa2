"""The lane on real Kafka and real Postgres: one answer for each record, whatever happens in between."""

import asyncio
from collections import Counter
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import KafkaError

from infra.kafka.clients import admin_client, reader
from infra.kafka.transactions import Message, TransactionPair, TransactionTimes
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, CREDIT_EVENTS, DEAD_LETTERS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import encode
from tests.workers.life import feeding, in_partition, living
from tests.workers.wire import ends, eventually, prepare, promotion, publish, read, read_to_end, send, working
from workers.jobs.billing import BillingJob
from workers.jobs.send import SendJob
from workers.lane import lane, recovery
from workers.ledger.plans import load_catalogue
from workers.ops.topics.plan import TopicChange, apply_topics


async def _fund(settings: Settings, credits_: int, *accounts: str) -> None:
    start = await ends(settings, CREDIT_EVENTS)
    await publish(settings, BILLING_EVENTS, [promotion(each, credits_) for each in accounts])
    async with working(settings, BillingJob(load_catalogue())):
        await read(settings, start, len(accounts))


async def _committed(settings: Settings) -> dict[int, int]:
    async with reader(settings, SendJob.group) as consumer:
        places = [TopicPartition(SEND_REQUESTS, n) for n in range(settings.topic_partitions)]
        return {place.partition: await consumer.committed(place) for place in places}


async def test_each_record_gets_one_answer_in_order_and_no_lag_is_left(cluster: Settings) -> None:
    """Sends of many accounts: every one answered once, each account's in order, offsets at the end."""
    accounts = [f"a-{uuid4().hex[:12]}" for _ in range(20)]
    await _fund(cluster, 7, *accounts)
    requests = [send(each) for _ in range(10) for each in accounts]
    start = await ends(cluster, SEND_RESULTS)
    await publish(cluster, SEND_REQUESTS, requests)

    async with working(cluster, SendJob(load_catalogue())):
        await read(cluster, start, len(requests))
    answers = await read_to_end(cluster, start)

    assert Counter(str(request.id) for request in requests) == Counter(a["request_id"] for a in answers)
    for each in accounts:
        mine = [answer for answer in answers if answer["account"] == each]
        # Rows 7 and 10 are the notices that few and that none are left, on the other result topic.
        assert [2, 3, 4, 5, 6, 8, 9, 11, 12, 13] == [answer["sequence"] for answer in mine]
        assert ["charged"] * 7 + ["insufficient_credits"] * 3 == [answer["code"] for answer in mine]
    end = await ends(cluster, SEND_REQUESTS)
    assert {tp.partition: offset for tp, offset in end.items()} == await _committed(cluster)


def _bad(account: str) -> dict[str, tuple[bytes | None, bytes | None]]:
    key, good = account.encode(), encode(send(account))
    return {
        "not_json": (key, b"\xff\xfenot json"),
        "no_value": (key, None),
        "too_large": (key, good.replace(b"}}", b'},"pad":"' + b"x" * 900_000 + b'"}')),
        "missing_key": (b"", good),
        "key_is_not_subject": (b"somebody-else", good),
        "unknown_type": (key, good.replace(b"send.requested.v1", b"send.imagined.v1")),
        "unknown_version": (key, good.replace(b"send.requested.v1", b"send.requested.v9")),
        "wrong_topic": (key, encode(promotion(account, 1))),
        "invalid_event": (key, good.replace(b'"none"', b"17")),
    }


async def test_what_can_never_succeed_becomes_a_dead_letter_and_touches_nobody_else(
    cluster: Settings, account: str
) -> None:
    """Every kind of bad record between good ones: each accounted for by its reason, the good ones answered."""
    await _fund(cluster, 50, account)
    bad = _bad(account)
    records = [record for each in bad.values() for record in (send(account), each)]
    results, letters = await ends(cluster, SEND_RESULTS), await ends(cluster, DEAD_LETTERS)
    await publish(cluster, SEND_REQUESTS, records)

    async with working(cluster, SendJob(load_catalogue())):
        answers = await read(cluster, results, len(bad))
        dead = await read(cluster, letters, len(bad))

    assert ["charged"] * len(bad) == [answer["code"] for answer in answers]
    assert sorted(bad) == sorted(letter["reason"] for letter in dead)
    assert all(len(letter["error"]) <= 1000 for letter in dead)


async def test_an_unknown_plan_is_a_dead_letter_that_names_the_known_ones(cluster: Settings, account: str) -> None:
    """So that a mended catalogue and sending it again can succeed."""
    value = (
        b'{"specversion":"1.0","id":"%s","source":"/test","type":"inmail.subscription.activated.v1","subject":"%s",'
        b'"time":"2030-01-01T00:00:00Z","data":{"subscription_id":"s","plan":"platinum",'
        b'"period_start":"2030-01-01T00:00:00Z","period_end":"2030-02-01T00:00:00Z"}}'
    ) % (str(uuid4()).encode(), account.encode())
    letters = await ends(cluster, DEAD_LETTERS)
    await publish(cluster, BILLING_EVENTS, [(account.encode(), value)])

    async with working(cluster, BillingJob(load_catalogue())):
        (letter,) = await read(cluster, letters, 1)

    assert "unknown_plan" == letter["reason"]
    assert "premium_career" in letter["error"]
    assert "platinum" in letter["error"]


async def test_what_was_stored_and_not_published_goes_out_first_and_is_no_repeat(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the two commits: the next owner publishes the stored answers, and nothing is decided twice."""
    await _fund(cluster, 5, account)
    start = await ends(cluster, SEND_RESULTS)
    await publish(cluster, SEND_REQUESTS, [send(account) for _ in range(3)])
    publish_ = TransactionPair.publish
    failed = []

    async def fails_twice(self: TransactionPair, messages: list[Message], *rest: object) -> TransactionTimes:
        if messages and len(failed) < 2:
            failed.append(messages)
            raise KafkaError("planted")
        return await publish_(self, messages, *rest)

    monkeypatch.setattr(TransactionPair, "publish", fails_twice)
    async with working(cluster, SendJob(load_catalogue())):
        await read(cluster, start, 3)
    answers = await read_to_end(cluster, start)

    assert 2 == len(failed)
    assert [(2, False), (3, False), (4, False)] == [(a["sequence"], a["repeat"]) for a in answers]


async def test_stored_answers_are_published_from_the_books_when_retention_took_the_input(
    cluster: Settings, database: Connection, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input is deleted between the two commits; the answers come out all the same, from Postgres."""
    await _fund(cluster, 5, account)
    start = await ends(cluster, SEND_RESULTS)
    await publish(cluster, SEND_REQUESTS, [send(account) for _ in range(3)])
    publish_ = TransactionPair.publish
    refused = asyncio.Event()

    async def refuses(self: TransactionPair, messages: list[Message], *rest: object) -> TransactionTimes:
        if messages:
            refused.set()
            raise KafkaError("planted")
        return await publish_(self, messages, *rest)

    monkeypatch.setattr(TransactionPair, "publish", refuses)
    async with working(cluster, SendJob(load_catalogue())):
        await asyncio.wait_for(refused.wait(), 30)
    monkeypatch.setattr(TransactionPair, "publish", publish_)
    await _delete_input(cluster)

    async with working(cluster, SendJob(load_catalogue())):
        await read(cluster, start, 3)
    answers = await read_to_end(cluster, start)

    assert [("charged", 2), ("charged", 3), ("charged", 4)] == [(a["code"], a["sequence"]) for a in answers]
    assert 4 == await database.fetchval("select count(*) from journal where is_answer")


async def _delete_input(settings: Settings) -> None:
    end = await ends(settings, SEND_REQUESTS)
    async with admin_client(settings) as admin:
        await admin.delete_records({tp: RecordsToDelete(before_offset=offset) for tp, offset in end.items()})


async def test_an_older_owner_cannot_store_what_it_decides(
    cluster: Settings, database: Connection, account: str
) -> None:
    """The epoch in Postgres fences a lane whose successor has begun; it begins again and goes on."""
    await _fund(cluster, 5, account)
    start = await ends(cluster, SEND_RESULTS)
    async with working(cluster, SendJob(load_catalogue())):
        await publish(cluster, SEND_REQUESTS, [send(account)])
        await read(cluster, start, 1)
        before = await database.fetchval("select max(epoch) from lanes where topic = $1", SEND_REQUESTS)
        await database.execute(
            "update lanes set epoch = epoch + 10, owner_epoch = owner_epoch + 10 where topic = $1", SEND_REQUESTS
        )
        await publish(cluster, SEND_REQUESTS, [send(account)])
        await read(cluster, start, 2)
    answers = await read_to_end(cluster, start)

    after = await database.fetchval("select max(epoch) from lanes where topic = $1", SEND_REQUESTS)
    assert [2, 3] == [answer["sequence"] for answer in answers]
    assert after >= before + 11


@pytest.mark.usefixtures("soon_over_it")
async def test_a_worker_without_a_starting_offset_says_what_to_do_and_goes_on_once_it_is_done(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It picks none by itself: neither skipping what is there nor reading it all again is its decision."""
    monkeypatch.setattr(lane, "_HALTED_SECONDS", 0.2)
    monkeypatch.setattr(recovery, "_ATTEMPTS", 1)
    await prepare(settings)
    job = SendJob(load_catalogue())
    job.group = f"inmail-send-{uuid4().hex[:8]}"
    starts = {place.partition: end for place, end in (await ends(settings, SEND_REQUESTS)).items()}

    async with living(settings, job) as life:
        await life.not_ready("run `inmail topics apply`")
        await apply_topics(settings, [TopicChange("start", SEND_REQUESTS, "", group=job.group, starts=starts)])
        await life.ready()


async def test_two_workers_share_the_partitions_and_answer_each_record_once(
    cluster: Settings, database: Connection
) -> None:
    """A second worker joins under load and leaves again; a rebalance each, and no answer twice or lost."""
    accounts = [in_partition(cluster, number % cluster.topic_partitions) for number in range(8)]
    await _fund(cluster, 1_000, *accounts)
    start = await ends(cluster, SEND_RESULTS)

    async with working(cluster, SendJob(load_catalogue())):
        before = await _epochs(cluster, database, workers=1)
        async with feeding(cluster, accounts) as sent:
            async with working(cluster, SendJob(load_catalogue())):
                shared = await _epochs(cluster, database, workers=2)
                await _all_move(database)
            answered = len(await read_to_end(cluster, start))
            after = await _epochs(cluster, database, workers=1)
            await _all_move(database)
        await read(cluster, start, len(sent))
    answers = await read_to_end(cluster, start)

    assert before < shared < after
    assert 0 < answered < len(sent)
    assert Counter(sent) == Counter(answer["request_id"] for answer in answers)


async def _epochs(settings: Settings, database: Connection, *, workers: int) -> int:
    """Wait until so many workers have all lanes of the sends among them; return the sum of the lanes' epochs."""
    held = "select count(owner), count(distinct owner) from lanes where topic = $1"

    async def is_held() -> bool:
        return (settings.topic_partitions, workers) == tuple(await database.fetchrow(held, SEND_REQUESTS) or ())

    await eventually(is_held, f"lanes of {workers} workers")
    return await database.fetchval("select sum(epoch)::bigint from lanes where topic = $1", SEND_REQUESTS)


async def _all_move(database: Connection) -> None:
    """Wait until each lane of the sends has read on."""
    read_to = "select next_offset from lanes where topic = $1 order by partition"
    before = [row[0] for row in await database.fetch(read_to, SEND_REQUESTS)]

    async def have_moved() -> bool:
        now = [row[0] for row in await database.fetch(read_to, SEND_REQUESTS)]
        return all(offset > earlier for offset, earlier in zip(now, before, strict=True))

    await eventually(have_moved, "lanes that all read on")


async def test_a_transaction_with_a_record_that_fails_is_not_committed(cluster: Settings, account: str) -> None:
    """Each delivery is awaited: a record the broker refuses keeps the whole transaction, offset included, invisible."""
    start = await ends(cluster, SEND_RESULTS)
    name = f"test-{uuid4().hex}"
    pair = TransactionPair(cluster, name)
    await pair.start()

    with pytest.raises(KafkaError):
        await pair.publish(
            [Message(SEND_RESULTS, account.encode(), b"{}"), Message(SEND_RESULTS, account.encode(), b"x" * 2_000_000)],
            {TopicPartition(SEND_REQUESTS, 0): 1},
            f"group-{account}",
        )
    await pair.discard()
    successor = TransactionPair(cluster, name)
    await successor.start()  # it ends what was left open: a reader would wait for that
    await successor.discard()

    assert [] == await read_to_end(cluster, start)
