"""Reemission: the bytes and ids that were published first, in order, to where they were or elsewhere, on record."""

import asyncio
import json
import re
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError

from infra.kafka.clients import admin_client, partitions_of
from infra.kafka.sender import Sender
from infra.kafka.topic_ids import topic_ids
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import CREDIT_EVENTS, DEAD_LETTERS, SEND_REQUESTS, SEND_RESULTS
from tests.ledger.book import Book
from tests.workers.noted_operations import list_operations
from tests.workers.replaying import ME, Marks, fund_and_send, mark, seen, whole_history
from tests.workers.wire import eventually
from workers.console.operation_runner import OperationRunner
from workers.console.query_limiter import QueryLimiter
from workers.error_table import explain
from workers.ledger.model import WorkerName
from workers.ops.books.balance import UnknownAccountError
from workers.ops.operations import OngoingOperation, OperationStatus, RefusedError, read_operation
from workers.ops.replay import reemit_rows
from workers.ops.replay.reemit import reemit
from workers.ops.replay.reemit_plan import ReemitPlan, plan_reemit
from workers.ops.replay.reemit_rows import RowFilter, RowPosition

FAST = 50_000.0


THREE = datetime(2030, 1, 1, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


async def emit(
    settings: Settings, selection: RowFilter, to: str | None = None, rate: float = FAST
) -> tuple[ReemitPlan, OngoingOperation]:
    """Reemit; return what was planned and what came of it."""
    plan = await plan_reemit(settings, selection, to, rate)
    return plan, await reemit(settings, selection, plan, who=ME, stop=asyncio.Event())


async def made(settings: Settings, partitions: int = 4, **config: str) -> tuple[str, Marks]:
    """Return a new topic, and where it ends."""
    name = f"downstream-{uuid4().hex[:8]}"
    async with admin_client(settings) as admin:
        await _create(admin, name, partitions, config)
    return name, Marks(dict.fromkeys(partitions_of(name, partitions), 0))


async def _create(admin: AIOKafkaAdminClient, name: str, partitions: int, config: dict[str, str]) -> None:
    await admin.create_topics(
        [NewTopic(name, partitions, 1, topic_configs={k.replace("_", "."): v for k, v in config.items()})]
    )


def told(value: bytes | None) -> dict[str, Any]:
    """Return an event."""
    event: dict[str, Any] = json.loads(value or b"")
    return event


# -- the same bytes ---------------------------------------------------------------------------------------------------


async def test_everything_comes_again_byte_for_byte_but_repeats(
    cluster: Settings, database: Connection, account: str
) -> None:
    """Grants, sends, notices, a reversal, a conflict, an expiry, ticks' answers: what was read first, once more."""
    begin = await mark(cluster)
    await whole_history(cluster, Book(database), account)
    first = [seen(each) for each in await begin.read(cluster)]
    again = await mark(cluster)

    plan, done = await emit(cluster, RowFilter())
    second = [seen(each) for each in await again.read(cluster)]

    repeats = [each for each in first if told(each.value)["data"].get("repeat")]
    assert 1 == len(repeats)
    assert Counter(first) - Counter(repeats) == Counter(second)
    assert len(second) == plan.count == done.result["sent"]
    assert plan.events == {
        topic: sum(each.topic == topic for each in second) for topic in (SEND_RESULTS, CREDIT_EVENTS)
    }
    codes = {told(each.value)["data"]["code"] for each in second}
    assert {
        "granted",
        "charged",
        "insufficient_credits",
        "free",
        "reversed",
        "key_conflict",
        "expired",
        "booked",
    } <= codes
    assert {told(each.value)["id"] for each in second} == {told(each.value)["id"] for each in first}


@pytest.mark.whole
async def test_each_account_comes_in_the_order_of_its_sequence(
    cluster: Settings, database: Connection, account: str
) -> None:
    """Gap-free over both kinds of events in a new downstream's one topic, in the partition that its key chooses."""
    await whole_history(cluster, Book(database), account)
    await fund_and_send(cluster, f"{account}-2", 3)
    topic, everything = await made(cluster)

    await emit(cluster, RowFilter(), topic)

    sequences = defaultdict(list)
    places = defaultdict(set)
    for record in await everything.read(cluster):
        event = told(record.value)
        if "subject" in event:
            sequences[event["subject"]].append(event["data"]["sequence"])
            places[event["subject"]].add(record.partition)
    assert {account, f"{account}-2"} == sequences.keys()
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in sequences.values())
    assert {1} == {len(found) for found in places.values()}


@pytest.mark.whole
async def test_a_tick_answer_finds_a_place_in_a_topic_of_fewer_partitions(
    cluster: Settings, database: Connection, account: str
) -> None:
    """It has no key, and its own partition may not be there."""
    asked = await whole_history(cluster, Book(database), account)
    topic, everything = await made(cluster, partitions=1)

    await emit(cluster, RowFilter(request=asked), topic)

    codes = [told(each.value)["data"]["code"] for each in await everything.read(cluster)]
    assert sorted(["expired", *["booked"] * cluster.topic_partitions]) == sorted(codes)


async def test_a_selection_is_all_that_is_sent(cluster: Settings, database: Connection, account: str) -> None:
    """By account, request, time, and input offsets: each names the rows that the books say."""
    await fund_and_send(cluster, f"{account}-2", 1)
    between = await database.fetchval("select max(as_of) from journal") + timedelta(microseconds=1)
    requests = await fund_and_send(cluster, account, 3)
    row = await database.fetchrow("select * from journal where request_id = $1 and is_answer", requests[1].id)
    assert row is not None
    place = {"worker": WorkerName.SEND, "partition": row["source_partition"]}
    offset = row["source_offset"]

    counts = [
        (await plan_reemit(cluster, selection, None, FAST)).events
        for selection in (
            RowFilter(account=account),
            RowFilter(request=requests[1].id),
            RowFilter(after=between, before=datetime.now(UTC) + timedelta(days=1)),
            RowFilter(before=between),
            RowFilter(**place, start=offset, end=offset + 1),
            RowFilter(**place, start=offset + 2, end=offset + 9),
            RowFilter(worker=WorkerName.EXPIRY),
        )
    ]

    notices = await database.fetch("select account_id, not is_answer from journal join accounts using (account)")
    ours = sum(each[1] for each in notices if each[0] == account)
    caused = await database.fetchval("select count(*) from journal where request_id = $1", requests[1].id) - 1
    of_request = {SEND_RESULTS: 1} | ({CREDIT_EVENTS: caused} if caused else {})
    assert [{SEND_RESULTS: 3, CREDIT_EVENTS: 1 + ours}, of_request] == counts[:2]
    assert counts[0] == counts[2]
    assert 2 + sum(each[1] for each in notices if each[0] != account) == counts[3].total()
    assert [of_request, {}, {}] == counts[4:]


_MANY_ROWS = """
insert into journal (
    account, sequence, request_id, fingerprint, is_answer, worker, code, amount,
    balance_before, balance_after, as_of, source_partition, source_offset, recipient_id, relationship
)
select
    n % 500, 1 + n / 500, gen_random_uuid(), n, true, 'send', 'free', 0,
    1, 1, timestamptz '2030-01-01Z' + n * interval '1 second', n % 8, n / 8, 'zoe', 'connection'
from generate_series(1, 20000) as n
"""


_MANY_TICKS = """
insert into ticks (partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits, complete,
    steps)
select n % 8, gen_random_uuid(), 1, 'booked', n / 8, now(), now(), 0, 0, true, 1 from generate_series(1, 20000) as n
"""


async def test_a_request_or_a_time_is_found_without_reading_the_journal(database: Connection) -> None:
    """By its answer, since what it caused stands at the place of the same record; by the summary of the times."""
    await database.execute(_MANY_ROWS)
    await database.execute(_MANY_TICKS)
    await database.execute("vacuum analyze journal")
    await database.execute("vacuum analyze ticks")
    plans = []

    class _Explaining:
        async def fetch(self, sql: str, *values: Any, **_: Any) -> list[Any]:
            rows = await database.fetch(f"explain {sql}", *values)
            plans.append("\n".join(row[0] for row in rows))
            return []

    connection: Any = _Explaining()
    selections = (RowFilter(request=uuid4()), RowFilter(worker=WorkerName.SEND, after=THREE, before=THREE + MINUTE))
    for selection in selections:
        assert [] == [page async for page in reemit_rows.read_pages(connection, selection, RowPosition())]
    by_request, by_time = (plan for plan in plans if "journal" in plan)
    ticks_of_request = next(plan for plan in plans if "journal" not in plan)

    assert all(index in by_request for index in ("journal_outcomes", "journal_conflicts", "journal_source"))
    assert "journal_time" in by_time
    assert all("Seq Scan on journal" not in plan and "journal_pkey" not in plan for plan in (by_request, by_time))
    by_key = re.compile(r"ticks_pkey.*\n +Index Cond: .*request_id")  # and not the whole index
    assert all(by_key.search(plan) and "Seq Scan on ticks" not in plan for plan in (by_request, ticks_of_request))


async def test_a_page_of_rows_or_of_ticks_may_take_longer_than_a_statement_otherwise_may() -> None:
    """Of a table that has grown, a selection may match few rows of many."""
    limits = []

    class _Timed:
        async def fetch(self, _sql: str, *_: Any, **limit: Any) -> list[Any]:
            limits.append(limit.get("timeout"))
            return []

    connection: Any = _Timed()
    assert [] == [page async for page in reemit_rows.read_pages(connection, RowFilter(), RowPosition())]

    assert len(limits) == 2
    assert all(limit is not None and limit > 600 for limit in limits)


# -- stopped, killed, refused -----------------------------------------------------------------------------------------


async def test_the_console_sends_nothing_again_that_a_later_operation_has_sent(
    cluster: Settings, database: Connection, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its page may be old: the operation that it shows was gone on with by the command, which came to its end."""
    monkeypatch.setattr(reemit_rows, "_PAGE", 2)
    book, selection, stop = Book(database), RowFilter(account=account), asyncio.Event()
    await book.decide(book.promotion(5, account), *(book.send(account) for _ in range(4)))
    plan = await plan_reemit(cluster, selection, None, FAST)
    stopped = await reemit(cluster, selection, plan, who=ME, stop=stop, progress=lambda _: stop.set())
    old = await read_operation(cluster, stopped.number)
    rest, done = await emit(cluster, selection)
    after, runner = await mark(cluster), OperationRunner(cluster)

    with pytest.raises(RefusedError, match=f"operation {stopped.number} cannot go on from where it ended") as refused:
        await runner.resume(QueryLimiter(cluster).settings, old, ME)
    await runner.close()

    assert (stopped.number, plan.count) == (rest.resumes, stopped.result["sent"] + done.result["sent"])
    assert [] == await after.read(cluster)
    answer = explain(refused.value, lambda: cluster)
    assert answer is not None
    assert answer.status == 409


async def test_it_stops_between_two_events_and_goes_on_behind_them(
    cluster: Settings, database: Connection, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across pages, and from the journal to the ticks: nothing is left out and nothing comes twice."""
    monkeypatch.setattr(reemit_rows, "_PAGE", 3)
    await whole_history(cluster, Book(database), account)
    topic, everything = await made(cluster)
    whole = await plan_reemit(cluster, RowFilter(), topic, FAST)
    sent, counts = 0, []

    while sent < whole.count:
        stop, before = asyncio.Event(), sent
        plan = await plan_reemit(cluster, RowFilter(), topic, FAST)

        def enough(done: int, stop: asyncio.Event = stop) -> None:
            if done >= 5:
                stop.set()

        done = await reemit(cluster, RowFilter(), plan, who=ME, stop=stop, progress=enough)
        sent += done.result["sent"]
        counts.append((plan.count, plan.sent_before, done.stopped))
        assert sent > before

    ids = [told(each.value)["id"] for each in await everything.read(cluster)]
    assert whole.count == len(ids) == len(set(ids))
    assert all(whole.count == left + before for left, before, _ in counts)
    assert (True, True) == (len(counts) > 2, counts[0][2])
    assert OperationStatus.DONE == (await list_operations(cluster, 1))[0].status
    assert whole.count == (await plan_reemit(cluster, RowFilter(), topic, FAST)).count  # it is over: anew


async def _create_again(settings: Settings, topic: str) -> None:
    """Delete a topic, and create it again under its name."""
    async with admin_client(settings) as admin:
        before = (await topic_ids(admin, [topic]))[topic]
        await admin.delete_topics([topic])

        async def again() -> bool:
            with suppress(KafkaError):
                await _create(admin, topic, 4, {})
                return (await topic_ids(admin, [topic])).get(topic, before) != before
            return False

        await eventually(again, "a topic that was created again")


async def test_a_topic_that_was_created_again_gets_everything(cluster: Settings, account: str) -> None:
    """Nothing of what was sent before the stop is in it."""
    await fund_and_send(cluster, account, 4)
    (topic, _), stop = await made(cluster), asyncio.Event()
    selection = RowFilter(account=account)
    whole = await plan_reemit(cluster, selection, topic, 1)
    stopped = await reemit(cluster, selection, whole, who=ME, stop=stop, progress=lambda _: stop.set())
    goes_on = await plan_reemit(cluster, selection, topic, 1)
    await _create_again(cluster, topic)

    plan, _ = await emit(cluster, selection, topic)

    assert (stopped.number, stopped.result["sent"]) == (goes_on.resumes, goes_on.sent_before)
    assert (None, 0, whole.count) == (plan.resumes, plan.sent_before, plan.count)


@pytest.mark.whole
async def test_one_that_fails_goes_on_from_what_the_brokers_have(
    cluster: Settings, database: Connection, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent and not noted comes twice at most, with the id it had."""
    await fund_and_send(cluster, account, 4)
    topic, everything = await made(cluster)
    settle, calls = Sender.settle, 0

    async def dies(self: Sender) -> None:
        nonlocal calls
        await settle(self)
        calls += 1
        if calls == 3:
            raise KafkaConnectionError("planted")

    with monkeypatch.context() as broken:
        broken.setattr(Sender, "settle", dies)
        broken.setattr("workers.ops.replay.server_runs._CHUNK", 1)
        with pytest.raises(KafkaConnectionError):
            await emit(cluster, RowFilter(account=account), topic)
    plan, _ = await emit(cluster, RowFilter(account=account), topic)

    rows = await database.fetchval("select count(*) from journal")
    ids = [told(each.value)["id"] for each in await everything.read(cluster)]
    assert (rows, rows + 1) == (len(set(ids)), len(ids))
    assert rows - 2 == plan.count
    assert [OperationStatus.DONE, OperationStatus.FAILED] == [each.status for each in await list_operations(cluster, 2)]


@pytest.mark.whole
async def test_an_event_that_the_broker_refuses_is_named_and_costs_no_other(cluster: Settings, account: str) -> None:
    """The new downstream's topic takes small records only: a balance between."""
    await fund_and_send(cluster, account, 3)
    topic, everything = await made(cluster, max_message_bytes="700")

    plan, done = await emit(cluster, RowFilter(account=account), topic)

    arrived = len(await everything.read(cluster))
    assert plan.count == arrived + done.result["refused"]
    assert min(arrived, done.result["refused"]) > 0
    assert {account} == {each["account"] for each in done.result["first_refused"]}


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (SEND_REQUESTS, "its workers read it"),
        (SEND_RESULTS, "one kind of event"),
        (DEAD_LETTERS, "a topic of this system"),
        ("__consumer_offsets", "an internal topic of Kafka"),
        ("nowhere", r"there is no topic nowhere: create it first, with as many partitions as .*\(4\)"),
    ],
)
async def test_a_topic_that_must_not_be_sent_to_is_refused(cluster: Settings, to: str, words: str) -> None:
    """Inputs would be decided, results mixed up; a topic that is not there is not made by accident."""
    with pytest.raises(RefusedError, match=words):
        await plan_reemit(cluster, RowFilter(), to, FAST)

    async with admin_client(cluster) as admin:
        assert "nowhere" not in await admin.list_topics()


async def test_what_the_books_do_not_know_is_refused(cluster: Settings, account: str) -> None:
    """An empty answer would read as: there was nothing."""
    with pytest.raises(UnknownAccountError, match=account):
        await plan_reemit(cluster, RowFilter(account=account), None, FAST)
    with pytest.raises(RefusedError, match="no matching row of request"):
        await plan_reemit(cluster, RowFilter(request=uuid4()), None, FAST)
