"""Requests of accounts whose number another Postgres server holds: nothing of them is decided here."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import fingerprint
from schemas.dead_letters import DeadLetterReason
from schemas.envelope import Event
from tests.ledger.book import Book
from tests.workers.life import in_partition
from workers.jobs.billing import BillingJob
from workers.jobs.job import Batch, Decision
from workers.jobs.send import SendJob
from workers.ledger.model import Request
from workers.ledger.plans import load_catalogue

HERE, ELSEWHERE = 0, 1  # numbers


def _request(event: Event, partition: int, offset: int) -> Request[Any]:
    return Request(event, event.subject or "", event.id, fingerprint(event), event.time, partition, offset)


async def _decide(database: Connection, job: SendJob | BillingJob, *requests: Request[Any]) -> Decision:
    async with database.transaction():
        return await job.decide(database, Batch(requests))


async def _let_go(database: Connection, state: str = "left") -> None:
    await database.execute("insert into shard_numbers values ($1, $2, $3, $4)", ELSEWHERE, state, uuid4(), uuid4())


@pytest.fixture
async def book(settings: Settings, database: Connection) -> Book:
    """Books of as many partitions as there are."""
    await database.execute("insert into partitioning (partitions) values ($1)", settings.topic_partitions)
    return Book(database)


async def test_a_request_of_an_account_elsewhere_is_a_dead_letter_and_leaves_no_trace(
    settings: Settings, database: Connection, book: Book
) -> None:
    """No account is opened for it, and the rest of the batch is decided; it counts as misplaced."""
    await _let_go(database)
    mine, other = in_partition(settings, HERE), in_partition(settings, ELSEWHERE)
    catalogue = load_catalogue()
    for job, make in (
        (BillingJob(catalogue), lambda account: book.promotion(2, account)),
        (SendJob(catalogue), book.send),
    ):
        decision = await _decide(
            database, job, *(_request(make(each), HERE, n) for n, each in enumerate((mine, other, mine)))
        )
        assert {(HERE, 1): DeadLetterReason.WRONG_PARTITION} == {p: e.reason for p, e in decision.refused.items()}
        assert f"the account's number is {ELSEWHERE}" in decision.refused[HERE, 1].error
        assert {mine.encode()} == {message.key for message in decision.messages}
        assert 2 <= decision.codes.total()  # and a notice

    assert [mine] == [row["account_id"] for row in await database.fetch("select account_id from accounts")]
    assert 2 == await database.fetchval("select sum(records) from misplaced_records")


@pytest.mark.parametrize("state", ["leaving", "left"])
async def test_an_account_that_left_is_not_touched_and_what_was_answered_is_answered_again(
    settings: Settings, database: Connection, book: Book, state: str
) -> None:
    """Its rows may be here still. A record that is read again after a crash has to get the answer that is stored."""
    account = in_partition(settings, ELSEWHERE)
    job = SendJob(load_catalogue())
    first = book.send(account, id=UUID(int=1, version=4))
    again = _request(first, HERE, 0)
    before = await _decide(database, job, again)
    await _let_go(database, state)
    journal = await database.fetchval("select jsonb_agg(to_jsonb(j)) from journal as j")
    conflict = book.send(account, id=first.id, recipient_id="somebody-else")

    decision = await _decide(database, job, again, _request(conflict, HERE, 1), _request(book.send(account), HERE, 2))

    assert before.messages == decision.messages
    assert {(HERE, 1), (HERE, 2)} == decision.refused.keys()
    assert journal == await database.fetchval("select jsonb_agg(to_jsonb(j)) from journal as j")


async def test_a_misplaced_request_is_decided_where_the_server_holds_its_account_s_number_too(
    settings: Settings, database: Connection, book: Book
) -> None:
    """Whatever other numbers have left."""
    await _let_go(database)
    decision = await _decide(
        database, SendJob(load_catalogue()), _request(book.send(in_partition(settings, HERE)), ELSEWHERE + 1, 0)
    )

    assert {} == decision.refused
    assert 1 == len(decision.messages)
