"""What producers may do to a lane: odd bytes, large bytes, large sums, and plans that come and go."""

from base64 import b64decode
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import partition_of
from infra.kafka.transactions import Message, TransactionPair, TransactionTimes
from infra.postgres import Connection
from infra.settings import Settings
from schemas.billing import SubscriptionActivated
from schemas.catalogue import (
    BILLING_EVENTS,
    CREDIT_EVENTS,
    DEAD_LETTERS,
    SEND_REQUESTS,
    SEND_RESULTS,
    Undecodable,
)
from schemas.dead_letters import DeadLetterReason
from schemas.envelope import Event, encode
from tests.ledger.book import DAY, NEW_YEAR, Book, pick
from tests.workers.wire import ends, promotion, publish, read, read_to_end, send, working
from workers.jobs.billing import BillingJob
from workers.jobs.dead_letters import dead_letters
from workers.jobs.send import SendJob
from workers.ledger.plans import Catalogue, load_catalogue

NONE, GZIP = 0, 1  # codecs, as a batch's header names them
MILLION = 1_000_000


async def _send_as(settings: Settings, codec: str, event: Event) -> None:
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, compression_type=codec) as producer:
        await producer.send_and_wait(SEND_REQUESTS, encode(event), (event.subject or "").encode())


async def test_records_that_a_stock_client_compressed_are_decided(cluster: Settings, account: str) -> None:
    """Each of Kafka's codecs is the producer's choice; none needs anything of the workers."""
    requests = {codec: send(account) for codec in ("zstd", "lz4", "snappy", "gzip")}
    start = await ends(cluster, SEND_RESULTS)
    for codec, event in requests.items():
        await _send_as(cluster, codec, event)

    async with working(cluster, SendJob(load_catalogue())):
        answers = await read(cluster, start, len(requests))

    assert [str(event.id) for event in requests.values()] == [answer["request_id"] for answer in answers]


# -- dead letters, however large --------------------------------------------------------------------------------------

Headers = list[tuple[str, bytes]]


async def _send_packed(settings: Settings, account: str, key: bytes, value: bytes, headers: Headers) -> None:
    """Publish one record, compressed below the broker's limit, where the account's records are."""
    partition = partition_of(account.encode(), settings.topic_partitions)
    async with AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, compression_type="gzip", max_request_size=50 * MILLION
    ) as producer:
        await producer.send_and_wait(SEND_REQUESTS, value, key, partition=partition, headers=headers)


async def test_a_record_too_large_to_be_kept_is_a_dead_letter_with_its_beginning(
    cluster: Settings, account: str
) -> None:
    """A compressed record may hold more than any dead letter: it is cut, what it was is told, and the lane goes on."""
    key, value = b"k" * 300_000, b'{"a":"' + b"x" * 4 * MILLION + b'"}'
    headers = [(f"h{n}", b"v" * 30_000) for n in range(10)]
    results, letters = await ends(cluster, SEND_RESULTS), await ends(cluster, DEAD_LETTERS)
    await _send_packed(cluster, account, key, value, headers)
    await publish(cluster, SEND_REQUESTS, [send(account)])

    async with working(cluster, SendJob(load_catalogue())):
        (letter,) = await read(cluster, letters, 1)
        (answer,) = await read(cluster, results, 1)

    cut = {"value_size": len(value), "value_sha256": sha256(value).hexdigest(), "headers": len(headers)}
    assert ("too_large", cut) == pick(letter, "reason", "cut")
    assert value.startswith(b64decode(letter["value_base64"]))
    assert key.startswith(b64decode(letter["key_base64"]))
    assert ["h0", "h1"] == [header["key"] for header in letter["headers"]]
    assert "insufficient_credits" == answer["code"]


LARGE: dict[str, tuple[bytes, bytes, Headers]] = {
    "a value": (b"k", b"{" * 2_000_000, []),
    "a key, which its letter has twice": (b"k" * 2_000_000, b"{", []),
    "a header's name, which JSON writes longer": (b"k", b"{", [("\x01" * 900_000, b"")]),
}


@pytest.mark.parametrize("what", LARGE)
async def test_a_dead_letter_fits_its_topic_whatever_of_the_record_is_large(cluster: Settings, what: str) -> None:
    """Else the broker would refuse it for ever, and the lane would never pass its record."""
    key, value, headers = LARGE[what]
    record = ConsumerRecord(SEND_REQUESTS, 0, 7, 1_900_000_000_000, 1, key, value, None, 0, 0, headers)
    letters = dead_letters([record], {(0, 7): Undecodable(DeadLetterReason.NOT_JSON, "planted")})
    start = await ends(cluster, DEAD_LETTERS)
    pair = TransactionPair(cluster, f"test-{uuid4().hex}")
    await pair.start()

    try:
        await pair.publish(letters, {TopicPartition(SEND_REQUESTS, 0): 1}, f"group-{uuid4().hex}")
    finally:
        await pair.discard()
    assert ["not_json"] == [letter["reason"] for letter in await read(cluster, start, 1)]


# -- headers whose names are no text ----------------------------------------------------------------------------------


class _Bytes(str):
    """A header's name that other clients may send and aiokafka cannot: it is put down as it is, not as UTF-8."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:  # type: ignore[override]
        return super().encode("latin-1")


async def _send_batch(settings: Settings, account: str, codec: int, values: list[bytes], headers: Headers) -> None:
    batch = BatchBuilder(MILLION, codec)
    batch._builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, 0, MILLION)
    for value in values:
        batch.append(timestamp=None, key=account.encode(), value=value, headers=headers if value == values[1] else [])
    partition = partition_of(account.encode(), settings.topic_partitions)
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers) as producer:
        await (await producer.send_batch(batch, SEND_REQUESTS, partition=partition))


@pytest.mark.parametrize("codec", [NONE, GZIP])
async def test_a_header_whose_name_is_not_utf_8_stands_in_nobody_s_way(
    cluster: Settings, account: str, codec: int
) -> None:
    """Names are bytes to Kafka: the record is decided like its neighbours, and a dead letter shows what they were."""
    events = [send(account) for _ in range(5)]
    headers = [("trace", b"1"), (_Bytes("k\xff"), b"2")]
    results, letters = await ends(cluster, SEND_RESULTS), await ends(cluster, DEAD_LETTERS)
    await _send_batch(cluster, account, codec, [encode(event) for event in events[:3]], headers)
    await _send_batch(cluster, account, codec, [encode(events[3]), b"{", encode(events[4])], headers)

    async with working(cluster, SendJob(load_catalogue())):
        answers = await read(cluster, results, len(events))
        (letter,) = await read(cluster, letters, 1)

    assert [str(event.id) for event in events] == [answer["request_id"] for answer in answers]
    assert [("trace", "MQ=="), ("k\\xff", "Mg==")] == [pick(h, "key", "value_base64") for h in letter["headers"]]


# -- sums -------------------------------------------------------------------------------------------------------------


async def test_a_balance_may_exceed_what_32_bits_hold(database: Connection) -> None:
    """Every grant is within its limit, and so is every movement; only their sum is large.

    The first lot stands for 2,147 more of its kind: that many, one after another, would take seconds.
    """
    book = Book(database)
    await book.one(book.promotion(MILLION))
    await database.execute("update lots set granted = 2147 * granted, remaining = 2147 * remaining")

    grants = await book.decide(*(book.promotion(MILLION) for _ in range(53)))
    charged = await book.one(book.send())
    book.now += 90 * DAY
    lines = await book.tick()

    balances = [n * MILLION for n in range(2_147, 2_201)]
    assert [("granted", *each) for each in pairwise(balances)] == [
        pick(grant, "code", "balance_before", "balance_after") for grant in grants
    ]
    assert ("charged", 2_200 * MILLION, 2_200 * MILLION - 1) == pick(charged, "code", "balance_before", "balance_after")
    assert (54, 2_200 * MILLION - 1, True) == pick(lines[-1], "lots", "credits", "complete")


# -- plans ------------------------------------------------------------------------------------------------------------


def _without(plan: str) -> Catalogue:
    catalogue = load_catalogue()
    return replace(catalogue, plans={name: terms for name, terms in catalogue.plans.items() if name != plan})


def _activated(account: str, plan: str, id_: UUID | None = None) -> Event:
    data = {"subscription_id": "s", "plan": plan, "period_start": NEW_YEAR, "period_end": NEW_YEAR + 31 * DAY}
    return SubscriptionActivated.create(id=id_ or uuid4(), source="/test", subject=account, time=NEW_YEAR, data=data)


async def test_what_was_answered_keeps_its_answer_when_its_plan_is_gone(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored, not published, and read again by a catalogue without its plan: published; a repeat gets it again."""
    start, letters = await ends(cluster, CREDIT_EVENTS), await ends(cluster, DEAD_LETTERS)
    event = _activated(account, "premium_career")
    await publish(cluster, BILLING_EVENTS, [event])
    publish_ = TransactionPair.publish
    catalogue = load_catalogue()
    job = BillingJob(catalogue)

    async def fails(self: TransactionPair, messages: list[Message], *rest: object) -> TransactionTimes:
        if messages and job._catalogue is catalogue:
            job._catalogue = _without("premium_career")
            raise KafkaError("planted")
        return await publish_(self, messages, *rest)

    monkeypatch.setattr(TransactionPair, "publish", fails)
    async with working(cluster, job):
        await read(cluster, start, 1)
        await publish(cluster, BILLING_EVENTS, [event])
        answers = await read(cluster, start, 2)

    assert job._catalogue is not catalogue
    assert [("granted", 1, False), ("granted", 1, True)] == [pick(a, "code", "sequence", "repeat") for a in answers]
    assert [] == await read_to_end(cluster, letters)


async def test_an_unknown_plan_is_a_dead_letter_as_often_as_it_is_sent_and_its_neighbours_are_decided(
    cluster: Settings, account: str
) -> None:
    """In one batch: an event of a known plan, the unknown one twice and with another body, and credits between."""
    start, letters = await ends(cluster, CREDIT_EVENTS), await ends(cluster, DEAD_LETTERS)
    unknown = _activated(account, "platinum")
    known = [_activated(account, "premium_career"), promotion(account, 3), promotion(account, 4)]
    first, second, third = known
    await publish(cluster, BILLING_EVENTS, [first, unknown, second, unknown, third, _activated(account, "platinum")])

    async with working(cluster, BillingJob(load_catalogue())):
        dead = await read(cluster, letters, 3)
        answers = await read(cluster, start, len(known))

    assert {"unknown_plan": 3} == Counter(letter["reason"] for letter in dead)
    assert [str(event.id) for event in known] == [answer["request_id"] for answer in answers]
