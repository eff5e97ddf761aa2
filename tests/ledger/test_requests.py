"""One request id, one outcome: repeats, conflicts, and what a body is."""

from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from infra.postgres import Connection
from schemas.catalogue import fingerprint
from schemas.envelope import Event
from schemas.sends import SendUndeliverable
from tests.ledger.book import DAY, Book, body, pick
from workers.jobs.job import Batch
from workers.jobs.send import SendJob
from workers.ledger.model import Request


@pytest.fixture
def book(database: Connection) -> Book:
    """An empty ledger on New Year's Day 2030."""
    return Book(database)


async def test_the_same_request_again_gets_its_first_answer(book: Book) -> None:
    """Rule 14: same event id, same sequence, marked as a repeat, and no second credit."""
    await book.decide(book.activated())
    send = book.send()
    first = await book.one(send)
    book.now += 30 * DAY

    again = await book.one(send)

    assert first | {"repeat": True} == again
    assert [4] == await book.remaining()


async def test_a_rejection_is_as_final_as_an_acceptance(book: Book) -> None:
    """Rule 14: credits that came later do not change it."""
    send = book.send()
    rejected = await book.one(send)
    await book.decide(book.activated())

    again = await book.one(send)

    assert "insufficient_credits" == rejected["code"]
    assert rejected | {"repeat": True} == again


async def test_a_request_twice_in_one_batch_is_one_request(book: Book) -> None:
    """Rule 14: the second is a repeat of the first, decided a moment before."""
    await book.decide(book.activated())
    send = book.send()

    first, second = await book.decide(send, send)

    assert first | {"repeat": True} == second
    assert [4] == await book.remaining()


async def test_the_same_id_with_another_body_is_a_conflict_with_an_answer_of_its_own(book: Book) -> None:
    """Rule 14: the first answer stands, and the same conflict again gets the conflict's own first answer."""
    await book.decide(book.activated())
    id_ = uuid4()
    first = await book.one(book.send(id=id_))
    other = book.send(id=id_, recipient_id="carol")

    conflict = await book.one(other)
    conflict_again = await book.one(other)
    first_again = await book.one(book.send(id=id_))

    assert ("rejected", "key_conflict", 0, "carol") == pick(
        conflict, "outcome", "code", "credits_charged", "recipient_id"
    )
    assert conflict["id"] != first["id"]
    assert conflict | {"repeat": True} == conflict_again
    assert first | {"repeat": True} == first_again
    assert [4] == await book.remaining()


async def test_a_conflict_inside_one_batch_is_found_too(book: Book) -> None:
    """The first body in input order is the request; the next one conflicts."""
    await book.decide(book.activated())
    id_ = uuid4()

    answers = await book.decide(
        book.send(id=id_), book.send(id=id_, recipient_id="carol"), book.send(id=id_), book.send()
    )

    assert [("charged", False), ("key_conflict", False), ("charged", True), ("charged", False)] == [
        pick(answer, "code", "repeat") for answer in answers
    ]
    assert [2, 3, 2, 4] == [answer["sequence"] for answer in answers]


async def test_request_ids_are_shared_by_all_kinds_of_request(book: Book) -> None:
    """An id used for a grant cannot be used for a send of the same account, but for another account's it can."""
    id_ = uuid4()
    await book.decide(book.activated(id=id_))

    of_alice, of_bob = await book.decide(book.send(id=id_), book.send("bob", id=id_))
    grant = await book.one(book.promotion(3, "bob", id=id_))

    assert ("key_conflict", "insufficient_credits") == (of_alice["code"], of_bob["code"])
    assert ("inmail.billing.decided.v1", "rejected", "key_conflict") == pick(grant, "type", "outcome", "code")


async def test_time_and_source_are_not_part_of_the_body(book: Book) -> None:
    """A producer that sends the same intent again later asks the same thing."""
    id_ = uuid4()
    await book.decide(book.send(id=id_))
    book.now += DAY

    again = await book.one(book.send(id=id_).model_copy(update={"source": "/another"}))

    assert again["repeat"]


async def test_an_id_that_is_used_for_everything_costs_no_more_than_its_records(book: Book) -> None:
    """A producer's constant id: each body is answered once, and no batch reads the conflicts before it."""
    id_ = uuid4()
    for start in range(0, 2_000, 500):
        sends = [book.send(id=id_, recipient_id=f"r-{number}") for number in range(start, start + 500)]
        await book.decide_all(*sends)

    found = await book.connection.fetch(
        "select distinct * from stored_answers(array_fill((select account from accounts), array[500]),"
        " array_fill($1::uuid, array[500]))",
        id_,
    )
    answers = await book.decide_all(*[book.send(id=id_, recipient_id=f"r-{number}") for number in (0, 1, 1_999)])

    assert 1 == len(found)
    assert [("insufficient_credits", True), ("key_conflict", True), ("key_conflict", True)] == [
        pick(answer, "code", "repeat") for answer in answers
    ]


async def test_an_id_that_many_accounts_use_costs_none_of_them_the_others_rows(book: Book) -> None:
    """Answers, final or not, conflicts and reports on a send are found without a look at other accounts' rows."""
    id_ = uuid4()
    sends = [book.send(f"a-{number}", id=id_) for number in range(2_000)]
    others = [book.send(f"a-{number}", id=id_, recipient_id="carol") for number in range(2_000)]
    await book.decide_all(*sends)
    await book.decide_all(*others)
    await book.connection.execute(
        "insert into journal select (r).* from (select jsonb_populate_record(j, jsonb_build_object("
        "'sequence', 3, 'code', 'balance_not_current', 'source_offset', source_offset + 10000,"
        " 'details', jsonb_build_object('waited_for', 'billing', 'retry_after_seconds', 60))) as r from journal as j"
        " where sequence = 1) as more"
    )
    await book.connection.execute("update accounts set sequence = 3")
    await book.connection.execute("analyze")
    report = SendUndeliverable.create(
        id=uuid4(), source="/test", subject="a-1000", time=book.now, data={"send_id": id_}
    )

    async with book.connection.transaction():
        before = await _rows_read(book.connection)
        codes = [(await book.one(event))["code"] for event in (sends[1_000], others[1_000], report)]
        after = await _rows_read(book.connection)

    assert ["insufficient_credits", "key_conflict", "not_charged"] == codes
    assert after - before < 20


async def _rows_read(connection: Connection) -> int:
    """Return how many rows of the journal this transaction has read so far."""
    return await connection.fetchval(
        "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'journal'"
    )


async def test_the_same_offset_of_a_topic_that_was_created_again_is_another_record(book: Book) -> None:
    """A producer that sends its outbox again meets the offsets of before: what was final is repeated, the rest decided.

    It was answered as if for the first time, with what it had moved beside; and `balance_not_current` stood for good.
    """
    job = SendJob(book.catalogue)
    grant, paid, early = book.activated(), book.send(), book.send("bob")
    await book.decide(grant)

    async def decide(offset: int, event: Event, *, waits: bool = False, since: datetime | None = None) -> list[Any]:
        request = Request(event, event.subject or "", event.id, fingerprint(event), book.now, 0, offset)
        reading = Batch(
            [request], waited_for="inmail-billing" if waits else None, since={} if since is None else {0: since}
        )
        async with book.connection.transaction():
            return [body(each) for each in (await job.decide(book.connection, reading)).messages]

    (charged,) = await decide(0, paid)
    (unsure,) = await decide(1, early, waits=True)
    ended = book.now
    book.now += DAY

    assert [charged] == await decide(0, paid), "read again after a crash"
    assert [unsure] == await decide(1, early)
    assert [charged | {"repeat": True}] == await decide(0, paid, since=ended)
    assert [unsure] == await decide(1, early, waits=True, since=ended), "it would get the like"
    (sure,) = await decide(1, early, since=ended)
    assert ("balance_not_current", "insufficient_credits", False) == (unsure["code"], sure["code"], sure["repeat"])
    assert [sure] == await decide(1, early, since=ended), "its own, of this topic"
