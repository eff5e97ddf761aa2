"""Where an account is worked: with its own number, whoever sent its records and whatever partition they came in on."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka import TopicPartition

from infra.kafka.clients import create_producer, reader
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import Event, encode
from tests.ledger.book import DAY, Book
from tests.workers.lane.test_lane_ticks import _tick
from tests.workers.life import in_partition
from tests.workers.wire import ends, eventually, promotion, publish, read, send, working
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.partitioning_check import OTHERS, SOURCES
from workers.jobs.send import SendJob
from workers.lane import lane
from workers.ledger.plans import load_catalogue
from workers.ops.books.metrics_exporter import read_servers_once
from workers.ops.lag import observer
from workers.ops.topics.plan import apply_topics, plan_topics

OTHER, OWN = 0, 1  # where records come in, and their account's number


async def _send_to(settings: Settings, topic: str, partition: int, event: Event) -> datetime:
    """Publish an event as a producer does that partitions in a way of its own; return its time by the broker."""
    key = (event.subject or "").encode() or None
    async with create_producer(settings, "test") as producer:
        sent = await producer.send_and_wait(topic, encode(event), key, partition=partition)
    return datetime.fromtimestamp(sent.timestamp / 1000, UTC)


async def _read_to_end(settings: Settings, database: Connection, *places: TopicPartition) -> None:
    end = {place: (await ends(settings, place.topic))[place] for place in places}

    async def there() -> bool:
        rows = await database.fetch("select topic, partition, next_offset from lanes")
        at = {TopicPartition(row["topic"], row["partition"]): row["next_offset"] for row in rows}
        return all(at[place] >= offset for place, offset in end.items())

    await eventually(there, f"lanes at the ends of {places}")


async def _number(database: Connection, account: str) -> tuple[Any, ...]:
    row = await database.fetchrow(
        "select a.partition, l.partition from accounts as a join lots as l using (account) where a.account_id = $1",
        account,
    )
    return tuple(row or ())


async def test_an_account_has_its_own_number_wherever_its_first_record_came_in(
    cluster: Settings, database: Connection
) -> None:
    """A grant on another partition is decided, and what it opened is where the account's other records go."""
    account = in_partition(cluster, OWN)
    await _send_to(cluster, BILLING_EVENTS, OTHER, promotion(account, 1))

    async with working(cluster, BillingJob(load_catalogue())):
        await _read_to_end(cluster, database, TopicPartition(BILLING_EVENTS, OTHER))

    assert (OWN, OWN) == await _number(database, account)


async def test_no_tick_of_another_number_books_a_lot_before_a_send_that_could_spend_it(
    cluster: Settings, database: Connection
) -> None:
    """The account's first record was misplaced. A later send waits, unread, where it belongs, as the lot ends."""
    account = in_partition(cluster, OWN)
    request, start = send(account), await ends(cluster, SEND_RESULTS)
    end = await _send_to(cluster, SEND_REQUESTS, OWN, request) + timedelta(milliseconds=1)
    book = Book(database)  # which decides all as if it had come in on partition 0
    book.now = end - 90 * DAY
    await book.decide(book.promotion(1, account))
    await eventually(lambda: _is_over(end), "the lot's end")
    for partition in (OTHER, OWN):
        await _send_to(cluster, EXPIRY_TICKS, partition, _tick())

    async with working(cluster, ExpiryJob(load_catalogue(), cluster)):
        await _read_to_end(cluster, database, *(TopicPartition(EXPIRY_TICKS, number) for number in (OTHER, OWN)))
    async with working(cluster, SendJob(load_catalogue())):
        (answer,) = await read(cluster, start, 1)

    assert (str(request.id), "charged") == (answer["request_id"], answer["code"])


async def _is_over(end: datetime) -> bool:
    return datetime.now(UTC) > end


async def test_a_misplaced_send_waits_for_the_lanes_of_its_accounts_own_number(
    cluster: Settings, database: Connection
) -> None:
    """Its account's grant came before it, and is still unread there: it is not refused for want of that credit."""
    settings = cluster.model_copy(update={"order_seconds": 20})
    account = in_partition(settings, OWN)
    start = await ends(settings, SEND_RESULTS)
    await database.execute("update lanes set awaited = true where topic = $1", BILLING_EVENTS)  # about to read
    await publish(settings, BILLING_EVENTS, [promotion(account, 1)])
    await _send_to(settings, SEND_REQUESTS, OTHER, send(account))

    async def is_met() -> bool:
        """Tell whether the send waits, or has been decided."""
        return await database.fetchval(
            "select exists (select from journal) or exists (select from lanes where head > $1)", began
        )

    began = datetime.now(UTC) - timedelta(seconds=60)
    async with working(settings, SendJob(load_catalogue())):
        await eventually(is_met, "a send that waits")
        async with working(settings, BillingJob(load_catalogue())):
            (answer,) = await read(settings, start, 1)

    assert "charged" == answer["code"]
    assert 0 == await database.fetchval("select count(*) from decided_ahead")


async def test_misplaced_records_of_two_lanes_do_not_wait_for_each_other(
    cluster: Settings, database: Connection
) -> None:
    """Each lane holds records of accounts with the other's number: the older one comes first, and so on in turn."""
    settings = cluster.model_copy(update={"order_seconds": 60, "batch_records": 2})
    requests = []
    start = await ends(settings, SEND_RESULTS)
    await database.execute("update lanes set awaited = true where topic = $1", SEND_REQUESTS)
    for number in range(20):
        requests.append(send(in_partition(settings, number % 2)))
        await _send_to(settings, SEND_REQUESTS, (number + 1) % 2, requests[-1])

    async with working(settings, SendJob(load_catalogue())):
        answers = await read(settings, start, len(requests))  # for half as long as one would wait for another

    assert {str(request.id) for request in requests} == {answer["request_id"] for answer in answers}
    assert 0 == await database.fetchval("select count(*) from decided_ahead")


# -- by how many partitions -------------------------------------------------------------------------------------------


async def test_new_books_number_accounts_by_the_partitions_of_their_topic(
    cluster: Settings, database: Connection
) -> None:
    """Whatever a setting says: the first lane that opens looks at the topic itself."""
    await database.execute("delete from partitioning")
    account = in_partition(cluster, OWN)
    await publish(cluster, BILLING_EVENTS, [promotion(account, 1)])

    async with working(cluster.model_copy(update={"topic_partitions": 9}), BillingJob(load_catalogue())):
        await _read_to_end(cluster, database, TopicPartition(BILLING_EVENTS, OWN))

    assert cluster.topic_partitions == await database.fetchval("select partitions from partitioning")
    assert (OWN, OWN) == await _number(database, account)


@pytest.mark.parametrize(("counted", "words"), [(3, "by 3 partitions"), (None, "by no partitions yet")])
async def test_a_lane_holds_where_the_books_number_accounts_otherwise_until_they_are_numbered_anew(
    cluster: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch, counted: int | None, words: str
) -> None:
    """Partitions were added, say. The lane halts and says what to do; `topics apply` does it, and the lane goes on."""
    monkeypatch.setattr(lane, "_HALTED_SECONDS", 0.2)
    account = in_partition(cluster, OWN)
    await Book(database).decide(Book(database).promotion(1, account))
    await database.execute("update accounts set partition = 7")
    await database.execute("update lots set partition = 7")
    await database.execute("delete from partitioning")
    if counted is not None:
        await database.execute("insert into partitioning (partitions) values ($1)", counted)

    async def halted() -> bool:
        said = await database.fetchval(
            "select halted from lanes where topic = $1 and partition = $2", SEND_REQUESTS, OWN
        )
        return f"has 4 partitions, and the books number their accounts {words}" in (said or "")

    async with working(cluster, SendJob(load_catalogue())):
        await eventually(halted, "the lane is halted")
        changes = await plan_topics(cluster)
        assert [("number", "accounts")] == [(change.kind, change.topic) for change in changes]
        await apply_topics(cluster, changes)
        assert [] == await plan_topics(cluster)
        assert (OWN, OWN) == await _number(database, account)
        request, start = send(account), await ends(cluster, SEND_RESULTS)
        await publish(cluster, SEND_REQUESTS, [request])
        (answer,) = await read(cluster, start, 1)
    assert str(request.id) == answer["request_id"]


# -- who sends misplaced records --------------------------------------------------------------------------------------


async def test_who_sends_misplaced_records_is_kept_and_shown(cluster: Settings, database: Connection) -> None:
    """By the source of the event: each record once, however often it is read; in lag and among the metrics."""
    account, first = (
        in_partition(cluster, OWN),
        (await ends(cluster, SEND_REQUESTS))[TopicPartition(SEND_REQUESTS, OTHER)],
    )
    for source in ("/crm", "/web", "/crm"):
        await _send_to(cluster, SEND_REQUESTS, OTHER, send(account).model_copy(update={"source": source}))
    await publish(cluster, SEND_REQUESTS, [send(account)])
    places = [TopicPartition(SEND_REQUESTS, number) for number in (OTHER, OWN)]
    for _ in range(2):
        async with working(cluster, SendJob(load_catalogue())):
            await _read_to_end(cluster, database, *places)
        await database.execute("update lanes set published = $3 where topic = $1 and partition = $2", *places[0], first)
        async with reader(cluster, SendJob.group) as consumer:
            consumer.assign(places[:1])
            await consumer.commit({places[0]: first})

    rows = await database.fetch("select topic, partition, source, records from misplaced_records order by source")
    assert [(*places[0], "/crm", 2), (*places[0], "/web", 1)] == [tuple(row) for row in rows]
    async with observer(cluster, [SendJob.group], remembers=False) as found:
        await found.refresh()
        notes = [each.note for each in found.groups[0].partitions]
    words = "3 records of other partitions' accounts came from /crm, /web"
    assert [words] == [note for note in notes if note]
    page = (await read_servers_once(cluster))[0].decode()
    assert 'inmail_misplaced_records_total{source="/crm",topic="inmail.send-requests"} 2.0' in page


async def test_of_many_sources_some_are_kept_by_name(cluster: Settings, database: Connection) -> None:
    """A source is a producer's word: one that writes another each time fills neither the books nor a metric."""
    account = in_partition(cluster, OWN)
    book = Book(database)
    async with database.transaction():
        for number in range(3):
            events = [send(account).model_copy(update={"source": f"/{number}/{n}"}) for n in range(SOURCES)]
            await book.decide(*events)

    rows = await database.fetch("select source, records from misplaced_records order by source <> $1, source", OTHERS)
    assert SOURCES + 1 == len(rows)
    assert (OTHERS, 2 * SOURCES) == tuple(rows[0])
