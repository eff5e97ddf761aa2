"""One request that the database cannot take: a dead letter, and nobody else's trouble."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import pytest

from infra.kafka.clients import create_producer
from infra.postgres import Connection, is_refusal, is_transient
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, CREDIT_EVENTS, DEAD_LETTERS, EXPIRY_TICKS, fingerprint
from schemas.envelope import Event, encode
from schemas.ticks import ExpiryTick
from tests.ledger.book import DAY, Book
from tests.whole import whole
from tests.workers.life import in_partition, living
from tests.workers.wire import ends, promotion, publish, read, read_to_end, send
from workers.jobs.billing import BillingJob
from workers.jobs.bisection import decide_bisected
from workers.jobs.expiry import ExpiryJob
from workers.jobs.job import Batch, Job, Message
from workers.jobs.send import SendJob
from workers.ledger.model import Request
from workers.ledger.plans import load_catalogue

POISON = 13  # credits


async def _refuse_poison(database: Connection) -> None:
    """Let the net below the rules refuse a grant of 13 credits: a CHECK that this test adds."""
    await database.execute(f"alter table lots add constraint no_poison check (granted <> {POISON})")


@pytest.mark.parametrize("where", [whole([0]), [7], whole([19]), [3, 4, 11], list(range(20))])
async def test_what_the_database_refuses_is_a_dead_letter_and_its_neighbours_are_decided(
    cluster: Settings, database: Connection, account: str, where: list[int]
) -> None:
    """One batch of one account, poisoned here and there: each record has its answer or its letter, in order."""
    await _refuse_poison(database)
    events = [promotion(account, POISON if n in where else 1) for n in range(20)]
    good = [event for n, event in enumerate(events) if n not in where]
    start, letters = await ends(cluster, CREDIT_EVENTS), await ends(cluster, DEAD_LETTERS)
    await publish(cluster, BILLING_EVENTS, events)

    async with living(cluster, BillingJob(load_catalogue())) as life:
        dead = await read(cluster, letters, len(where))
        answers = await read(cluster, start, len(good))

    assert [str(event.id) for event in good] == [answer["request_id"] for answer in answers]
    assert list(range(1, len(good) + 1)) == [answer["sequence"] for answer in answers]
    assert ["refused_by_database"] * len(where) == [letter["reason"] for letter in dead]
    assert {f"the database refuses it (SQLSTATE 23514, constraint no_poison): {_SAID}"} == {
        letter["error"] for letter in dead
    }
    assert len(where) == life.health.counts["refused_by_database"]
    assert life.health.counts["batches_decided_apart"] >= 1


_SAID = 'new row for relation "lots" violates check constraint "no_poison"'


async def test_what_was_refused_can_be_sent_again_once_the_cause_is_mended(
    cluster: Settings, database: Connection, account: str
) -> None:
    """It left no outcome that would be final, and no lot: at most an account without a row."""
    await _refuse_poison(database)
    event = promotion(account, POISON)
    start, letters = await ends(cluster, CREDIT_EVENTS), await ends(cluster, DEAD_LETTERS)
    async with living(cluster, BillingJob(load_catalogue())):
        await publish(cluster, BILLING_EVENTS, [event])
        await read(cluster, letters, 1)
        traces = await database.fetchval(
            "select coalesce(sum(a.sequence + a.newest_lot), 0) + (select count(*) from journal)"
            " from accounts as a where a.account_id = $1",
            account,
        )
        await database.execute("alter table lots drop constraint no_poison")
        await publish(cluster, BILLING_EVENTS, [event])
        answers = await read(cluster, start, 1)

    assert 0 == traces
    assert [("granted", False)] == [(answer["code"], answer["repeat"]) for answer in answers]


def _batch(events: list[Event], partition: int = 0) -> Batch:
    return Batch(
        [
            Request(event, event.subject or "", event.id, fingerprint(event), event.time, partition, offset)
            for offset, event in enumerate(events)
        ]
    )


async def test_a_batch_decided_apart_has_the_answers_of_one_decided_whole(database: Connection) -> None:
    """To the byte but for the lots' numbers, in the same order: repeats, conflicts and notices included."""
    catalogue = load_catalogue()
    accounts = [f"a-{n}" for n in range(3)]
    grants = [promotion(each, 4) for each in accounts]
    sends = [send(accounts[n % 3]) for n in range(18)]
    sends += [sends[0], sends[5], send(accounts[0], sends[0].id, recipient_id="somebody-else")]
    found: list[tuple[Job, Batch]] = [
        (BillingJob(catalogue), _batch(grants)),
        (SendJob(catalogue), _batch(sends)),
    ]
    whole, apart = [], []
    transaction = database.transaction()
    await transaction.start()
    for job, batch in found:
        whole += (await job.decide(database, batch)).messages
    await transaction.rollback()
    async with database.transaction():
        for job, batch in found:
            for request in batch.requests:  # as the last halving does
                apart += (await decide_bisected(job, database, replace(batch, requests=[request]))).messages

    assert [_without_lot(each) for each in whole] == [_without_lot(each) for each in apart]
    assert len(whole) > len(grants) + len(sends)


def _without_lot(message: Message) -> Message:
    """Numbers of lots come from a sequence, which no rollback turns back."""
    return message._replace(value=re.sub(rb'"lot":\d+', b"", message.value))


async def test_a_tick_that_the_database_refuses_ends_the_worker(cluster: Settings, database: Connection) -> None:
    """A tick brings no values of its own: the books are at fault, and what it has booked so far must not get lost."""
    book = Book(database)
    book.now = datetime.now(UTC) - 91 * DAY
    await book.one(book.promotion(3, in_partition(cluster, 0)))
    await database.execute("alter table journal add constraint no_expiry check (worker <> 'expiry') not valid")
    now = datetime.now(UTC)
    tick = ExpiryTick.create(id=uuid4(), source="/test", time=now, data={"as_of": now})
    async with create_producer(cluster, "test") as producer:
        await producer.send_and_wait(EXPIRY_TICKS, encode(tick), partition=0)
    letters = await ends(cluster, DEAD_LETTERS)

    async with (
        living(cluster, ExpiryJob(load_catalogue(), cluster)) as life,
    ):
        error = await life.ended()

    assert isinstance(error, asyncpg.CheckViolationError)
    assert [] == await read_to_end(cluster, letters)


STATES = {
    "22003": (True, False),  # numeric value out of range
    "23505": (True, False),  # unique violation
    "23514": (True, False),  # check violation
    "54000": (True, False),  # an index row too large
    "P0001": (True, False),  # raised by a function
    "40001": (False, True),  # serialization failure
    "40P01": (False, True),  # deadlock
    "53100": (False, True),  # disk full
    "53300": (False, True),  # too many connections
    "57P01": (False, True),  # the server is being shut down
    "57P03": (False, True),  # it is starting
    "25006": (False, True),  # read-only
    "42P01": (False, False),  # no such table
    "42501": (False, False),  # not allowed
    "3D000": (False, False),  # no such database
    "XX001": (False, False),  # data corrupted
}


@pytest.mark.parametrize("state", STATES)
def test_errors_of_the_database_are_told_apart(state: str) -> None:
    """Refused values become dead letters, what may pass is tried again; neither: somebody has to mend something."""
    error = asyncpg.PostgresError.new({"C": state, "M": "planted"})

    assert STATES[state] == (is_refusal(error), is_transient(error))
