"""Any producer, on real Kafka and Postgres: what was sent in one mode is the same request in the other."""

import json
from contextlib import aclosing
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import ConsumerRecord
from jsonschema import validate

from infra.kafka.clients import partition_of
from infra.kafka.records import read_records
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import (
    BILLING_EVENTS,
    CREDIT_EVENTS,
    DEAD_LETTERS,
    SEND_REQUESTS,
    SEND_RESULTS,
)
from schemas.envelope import EVENT_HEADERS, ORIGIN_HEADER, Event, encode
from schemas.ids import answer_id, derive_id
from schemas.render import asyncapi
from tests.ledger.book import pick
from tests.whole import whole
from tests.workers.command import run
from tests.workers.letters import platinum, records_of
from tests.workers.wire import ends, in_binary_mode, promotion, publish, read, send, settled, working
from workers.commands.running import Exit
from workers.jobs.billing import BillingJob
from workers.jobs.job import StoredRange
from workers.jobs.send import SendJob
from workers.jobs.stored_events import replay_answers
from workers.ledger.model import WorkerName
from workers.ledger.plans import load_catalogue
from workers.ops.books.original_ids import UnknownRequestError
from workers.ops.trace.trace import about, trace

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
RUSSIAN = "заказ-7"  # no character of it is in LATIN1, which a database may have


async def _send_binary(settings: Settings, topic: str, event: Event) -> None:
    value, headers = in_binary_mode(event)
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers) as producer:
        await producer.send_and_wait(topic, value, (event.subject or "").encode(), headers=headers)


async def test_the_same_request_in_the_other_mode_is_a_repeat_and_another_body_a_conflict(
    cluster: Settings, account: str
) -> None:
    """A team that changes its SDK's mode in the middle charges nobody twice."""
    start = await ends(cluster, SEND_RESULTS)
    first = send(account, relationship="connection")
    await _send_binary(cluster, SEND_REQUESTS, first)
    await publish(cluster, SEND_REQUESTS, [first, send(account, first.id)])
    await _send_binary(cluster, SEND_REQUESTS, send(account, first.id))

    async with working(cluster, SendJob(load_catalogue())):
        answers = await read(cluster, start, 4)

    assert [("free", False), ("free", True), ("key_conflict", False), ("key_conflict", True)] == [
        pick(answer, "code", "repeat") for answer in answers
    ]
    assert answers[0]["id"] == answers[1]["id"] == answer_id(account, first.id)
    assert answers[2]["id"] == answers[3]["id"]


async def _records(settings: Settings, start: dict[TopicPartition, int], account: str) -> list[ConsumerRecord]:
    place = next(tp for tp in start if tp.partition == partition_of(account.encode(), settings.topic_partitions))
    async with aclosing(read_records(settings, [place], start=start[place])) as records:
        return [record async for record in records]


async def test_whatever_a_worker_publishes_says_that_it_is_a_structured_event(cluster: Settings, account: str) -> None:
    """Answers, movements, notices and dead letters alike: SDKs find no event in a record without the header."""
    starts = [await ends(cluster, topic) for topic in (SEND_RESULTS, CREDIT_EVENTS, DEAD_LETTERS)]
    await publish(cluster, BILLING_EVENTS, [promotion(account, 1), platinum(account)])
    catalogue = load_catalogue()
    async with working(cluster, BillingJob(catalogue)):
        await read(cluster, starts[1], 1)
        await read(cluster, starts[2], 1)
    await publish(cluster, SEND_REQUESTS, [send(account)])
    async with working(cluster, SendJob(catalogue)):
        await read(cluster, starts[0], 1)
    await settled(cluster)

    records = [record for start in starts for record in await _records(cluster, start, account)]
    assert {"charged", "granted", "exhausted", None} == {json.loads(each.value)["data"].get("code") for each in records}
    assert [EVENT_HEADERS] * len(records) == [tuple(record.headers) for record in records]


def _with_id(event: Event, id_: str, **members: Any) -> bytes:
    return json.dumps(json.loads(encode(event)) | {"id": id_} | members).encode()


async def _send_values(settings: Settings, topic: str, account: str, values: list[bytes]) -> None:
    await publish(settings, topic, [(account.encode(), value) for value in values])


@pytest.mark.parametrize("id_", [whole(ULID), RUSSIAN])
async def test_a_request_with_an_id_that_is_no_uuid_is_answered_once_with_both_ids(
    cluster: Settings, account: str, database: Connection, id_: str
) -> None:
    """Its repeat too; what it moves beside the answer names both as well, and so does what the books give again."""
    start = await ends(cluster, CREDIT_EVENTS) | await ends(cluster, SEND_RESULTS)
    gift, request = promotion(account, 1), send(account)
    await _send_values(cluster, BILLING_EVENTS, account, [_with_id(gift, id_)] * 2)
    catalogue = load_catalogue()
    async with working(cluster, BillingJob(catalogue)):
        granted = await read(cluster, start, 2)
    await _send_values(cluster, SEND_REQUESTS, account, [_with_id(request, f"{id_}-send")])
    async with working(cluster, SendJob(catalogue)):
        found = await read(cluster, start, 4)

    derived = derive_id("/test", id_)
    assert [(str(derived), id_, False), (str(derived), id_, True)] == [
        pick(answer, "request_id", "original_id", "repeat") for answer in granted
    ]
    assert {answer_id(account, derived)} == {answer["id"] for answer in granted}
    assert {"charged": f"{id_}-send", "exhausted": f"{id_}-send"} == {
        each["code"]: each["original_id"] for each in found if each["code"] != "granted"
    }
    partition = partition_of(account.encode(), cluster.topic_partitions)
    again = await replay_answers(database, WorkerName.BILLING, partition, StoredRange(0, 2**62))
    (event,) = [message for message in again if message.key == account.encode()]
    assert id_ == json.loads(event.value)["data"]["original_id"]
    assert list(EVENT_HEADERS) == event.headers


@pytest.mark.parametrize("together", [True, False])
async def test_a_request_sent_again_by_its_derived_id_is_answered_with_the_id_that_its_producer_gave(
    cluster: Settings, account: str, *, together: bool
) -> None:
    """Readers of results know it by that. The same body is a repeat, another one a conflict, in one batch or later."""
    id_ = f"order-{uuid4()}"
    derived = derive_id("/test", id_)
    start = await ends(cluster, SEND_RESULTS)
    first = send(account, relationship="connection")
    again = [_with_id(each, str(derived)) for each in (first, send(account))]
    if together:
        again = [_with_id(first, id_), *again]
    else:
        await _send_values(cluster, SEND_REQUESTS, account, [_with_id(first, id_)])
        async with working(cluster, SendJob(load_catalogue())):
            await read(cluster, start, 1)
    await _send_values(cluster, SEND_REQUESTS, account, [*again, _with_id(send(account), str(uuid4()))])

    async with working(cluster, SendJob(load_catalogue())):
        answers = await read(cluster, start, 4)

    ids = [(str(derived), id_)] * 3
    assert [("free", *ids[0]), ("free", *ids[1]), ("key_conflict", *ids[2])] == [
        pick(answer, "code", "request_id", "original_id") for answer in answers[:3]
    ]
    assert "original_id" not in answers[3]


async def test_a_repeat_names_the_record_that_it_answers_in_a_header_that_the_contract_has(
    cluster: Settings, account: str
) -> None:
    """Its event is the first answer's, byte for byte but for `repeat`, and names the first record."""
    contract = asyncapi()["components"]["messages"]["inmail.send.decided.v1"]["headers"]
    start = await ends(cluster, SEND_RESULTS)
    await publish(cluster, SEND_REQUESTS, [send(account, relationship="connection")] * 2)

    async with working(cluster, SendJob(load_catalogue())):
        await read(cluster, start, 2)
    headers = [
        {name: value.decode() for name, value in answer.headers}
        for answer in await records_of(cluster, SEND_RESULTS, account)
    ]
    for each in headers:
        validate(each, contract)

    _, again = await records_of(cluster, SEND_REQUESTS, account)
    assert [None, f"{again.partition}/{again.offset}"] == [each.get(ORIGIN_HEADER) for each in headers]


async def test_a_trace_finds_a_request_by_the_id_that_its_producer_gave_it(cluster: Settings, account: str) -> None:
    """In the books, with the record that it was read from, in either mode. Two sources' requests are told apart."""
    id_ = f"order-{uuid4()}"
    start = await ends(cluster, SEND_RESULTS)
    await _send_values(cluster, SEND_REQUESTS, account, [_with_id(send(account), id_)])
    async with working(cluster, SendJob(load_catalogue())):
        (answer,) = await read(cluster, start, 1)
        (found,) = (await trace(cluster, about(id_, None))).traces
        dry = await run(cluster, "replay", "reemit", "--request", id_, "--dry-run", "--json")
        rewind = ("replay", "rewind", "send", "--to-request", id_, "--publish-again")
        back = await run(cluster, *rewind, "--dry-run", "--json")
        await _send_values(cluster, SEND_REQUESTS, account, [_with_id(send(account), id_, source="/other")])
        await read(cluster, start, 2)
    with pytest.raises(UnknownRequestError, match=r"2 requests, of several sources") as told:
        await trace(cluster, about(id_, account))

    assert (UUID(answer["request_id"]), "there") == (found.case.request_id, found.state)
    assert 1 == json.loads(dry.out)["plan"]["events"]
    assert 1 == json.loads(back.out)["plan"]["records"]
    named = await run(cluster, "replay", "reemit", "--request", id_, "--dry-run")
    assert (Exit.NO, True) == (named.code, "2 requests, of several sources" in named.err)
    assert str(derive_id("/other", id_)) in str(told.value)
    with pytest.raises(UnknownRequestError, match="is no UUID and no id of a decided request"):
        await trace(cluster, about(f"{id_}x", None))


async def test_a_trace_finds_the_record_and_the_dead_letter_of_binary_mode(cluster: Settings, account: str) -> None:
    """The id is in a header there."""
    start = await ends(cluster, SEND_RESULTS)
    request, refused = send(account), platinum(account)
    await _send_binary(cluster, SEND_REQUESTS, request)
    await _send_binary(cluster, SEND_REQUESTS, refused)
    async with working(cluster, SendJob(load_catalogue())):
        await read(cluster, start, 1)
    await settled(cluster)
    (found,) = (await trace(cluster, about(str(request.id), None))).traces
    (letter, _) = (await trace(cluster, about(str(refused.id), None))).letters[0]

    assert "there" == found.state
    assert ("wrong_topic", refused.type_name()) == (letter.reason, letter.event_type)
