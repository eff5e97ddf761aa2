"""Sending dead letters back: as they were, on record, through the same guard, and never decided twice."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from infra.kafka.clients import create_producer, partition_of
from infra.kafka.records import read_records
from infra.postgres import POSTGRES_ERRORS, WORKER_ROLE, Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, CREDIT_EVENTS, DEAD_LETTERS, EXPIRY_TICKS, SEND_REQUESTS
from schemas.dead_letters import DeadLettered, DeadLetterReason
from schemas.envelope import Event, encode
from schemas.ticks import ExpiryTick
from tests.ledger.book import pick
from tests.whole import whole
from tests.workers.letters import platinum, records_of, set_aside
from tests.workers.noted_operations import list_operations
from tests.workers.wire import ends, eventually, in_binary_mode, publish, read, send, settled, working
from workers.jobs.billing import BillingJob
from workers.jobs.dead_letters import LETTER_HEADER
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue
from workers.ops.dead_letters import redrive_plan
from workers.ops.dead_letters.letters import DeadLetter, LetterFilter
from workers.ops.dead_letters.pages import list_dead_letters
from workers.ops.dead_letters.redrive import OPERATION_HEADER, _RedriveSender, redrive
from workers.ops.dead_letters.redrive_plan import RedriveOptions, RedrivePlanner, plan_redrive
from workers.ops.dead_letters.report import DeadLetterReport, count_dead_letters, report_dead_letters
from workers.ops.lag import read_lag
from workers.ops.operations import (
    Intent,
    OngoingOperation,
    OperationStatus,
    Operator,
    RefusedError,
    read_operation,
    recorded_operation,
)
from workers.ops.trace.trace import Question, trace

ME = Operator("ops-1", "the catalogue was mended")
FAST = RedriveOptions(rate=5000)


async def work_off(settings: Settings) -> None:
    """Decide everything that is there."""
    catalogue = load_catalogue(settings.plans_file)
    async with working(settings, SendJob(catalogue), BillingJob(catalogue)):

        async def is_read() -> bool:
            behind = [each for each in await read_lag(settings) if each.group in (SendJob.group, BillingJob.group)]
            return not any(each.records for each in behind)

        await eventually(is_read, "all is read")
    await settled(settings)


async def back(settings: Settings, account: str, options: RedriveOptions = FAST, **selection: Any) -> OngoingOperation:
    """Send an account's letters back."""
    chosen = LetterFilter(account=account, **selection)
    plan = await plan_redrive(settings, chosen, options)
    return await redrive(settings, chosen, options, plan, who=ME, stop=asyncio.Event())


async def told(settings: Settings, account: str) -> DeadLetterReport:
    """Return an account's letters and what became of them."""
    return await report_dead_letters(settings, LetterFilter(account=account))


# -- the guard --------------------------------------------------------------------------------------------------------


async def test_a_letter_that_is_redriven_twice_moves_credits_once(
    mended: Settings, cluster: Settings, account: str, database: Connection
) -> None:
    """Its plan was unknown, the catalogue was mended. The second time gets the first answer, marked as a repeat."""
    start = await ends(cluster, CREDIT_EVENTS)
    event = platinum(account)
    await publish(cluster, BILLING_EVENTS, [event])
    await work_off(cluster)

    first = await back(mended, account)
    await work_off(mended)
    second = await back(mended, account, RedriveOptions(rate=5000, again=True))
    await work_off(mended)

    answers = [each for each in await read(cluster, start, 2) if each["account"] == account]
    assert [(str(event.id), "granted", 7, False), (str(event.id), "granted", 7, True)] == [
        pick(answer, "request_id", "code", "credits", "repeat") for answer in answers
    ]
    assert 1 == len({answer["id"] for answer in answers})
    assert (1, 1) == (first.result["sent"], second.result["sent"])
    assert 7 == await database.fetchval("select sum(amount) from journal")


async def test_a_message_of_binary_mode_is_sent_back_with_its_headers_and_decided(
    mended: Settings, cluster: Settings, account: str
) -> None:
    """Half of such an event is in its headers: without them, the same bytes are no event."""
    start = await ends(cluster, CREDIT_EVENTS)
    event = platinum(account)
    value, headers = in_binary_mode(event)
    headers = [
        *headers,
        ("traceparent", b"00-ab"),
        ("odd", b"\xff\x00"),
        ("ce_ext", b"x"),
        ("twice", b"1"),
        ("twice", b""),
    ]
    async with create_producer(cluster, "test") as producer:
        await producer.send_and_wait(BILLING_EVENTS, value, account.encode(), headers=headers)
    await work_off(cluster)
    (letter,) = (await told(cluster, account)).letters

    await back(mended, account)
    await work_off(mended)

    first, again = await records_of(cluster, BILLING_EVENTS, account)
    (answer,) = await read(cluster, start, 1)
    assert ("unknown_plan", event.type_name()) == (letter[0].reason, letter[0].event_type)
    assert (first.value, [*first.headers]) == (again.value, [*again.headers[: len(headers)]])
    assert {OPERATION_HEADER, LETTER_HEADER} == dict(again.headers[len(headers) :]).keys()
    assert (str(event.id), "granted", 7) == pick(answer, "request_id", "code", "credits")


async def test_a_letter_whose_operation_broke_off_as_it_was_sent_is_sent_again_and_decided_once(
    mended: Settings, cluster: Settings, account: str, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent and not written down: nobody knows, so it is in doubt, and the guard answers the second one as a repeat."""
    start = await ends(cluster, CREDIT_EVENTS)
    await publish(cluster, BILLING_EVENTS, [platinum(account)])
    await work_off(cluster)

    async def dies(*_: object) -> None:
        raise KafkaConnectionError("planted")

    with monkeypatch.context() as broken:
        broken.setattr(_RedriveSender, "after_chunk", dies)
        with pytest.raises(KafkaConnectionError):
            await back(mended, account)
    (letter,) = (await told(mended, account)).summary()
    plan = await plan_redrive(mended, LetterFilter(account=account), FAST)
    await back(mended, account)
    await work_off(mended)

    answers = await read(cluster, start, 2)
    assert [("granted", False), ("granted", True)] == [pick(answer, "code", "repeat") for answer in answers]
    assert (1, 1) == (plan.count, plan.in_doubt)
    assert [None] == [sending["offset"] for sending in letter["became"]["redriven"]]
    assert 7 == await database.fetchval("select sum(amount) from journal")
    assert [OperationStatus.DONE, OperationStatus.FAILED] == [each.status for each in await list_operations(mended, 2)]


async def test_a_letter_that_is_still_refused_is_another_letter_and_both_tell_of_it(
    mended: Settings, cluster: Settings, account: str
) -> None:
    """The operator's catalogue was mended and the workers' was not: the message comes back, and is found."""
    await publish(cluster, BILLING_EVENTS, [platinum(account)])
    await work_off(cluster)

    await back(mended, account)
    await work_off(cluster)

    newest, oldest = (await told(mended, account)).letters
    assert newest[0].place == oldest[1].new_letter  # type: ignore[union-attr]
    assert (OPERATION_HEADER, LETTER_HEADER) == tuple(name for name, _ in newest[0].headers)
    assert oldest[0].value == newest[0].value
    assert 1 == (await plan_redrive(mended, LetterFilter(account=account), FAST)).count  # the newest alone


async def test_a_tick_goes_back_to_its_partition_and_is_answered_there(cluster: Settings, account: str) -> None:
    """It has no key and no account: its partition is all that it is about, and the others are not asked again."""
    now = datetime.now(UTC)
    tick = ExpiryTick.create(id=uuid4(), source=f"/{account}", time=now, data={"as_of": now})
    await set_aside(cluster, EXPIRY_TICKS, account, [encode(tick)], "unknown_version")
    ours = {"event_type": "inmail.expiry.tick.v1", "topic": EXPIRY_TICKS}
    (letter,) = (await told(cluster, account)).letters[0][:1]
    start = await ends(cluster, CREDIT_EVENTS)

    async with (
        working(cluster, ExpiryJob(load_catalogue(), cluster)),
    ):
        done = await back(cluster, account, **ours)
        (answer,) = await read(cluster, start, 1)
    fate = (await told(cluster, account)).letters[0][1]
    plan = await plan_redrive(cluster, LetterFilter(account=account), RedriveOptions(again=False))

    assert 1 == done.result["sent"]
    assert (str(tick.id), "booked", letter.partition) == (
        answer["request_id"],
        answer["code"],
        answer["source"]["partition"],
    )
    assert fate is not None
    assert ("booked", None) == (fate.answer.code, fate.answer.sequence)  # type: ignore[union-attr]
    assert {"redriven_before": 1} == plan.refused


# -- what is sent -----------------------------------------------------------------------------------------------------


async def test_a_message_goes_back_as_it_was_to_where_it_was(mended: Settings, cluster: Settings, account: str) -> None:
    """Bytes, key and headers, and the partition that it came from, which its key would not choose."""
    event = platinum(account)
    other = (partition_of(account.encode(), cluster.topic_partitions) + 1) % cluster.topic_partitions
    headers = [("trace", b"1"), ("trace", b"2"), ("none", None)]
    async with create_producer(cluster, "test") as producer:
        await producer.send_and_wait(BILLING_EVENTS, encode(event), account.encode(), partition=other, headers=headers)
    await work_off(cluster)

    done = await back(mended, account)

    (letter, fate) = (await told(mended, account)).letters[0]
    sending = fate.redrives[0]  # type: ignore[union-attr]
    async with aclosing(read_records(cluster, [TopicPartition(BILLING_EVENTS, other)])) as records:
        (record,) = [each async for each in records if each.offset == sending.offset]
    assert (account.encode(), encode(event)) == (record.key, record.value)
    added = [(OPERATION_HEADER, str(done.number).encode()), (LETTER_HEADER, letter.place.encode())]
    assert [*headers, *added] == list(record.headers)
    assert (BILLING_EVENTS, other, "ops-1") == (sending.topic, sending.partition, sending.actor)


@pytest.mark.parametrize("reason", ["wrong_partition", "unknown_plan"])
async def test_only_a_message_that_came_on_a_wrong_partition_is_sent_to_another_one(
    settings: Settings, database: Connection, account: str, reason: str
) -> None:
    """Its account's books are on the server that holds the number of its key; the others stay in their order."""
    own = partition_of(account.encode(), 4)
    came_on = (own + 1) % 4
    event = send(account)
    letter = DeadLetter(
        *(came_on, 7, uuid4(), reason, "planted", account, event.type, SEND_REQUESTS, came_on, 3),
        *(event.time, event.time, account.encode(), encode(event), (), False),
    )
    planner = RedrivePlanner(settings, load_catalogue(), {SEND_REQUESTS: 4}, {}, FAST)
    (decision,) = await planner.decide(database, [letter])

    assert decision.refusal is None
    assert (own if reason == "wrong_partition" else came_on) == decision.partition


async def test_what_would_be_of_no_use_or_unsafe_is_not_sent_and_said_why(
    mended: Settings, cluster: Settings, account: str
) -> None:
    """One of each kind, and a dry run sends none of them."""
    answered, key = platinum(account), account.encode()
    await publish(cluster, BILLING_EVENTS, [answered])
    await work_off(cluster)
    large = b'{"a":"' + b"x" * 4_000_000 + b'"}'
    partition = partition_of(key, cluster.topic_partitions)
    async with create_producer(cluster, "test", large=True) as producer:
        await producer.send_and_wait(SEND_REQUESTS, large, key, partition=partition)
    await publish(cluster, BILLING_EVENTS, [answered, platinum(account), (key, b"{"), (None, encode(send(account)))])
    await work_off(mended)
    plan = await plan_redrive(mended, LetterFilter(account=account), FAST)
    counts = await count_dead_letters(cluster, LetterFilter(account=account))

    reasons = ("unknown_plan", "not_json", "wrong_topic")  # the last one is the account's by its subject
    kept = {(BILLING_EVENTS, reason): 1 for reason in reasons}
    assert kept | {(SEND_REQUESTS, "too_large"): 1} == counts
    assert {"answered": 1, "refused_again": 2, "cut": 1} == plan.refused
    assert 0 == plan.count
    anyway = await plan_redrive(mended, LetterFilter(account=account), RedriveOptions(again=True, anyway=True))
    assert {"cut": 1} == anyway.refused
    assert kept == anyway.letters


async def test_a_record_that_is_no_dead_letter_is_shown_and_never_sent(cluster: Settings, account: str) -> None:
    """Somebody else wrote it: nothing says what its message was."""
    await publish(cluster, DEAD_LETTERS, [(account.encode(), b'{"not": "ours"}')])

    found = await list_dead_letters(cluster)

    (letter,) = [each for each in found.letters if each.key == account.encode()]
    plan = await plan_redrive(cluster, LetterFilter(partition=letter.partition, offset=letter.offset), FAST)
    assert ("unreadable", None, {"unreadable": 1}) == (letter.reason, letter.id, plan.refused)


async def test_no_more_is_sent_than_was_agreed_to(mended: Settings, cluster: Settings, account: str) -> None:
    """What is set aside after the plan was made waits for the next; so does what is over the limit."""
    events = [encode(platinum(account)) for _ in range(4)]
    await set_aside(cluster, BILLING_EVENTS, account, events[:3], "unknown_plan")
    selection, options = LetterFilter(account=account), RedriveOptions(rate=5000, limit=2)
    plan = await plan_redrive(mended, selection, options)
    await set_aside(cluster, BILLING_EVENTS, account, events[3:], "unknown_plan")

    done = await redrive(mended, selection, options, plan, who=ME, stop=asyncio.Event())

    assert {"sent": 2, "not_sent": {}, "left": 0} == done.result
    assert 2 == (await plan_redrive(mended, selection, FAST)).count


async def test_a_message_that_the_broker_refuses_is_told_and_stands_in_nobody_s_way(
    cluster: Settings, account: str, database: Connection
) -> None:
    """It came compressed by a better codec than ours, or when its topic took more; its neighbours are sent."""
    junk = [b"{1", os.urandom(1_400_000), b"{2"]
    await set_aside(cluster, SEND_REQUESTS, account, junk, "not_json")

    done = await back(cluster, account, RedriveOptions(rate=5000, anyway=True))

    assert {"sent": 2, "not_sent": {"refused by Kafka: MessageSizeTooLargeError": 1}, "left": 0} == done.result
    assert [b"{1", b"{2"] == [each.value for each in await records_of(cluster, SEND_REQUESTS, account)]
    assert 2 == await database.fetchval("select count(*) from redriven where sent_at is not null")
    assert 2 == await database.fetchval("select count(*) from redriven")


# -- how it is sent ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def five(cluster: Settings, account: str) -> list[Event]:
    """Five letters of an account whose plan was unknown."""
    events = [platinum(account) for _ in range(5)]
    await set_aside(cluster, BILLING_EVENTS, account, [encode(event) for event in events], "unknown_plan")
    return events


async def test_messages_go_at_the_rate_asked_for_in_the_order_they_came(
    mended: Settings, account: str, five: list[Event]
) -> None:
    """Five at 20 a second take four times 50 ms."""
    clock = asyncio.get_running_loop().time
    seen: list[int] = []
    selection, options = LetterFilter(account=account), RedriveOptions(rate=20)
    plan = await plan_redrive(mended, selection, options)
    began = clock()

    await redrive(mended, selection, options, plan, who=ME, stop=asyncio.Event(), progress=seen.append)

    assert 0.2 <= clock() - began
    assert 0.25 == plan.seconds
    assert [5] == seen
    sent = [json.loads(each.value)["id"] for each in await records_of(mended, BILLING_EVENTS, account)]
    assert [str(event.id) for event in five] == sent


async def test_a_redrive_that_was_stopped_goes_on_where_it_stopped(
    mended: Settings, account: str, five: list[Event]
) -> None:
    """Each message is sent once, whatever was stopped how often."""
    selection, options = LetterFilter(account=account), RedriveOptions(rate=2)
    plan = await plan_redrive(mended, selection, options)
    stop = asyncio.Event()

    first = await redrive(mended, selection, options, plan, who=ME, stop=stop, progress=lambda _: stop.set())
    second = await back(mended, account)

    assert [(2, True), (3, False)] == [(each.result["sent"], each.stopped) for each in (first, second)]
    assert 3 == first.result["left"]
    kept = await read_operation(mended, first.number)
    assert (OperationStatus.STOPPED, first.result, "ops-1") == (kept.status, kept.result, kept.actor)
    records = await records_of(mended, BILLING_EVENTS, account)
    assert {str(event.id): 1 for event in five} == Counter(json.loads(each.value)["id"] for each in records)


async def test_a_redrive_that_is_stopped_between_two_messages_leaves_the_rest_unsent(
    mended: Settings, account: str, five: list[Event], database: Connection
) -> None:
    """Nothing is in doubt: what was about to be sent and was not is no more on record."""
    assert five
    selection, options = LetterFilter(account=account), RedriveOptions(rate=5000)
    plan = await plan_redrive(mended, selection, options)
    stop = asyncio.Event()
    stop.set()

    done = await redrive(mended, selection, options, plan, who=ME, stop=stop)

    assert ({"sent": 0, "not_sent": {}, "left": 5}, True) == (done.result, done.stopped)
    assert 0 == await database.fetchval("select count(*) from redriven")


# -- the record -------------------------------------------------------------------------------------------------------


async def test_only_one_redrive_runs_at_a_time(cluster: Settings) -> None:
    """The second is refused and told whose the first is; after it, it may."""
    intent = Intent("redrive", "ops-1", "first", {}, {})
    async with recorded_operation(cluster, intent) as running:
        with pytest.raises(RefusedError, match=f"operation {running.number} of ops-1"):
            async with recorded_operation(cluster, intent):
                pass
        assert OperationStatus.RUNNING == (await read_operation(cluster, running.number)).status
    async with recorded_operation(cluster, intent) as second:
        pass

    assert [OperationStatus.DONE, OperationStatus.DONE] == [each.status for each in await list_operations(cluster, 2)]
    assert second.number > running.number


async def test_an_operation_whose_process_is_gone_is_said_to_be_broken_off(
    cluster: Settings, database: Connection
) -> None:
    """At once by its lock, which no dead process holds; and for good by the next of its verb."""
    intent = Intent("redrive", "ops-1", "first", {}, {})

    async def is_killed() -> None:
        async with recorded_operation(cluster, intent) as running:
            pid = await running.connection.fetchval("select pg_backend_pid()")
            await database.execute("select pg_terminate_backend($1, 5000)", pid)
            await running.save_progress()

    with pytest.raises(POSTGRES_ERRORS):
        await is_killed()
    (broken,) = await list_operations(cluster, 1)
    before = broken.status
    async with recorded_operation(cluster, intent):
        pass

    assert [OperationStatus.BROKEN_OFF] * 2 == [before, (await read_operation(cluster, broken.operation)).status]


async def test_what_an_operation_raised_is_on_record(cluster: Settings) -> None:
    """And is raised again."""
    with pytest.raises(ValueError, match="planted"):
        async with recorded_operation(cluster, Intent("redrive", "ops-1", "to see", {"rate": 1}, {"messages": 2})):
            raise ValueError("planted")

    (kept,) = await list_operations(cluster, 1)
    assert (OperationStatus.FAILED, {"error": "ValueError: planted"}) == (kept.status, kept.result)
    assert ({"rate": 1}, {"messages": 2}, "to see") == (kept.arguments, kept.plan, kept.reason)


async def test_what_an_operation_raised_is_raised_where_it_cannot_be_recorded(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the client of a session that the server ends raises by then."""

    async def end(*_: object) -> None:
        raise asyncpg.InternalClientError("cannot perform operation: another operation is in progress")

    monkeypatch.setattr(OngoingOperation, "save_end", end)
    with pytest.raises(ValueError, match="planted"):
        async with recorded_operation(cluster, Intent("redrive", "ops-1", "to see", {}, {})):
            raise ValueError("planted")


async def test_a_worker_has_no_right_to_what_operators_did(database: Connection) -> None:
    """The record is the operators' own."""
    for table in ("operations", "redriven"):
        for right in ("select", "insert", "update", "delete"):
            assert not await database.fetchval("select has_table_privilege($1, $2, $3)", WORKER_ROLE, table, right)


# -- which are meant --------------------------------------------------------------------------------------------------


async def test_letters_are_found_by_each_of_their_marks(cluster: Settings, account: str) -> None:
    """Each filter alone finds the one of two that it is about."""
    await set_aside(cluster, SEND_REQUESTS, account, [b"{"], "not_json")
    await set_aside(cluster, BILLING_EVENTS, account, [encode(platinum(account))], "unknown_plan")
    second, first = (await list_dead_letters(cluster, LetterFilter(account=account))).letters

    wanted = {
        first: [
            LetterFilter(reason=DeadLetterReason.NOT_JSON),
            LetterFilter(topic=SEND_REQUESTS),
            LetterFilter(before=second.set_aside_at),
            LetterFilter(partition=first.partition, offset=first.offset),
            LetterFilter(places=frozenset({(first.partition, first.offset)})),
        ],
        second: [
            LetterFilter(reason=DeadLetterReason.UNKNOWN_PLAN),
            LetterFilter(topic=BILLING_EVENTS),
            LetterFilter(event_type="inmail.subscription.activated.v1"),
            LetterFilter(after=second.set_aside_at),
            LetterFilter(partition=second.partition, offset=second.offset),
        ],
    }
    for letter, selections in wanted.items():
        other = second if letter is first else first
        for selection in selections:
            assert (True, False) == (selection.matches(letter), selection.matches(other)), selection
            found = await list_dead_letters(cluster, selection)
            assert letter in found.letters
            assert other not in found.letters


async def test_a_letter_whose_request_was_answered_otherwise_says_so(
    cluster: Settings, mended: Settings, account: str
) -> None:
    """Its producer sent it again itself."""
    event = platinum(account)
    await publish(cluster, BILLING_EVENTS, [event])
    await work_off(cluster)
    await publish(cluster, BILLING_EVENTS, [event])
    await work_off(mended)

    (row,) = (await told(mended, account)).summary()

    assert ([], "granted", 1) == (row["became"]["redriven"], *pick(row["became"]["answer"], "code", "sequence"))
    assert {"answered": 1} == (await plan_redrive(mended, LetterFilter(account=account), FAST)).refused


async def test_a_trace_tells_which_letter_a_redriven_one_became(cluster: Settings, account: str) -> None:
    """Of both: the first names the second, which was not sent again."""
    event = platinum(account)
    await publish(cluster, BILLING_EVENTS, [event])
    await work_off(cluster)
    sent = await back(cluster, account, RedriveOptions(rate=5000, anyway=True))
    await work_off(cluster)

    (second, newest), (_, oldest) = (await trace(cluster, Question(event.id, None))).letters

    assert 1 == sent.result["sent"]
    assert newest is not None
    assert oldest is not None
    assert ([1, 0], second.place) == ([len(oldest.redrives), len(newest.redrives)], oldest.new_letter)


# -- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [whole("offset"), "places"])
async def test_letters_that_are_named_are_read_and_no_others(
    mended: Settings, account: str, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """At the plan and when they are sent: of a topic with millions behind them as well."""
    await set_aside(mended, BILLING_EVENTS, account, [encode(platinum(account)) for _ in range(300)], "unknown_plan")
    listed = (await list_dead_letters(mended, LetterFilter(account=account))).letters
    first, second = listed[-1], listed[20]
    selection = LetterFilter(partition=first.partition, offset=first.offset)
    if named == "places":
        selection = LetterFilter(places=frozenset((each.partition, each.offset) for each in (first, second)))
    parse, read = DeadLettered.model_validate_json, 0

    def count(*arguments: Any, **options: Any) -> Any:
        nonlocal read
        read += 1
        return parse(*arguments, **options)

    monkeypatch.setattr(DeadLettered, "model_validate_json", count)
    plan = await plan_redrive(mended, selection, FAST)
    done = await redrive(mended, selection, FAST, plan, who=ME, stop=asyncio.Event())

    letters = 1 if named == "offset" else 2
    assert (letters, letters, 2 * letters) == (plan.count, done.result["sent"], read)


async def test_a_letter_that_is_named_and_not_there_is_not_sent(mended: Settings, account: str) -> None:
    """Retention has removed it, the topic is not as long, or has no such partition; the others are sent."""
    await set_aside(mended, BILLING_EVENTS, account, [encode(platinum(account))], "unknown_plan")
    (letter,) = (await list_dead_letters(mended, LetterFilter(account=account))).letters
    places = {(letter.partition, letter.offset), (letter.partition, 10**12), (10**6, 0)}

    plan = await plan_redrive(mended, LetterFilter(places=frozenset(places)), FAST)

    assert {letter.place} == {f"{partition}/{offset}" for partition, offset, _ in plan.places}


async def test_large_messages_are_decided_a_few_at_a_time(
    mended: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five hundred may have half a gigabyte."""
    monkeypatch.setattr(redrive_plan, "_BATCH_BYTES", 500_000, raising=False)
    large = b'{"text": "' + 200_000 * b"x" + b'"}'
    await set_aside(mended, BILLING_EVENTS, account, [large] * 7, "unknown_plan")
    decide, sizes = RedrivePlanner.decide, list[int]()

    async def note(self: RedrivePlanner, connection: Connection, letters: Sequence[DeadLetter]) -> Any:
        sizes.append(len(letters))
        return await decide(self, connection, letters)

    monkeypatch.setattr(RedrivePlanner, "decide", note)
    await plan_redrive(mended, LetterFilter(account=account), FAST)

    assert [3, 3, 1] == sizes
