"""A batch of several partitions' requests is decided as a batch of each partition would be."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import chain
from typing import Any
from uuid import UUID

import pytest
from aiokafka import TopicPartition

from infra.clock import LATEST
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import CREDIT_EVENTS, fingerprint
from schemas.dead_letters import DeadLetterReason
from schemas.envelope import Event
from schemas.sends import SendUndeliverable
from schemas.ticks import ExpiryTick
from tests.ledger.book import DAY, NEW_YEAR, Book
from workers.jobs.billing import BillingJob
from workers.jobs.bisection import decide_bisected
from workers.jobs.expiry import ExpiryJob
from workers.jobs.job import Batch, Decision, Job, Message
from workers.jobs.send import SendJob
from workers.ledger.model import Place, Request
from workers.ledger.plans import load_catalogue

POISON = 13  # credits
ACCOUNTS = ("anna", "bert")  # of partition 0 and of partition 1
RECIPIENT = "zoe"


def _id(partition: int, number: int) -> UUID:
    return UUID(int=partition << 64 | number, version=4)


def _requests(partition: int, events: Sequence[Event], first_offset: int = 0) -> list[Request[Any]]:
    return [
        Request(event, event.subject or "", event.id, fingerprint(event), event.time, partition, offset)
        for offset, event in enumerate(events, first_offset)
    ]


def _gifts(book: Book, partition: int) -> list[Event]:
    """Return grants of one account: a repeat, a conflict and, in partition 1, one that the database refuses."""
    account = ACCOUNTS[partition]
    first = book.promotion(2 + partition, account, id=_id(partition, 1))
    return [
        first,
        book.promotion(POISON if partition == 1 else 1, account, id=_id(partition, 2)),
        first,
        book.promotion(5, account, id=_id(partition, 1)),
    ]


def _sends(book: Book, partition: int) -> list[Event]:
    """Return sends of one account until it has no credit: a repeat, a conflict and a reversal among them."""
    account = ACCOUNTS[partition]
    paid = [book.send(account, id=_id(partition, 10 + n), recipient_id=RECIPIENT) for n in range(5)]
    returned = SendUndeliverable.create(
        id=_id(partition, 20), source="/test", subject=account, time=book.now, data={"send_id": paid[0].id}
    )
    conflict = book.send(account, id=paid[1].id, recipient_id="somebody-else")
    return [*paid[:2], paid[0], conflict, *paid[2:], returned, book.send(account, id=_id(partition, 15))]


async def _decide_steps(job: Job, connection: Connection, batch: Batch) -> Decision:
    while job.step is not None and await job.step(connection, batch):
        pass
    return await job.decide(connection, batch)


Decide = Callable[[Job, Connection, Batch], Awaitable[Decision]]


async def _together(decide: Decide, connection: Connection, job: Job, parts: list[list[Request[Any]]]) -> Decision:
    """Decide the requests of two partitions as one batch, in turn one of each."""
    return await decide(job, connection, Batch([*chain.from_iterable(zip(*parts, strict=True))], read_to=LATEST))


async def _apart(decide: Decide, connection: Connection, job: Job, parts: list[list[Request[Any]]]) -> Decision:
    """Decide the requests of two partitions as a batch each."""
    messages, refused, codes = [], {}, Counter[str]()
    for requests in parts:
        decision = await decide(job, connection, Batch(requests, read_to=LATEST))
        messages += decision.messages
        refused |= decision.refused
        codes += decision.codes
    return Decision(messages, refused, codes)


def _by_account(messages: list[Message]) -> dict[bytes | None, list[Message]]:
    found: dict[bytes | None, list[Message]] = {}
    for message in messages:
        found.setdefault(message.key, []).append(message)
    return found


Comparable = tuple[dict[bytes | None, list[Message]], dict[Place, DeadLetterReason], Counter[str]]


def _comparable(decision: Decision) -> Comparable:
    reasons = {place: problem.reason for place, problem in decision.refused.items()}
    return _by_account(decision.messages), reasons, decision.codes


@asynccontextmanager
async def _undone(connection: Connection) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    yield
    await transaction.rollback()


@pytest.mark.parametrize("poisoned", [False, True], ids=["whole", "in parts"])
async def test_requests_of_two_partitions_have_the_answers_of_two_batches(
    database: Connection, *, poisoned: bool
) -> None:
    """To the byte, with equal offsets in both: repeats, conflicts, reversals, notices, and a dead letter in bisection.

    The same holds where all of it is read again, as after a crash.
    """
    if poisoned:
        await database.execute(f"alter table lots add constraint no_poison check (granted <> {POISON})")
    book = Book(database)
    catalogue = load_catalogue()
    given: list[tuple[Job, Decide, list[list[Request[Any]]]]] = [
        (BillingJob(catalogue), decide_bisected, [_requests(n, _gifts(book, n)) for n in (0, 1)]),
        (SendJob(catalogue), _decide_steps, [_requests(n, _sends(book, n)) for n in (0, 1)]),
    ]
    found: dict[str, list[Comparable]] = {}
    for how in (_apart, _together):
        async with _undone(database):
            found[how.__name__] = [
                _comparable(await how(decide, database, job, parts))
                for job, decide, parts in (*given, *given)  # the second time all of it is read again
            ]
            misplaced = await database.fetchval("select count(*) from misplaced_records")

    gifts, sends, gifts_again, sends_again = found["_together"]
    assert found["_apart"] == found["_together"]
    assert [gifts, sends] == [gifts_again, sends_again]
    assert ({(1, 1): DeadLetterReason.REFUSED_BY_DATABASE} if poisoned else {}) == gifts[1]
    assert {b"anna", b"bert"} == sends[0].keys() == gifts[0].keys()
    assert {"repeat", "key_conflict", "charged", "reversed"} < sends[2].keys()
    assert (4 if poisoned else 2) == sends[2]["insufficient_credits"]
    assert 0 == misplaced


async def test_only_requests_away_from_their_accounts_partition_count_as_misplaced(database: Connection) -> None:
    """An account with requests on its own partition and on another one: the latter are counted, where they came in."""
    book = Book(database)
    sends = [book.send("anna", recipient_id=f"r-{n}") for n in range(3)]
    requests = [*_requests(0, sends[:1], 7), *_requests(1, sends[1:], 7), *_requests(1, [book.send("bert")], 9)]

    async with database.transaction():
        await SendJob(load_catalogue()).decide(database, Batch(requests))

    own = await database.fetch("select account_id, partition from accounts order by account_id")
    rows = await database.fetch("select partition, records, last_offset from misplaced_records")
    assert [("anna", 0), ("bert", 1)] == [tuple(row) for row in own]
    assert [(1, 2, 8)] == [tuple(row) for row in rows]


class _NothingUnread:
    async def end_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)


async def test_ticks_of_two_partitions_with_one_id_book_each_their_own_lots(
    database: Connection, settings: Settings
) -> None:
    """At equal offsets, in steps: the answers are those of two batches, and so they are where one is read again."""
    book = Book(database)
    await database.execute("insert into partitioning (partitions) values (1)")
    await book.decide(*(book.promotion(1 + n, f"{ACCOUNTS[n % 2]}-{n}") for n in range(6)))
    await database.execute("update accounts set partition = (account_id like 'bert%')::integer")
    await database.execute(
        "update lots as l set partition = a.partition from accounts as a where a.account = l.account"
    )
    later = NEW_YEAR + 91 * DAY
    tick = ExpiryTick.create(id=_id(0, 1), source="/test", time=later, data={"as_of": later})
    another = tick.model_copy(update={"data": tick.data.model_copy(update={"as_of": later - timedelta(hours=1)})})
    parts = [_requests(partition, [tick, tick, another]) for partition in (0, 1)]
    job = ExpiryJob(load_catalogue(), settings.model_copy(update={"tick_step_lots": 2}))
    found = []
    for how in (_apart, _together):
        async with _undone(database):
            found += [_comparable(await how(_decide_steps, database, job, parts)) for _ in range(2)]

    apart, again_apart, together, again_together = found
    assert _ticks_by_partition(apart) == _ticks_by_partition(together)
    assert [apart, together] == [again_apart, again_together]
    assert Counter({"expired": 6, "exhausted": 6, "booked": 2, "repeat": 2, "key_conflict": 2}) == together[2]


def _ticks_by_partition(decided: Comparable) -> tuple[Any, ...]:
    messages, refused, codes = decided
    answers = messages.pop(None)
    assert {CREDIT_EVENTS} == {answer.topic for answer in answers}
    by_partition = [[each for each in answers if each.partition == partition] for partition in (0, 1)]
    messages[None] = answers
    return {key: each for key, each in messages.items() if key is not None}, by_partition, refused, codes
