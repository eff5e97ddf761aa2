"""Following one request from its record to its published answer, on real Kafka and Postgres."""

import json
from datetime import UTC, datetime
from itertools import count
from uuid import UUID, uuid4

import pytest
from aiokafka.admin import RecordsToDelete

from infra.kafka.clients import admin_client, create_producer, partition_of
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, CREDIT_EVENTS, DEAD_LETTERS, EXPIRY_TICKS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import Event, encode
from schemas.ticks import ExpiryTick, ExpiryTickData
from tests.workers.letters import platinum, records_of, set_aside
from tests.workers.wire import ends as ends_of
from tests.workers.wire import promotion, publish, read, send, settled, working
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.original_ids import UnknownRequestError
from workers.ops.trace.trace import Question, TraceReport
from workers.ops.trace.trace import trace as trace_


async def _trace(
    settings: Settings, id_: UUID | None = None, account: str | None = None, **options: int
) -> TraceReport:
    return await trace_(settings, Question(id_, account, **options))


async def _decide(settings: Settings, account: str, credits_: int, *sends: Event) -> Event:
    """Give an account credits and then have its requests decided; return what gave them."""
    grant = promotion(account, credits_)
    catalogue = load_catalogue()
    starts = {topic: await ends_of(settings, topic) for topic in (CREDIT_EVENTS, SEND_RESULTS)}
    async with working(settings, SendJob(catalogue), BillingJob(catalogue)):
        await publish(settings, BILLING_EVENTS, [grant])
        await read(settings, starts[CREDIT_EVENTS], 1)
        if sends:
            await publish(settings, SEND_REQUESTS, sends)
            await read(settings, starts[SEND_RESULTS], len(sends))
    await settled(settings)
    return grant


async def _delete(settings: Settings, *topics: str) -> None:
    """Let retention take all that is in some topics."""
    async with admin_client(settings) as admin:
        for topic in topics:
            end = await ends_of(settings, topic)
            await admin.delete_records({tp: RecordsToDelete(before_offset=offset) for tp, offset in end.items()})


async def test_a_request_is_followed_from_its_record_to_its_answer(cluster: Settings, account: str) -> None:
    """Offset, broker time, decision, row, lot, event, result, and both where it came again."""
    request = send(account)
    await _decide(cluster, account, 10, request, request)

    (found,) = (await _trace(cluster, request.id)).traces

    first, again = await records_of(cluster, SEND_REQUESTS, account)
    answer, repeated = await records_of(cluster, SEND_RESULTS, account)
    assert found.record is not None
    assert (first.partition, first.offset) == (found.record.partition, found.record.offset)
    assert first.timestamp == round(found.record.at.timestamp() * 1000)
    assert [again.offset] == [seen.offset for seen in found.repeats]
    (published,) = found.published
    assert json.loads(answer.value)["id"] == str(published.event.id)
    assert [(answer.offset, False), (repeated.offset, True)] == [(seen.offset, seen.repeat) for seen in published.found]
    ((owner, row),) = found.case.rows
    assert (account, "charged", 2, 1, 10, 9) == (
        owner, row.code, row.sequence, row.lot, row.balance_before, row.balance_after
    )  # fmt: skip
    assert [(1, 9)] == [(lot.lot, lot.remaining) for lot in found.case.lots]


async def test_an_event_id_finds_the_request_in_the_topics_and_in_the_books(cluster: Settings, account: str) -> None:
    """In the topics whoever's it is; in the books, of a given account, also when retention took it."""
    request = send(account)
    await _decide(cluster, account, 10, request)
    event = json.loads((await records_of(cluster, SEND_RESULTS, account))[0].value)["id"]
    id_ = UUID(event)

    by_topic = await _trace(cluster, id_)
    await _delete(cluster, SEND_RESULTS)
    by_books = await _trace(cluster, id_, account)

    assert [request.id] == [each.case.request_id for each in by_topic.traces]
    assert [request.id] == [each.case.request_id for each in by_books.traces]
    with pytest.raises(UnknownRequestError):
        await _trace(cluster, id_)


async def test_what_retention_took_is_told_from_the_books(cluster: Settings, account: str) -> None:
    """The record and the result are gone, and it says so; decision, row, lot and event id are there."""
    request = send(account)
    await _decide(cluster, account, 10, request)
    await _delete(cluster, SEND_REQUESTS, SEND_RESULTS)

    (found,) = (await _trace(cluster, request.id)).traces

    assert (None, "gone", ["gone"]) == (found.record, found.state, [each.state for each in found.published])
    assert ["charged"] == [row.code for _, row in found.case.rows]


async def test_a_result_that_is_not_there_is_not_said_to_be_taken(
    cluster: Settings, account: str, database: Connection
) -> None:
    """The topic has all that it had from then on: so it was never published, or stands behind the limit."""
    sends = [send(account) for _ in range(3)]
    await _decide(cluster, account, 10, send(account))
    await _decide(cluster, account, 10, *sends)
    unpublished = uuid4()
    await database.execute("create temp table copy as select * from journal where request_id = $1", sends[2].id)
    await database.execute(
        "update copy set request_id = $1, sequence = 7, source_offset = source_offset + 1000", unpublished
    )
    await database.execute("insert into journal select * from copy")

    far = await _trace(cluster, sends[2].id, limit=1)
    first = await _trace(cluster, sends[0].id, limit=1)
    (never,) = (await _trace(cluster, unpublished)).traces

    assert ["beyond"] == [each.state for each in far.traces[0].published]
    assert [True, False] == [each.traces[0].searched for each in (far, first)]  # for repeats: two sends are behind
    assert ("other", ["absent"]) == (never.state, [each.state for each in never.published])


async def test_an_account_is_followed_newest_first(cluster: Settings, account: str) -> None:
    """Its last requests, as many as asked for, each with its own record and answer; also one that was refused."""
    requests = [send(account), send(account), send(account)]
    grant = await _decide(cluster, account, 2, *requests)

    last = await _trace(cluster, account=account, last=2)
    all_ = await _trace(cluster, account=account)

    assert [requests[2].id, requests[1].id] == [each.case.request_id for each in last.traces]
    assert [requests[2].id, requests[1].id, requests[0].id, grant.id] == [each.case.request_id for each in all_.traces]
    assert ["insufficient_credits"] == [row.code for _, row in all_.traces[0].case.rows]
    assert {"there"} == {each.state for each in all_.traces}
    assert {"found"} == {published.state for each in all_.traces for published in each.published}


async def test_an_id_that_was_used_for_two_things_is_followed_for_both(cluster: Settings, account: str) -> None:
    """The first answer and the conflict, each with its record and its event."""
    request = send(account)
    other = send(account, request.id, recipient_id="yan")
    await _decide(cluster, account, 10, request, other)

    first, second = (await _trace(cluster, request.id)).traces

    assert (["charged"], ["key_conflict"]) == (
        [r.code for _, r in first.case.rows],
        [r.code for _, r in second.case.rows],
    )
    assert first.record is not None and second.record is not None  # noqa: PT018
    assert second.record.offset == first.record.offset + 1
    assert ((), ()) == (first.repeats, second.repeats)
    assert first.published[0].event.id != second.published[0].event.id


async def test_a_tick_is_followed_in_every_partition(cluster: Settings) -> None:
    """It has an answer in each, and no account."""
    now = datetime.now(UTC)
    tick = ExpiryTick.create(id=uuid4(), source="/test", time=now, data=ExpiryTickData(as_of=now))
    start = await ends_of(cluster, CREDIT_EVENTS)
    async with create_producer(cluster, "test") as producer:
        for partition in range(cluster.topic_partitions):
            await producer.send_and_wait(EXPIRY_TICKS, encode(tick), partition=partition)
    async with (
        working(cluster, ExpiryJob(load_catalogue(), cluster)),
    ):
        await read(cluster, start, cluster.topic_partitions)
    await settled(cluster)

    found = (await _trace(cluster, tick.id)).traces

    assert list(range(cluster.topic_partitions)) == [each.case.partition for each in found]
    assert {("there", ("found",))} == {(each.state, tuple(p.state for p in each.published)) for each in found}


async def test_a_dead_letter_is_told_with_what_became_of_it(mended: Settings, account: str) -> None:
    """By the id that its message says, and by its own; nobody else's comes along."""
    event = platinum(account)
    await set_aside(mended, BILLING_EVENTS, account, [encode(event), encode(platinum(account))], "unknown_plan")
    own = json.loads((await records_of(mended, DEAD_LETTERS, account))[0].value)["id"]

    by_request = await _trace(mended, event.id)
    by_letter = await _trace(mended, UUID(own))
    by_account = await _trace(mended, account=account)

    assert [str(own)] == [str(letter.id) for letter, _ in by_request.letters]
    assert [str(own)] == [str(letter.id) for letter, _ in by_letter.letters]
    assert 2 == len(by_account.letters)  # the books have no such account yet
    assert [[], [], []] == [each.traces for each in (by_request, by_letter, by_account)]


_REDRIVEN = """
with o as (
    insert into operations (verb, actor, reason, arguments, plan, started_at, noted_at, ended_at, status, result)
    values ('redrive', 'ops-1', 'a test', '{}', '{}', now(), now(), now(), 'done', '{}') returning operation
)
insert into redriven (letter_partition, letter_offset, letter, operation, topic, partition, intended_at)
select 0, 1000000 + n, gen_random_uuid(), o.operation, 'inmail.billing-events', 0, now()
from o, generate_series(1, 5000) as n
"""


async def _redrives_read(database: Connection) -> int:
    """Return how many rows of redrives were read so far, by sessions that have ended."""
    await database.execute("select pg_stat_clear_snapshot()")
    return int(
        await database.fetchval(
            "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = 'redriven'"
        )
    )


async def test_a_trace_reads_the_redrives_of_the_letters_that_it_found(
    mended: Settings, account: str, database: Connection
) -> None:
    """Of those that were ever sent back, which are kept for good; and none where it found no letter."""
    event = platinum(account)
    await set_aside(mended, BILLING_EVENTS, account, [encode(event)], "unknown_plan")
    await database.execute(_REDRIVEN)
    await database.execute("vacuum analyze redriven")
    await database.execute("select pg_stat_force_next_flush()")
    before = await _redrives_read(database)

    found = await _trace(mended, event.id)
    with pytest.raises(UnknownRequestError):
        await _trace(mended, uuid4())

    assert 1 == len(found.letters)
    assert await _redrives_read(database) - before < 50


async def test_a_dead_letter_with_another_key_is_found_by_the_account_that_it_names(
    mended: Settings, account: str
) -> None:
    """A wrong key is a reason to be dead-lettered, and its owner is the one who asks."""
    await set_aside(mended, BILLING_EVENTS, f"{account}-key", [encode(platinum(account))], "key_is_not_subject")

    of_subject = await _trace(mended, account=account)
    of_key = await _trace(mended, account=f"{account}-key")

    assert [1, 1] == [len(each.letters) for each in (of_subject, of_key)]


async def test_a_request_that_no_worker_has_come_to_is_found_waiting(cluster: Settings, account: str) -> None:
    """It is in the topic, and nothing more is known: asked for by its id, or by its account beside what is decided."""
    lane = partition_of(account.encode(), cluster.topic_partitions)
    names = (f"{account}-{number}" for number in count())
    beside = next(name for name in names if partition_of(name.encode(), cluster.topic_partitions) == lane)
    request = send(account)
    await publish(cluster, SEND_REQUESTS, [request, send(beside), send(account)])

    found = await _trace(cluster, request.id)
    of_account = await _trace(cluster, account=account)
    newest = await _trace(cluster, account=account, last=1)

    first, second = [(each.partition, each.offset) for each in await records_of(cluster, SEND_REQUESTS, account)]
    told = [[(seen.partition, seen.offset) for seen in each.waiting] for each in (found, of_account, newest)]
    assert [[first], [first, second], [second]] == told
    assert [([], [])] * 3 == [(each.traces, each.letters) for each in (found, of_account, newest)]
    await _decide(cluster, account, 1)
    decided = await _trace(cluster, account=account)
    assert ([], 3) == (decided.waiting, len(decided.traces))


async def test_what_nobody_knows_is_said_to_be_unknown(cluster: Settings, account: str) -> None:
    """A request, and an account."""
    with pytest.raises(UnknownRequestError, match="is unknown: neither a decided or waiting request"):
        await _trace(cluster, uuid4())
    with pytest.raises(UnknownAccountError):
        await _trace(cluster, account=account)
    with pytest.raises(UnknownAccountError):
        await _trace(cluster, uuid4(), account)


async def test_the_books_are_told_while_kafka_is_away(cluster: Settings, account: str) -> None:
    """And that the topics could not be asked."""
    request = send(account)
    await _decide(cluster, account, 10, request)
    away = cluster.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})

    found = await _trace(away, request.id)

    assert ["charged"] == [row.code for each in found.traces for _, row in each.case.rows]
    assert found.silent is not None
