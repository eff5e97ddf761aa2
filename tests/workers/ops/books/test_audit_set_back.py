"""The audit of books whose clocks an operator has set back: what was decided of the time far ahead stays."""

from datetime import UTC, datetime

from infra.postgres import Connection
from tests.ledger.book import DAY, Book
from tests.workers.books_sound import all_is_read
from workers.ops.books.audit import audit_books

NOW = datetime(2030, 3, 1, 12, tzinfo=UTC)
FAR = NOW + 30 * DAY
_SET_BACK = "insert into clock_set_backs values ('inmail-send', 'inmail.send-requests', 0, $1, $2, $3)"
_ENDED = """
insert into ended_topics (consumer_group, topic, partition, as_of, topic_id, next_offset, ended_at)
values ('inmail-send', 'inmail.send-requests', 0, $1, gen_random_uuid(), 9, now())
"""


async def _failed(connection: Connection) -> list[str]:
    return [finding.name for finding in (await audit_books(connection)).failures()]


async def test_a_refusal_as_of_a_time_far_ahead_is_no_fault_once_the_clock_was_set_back(database: Connection) -> None:
    """The grant that an operator makes good with comes after it, and is as of an earlier time."""
    book = Book(database)
    book.now = FAR
    await book.one(book.send())
    end, book.now = book.offset, NOW
    await book.one(book.promotion(2))
    await all_is_read(database)

    before = await _failed(database)
    await database.execute(_SET_BACK, end, FAR, NOW)
    after = await _failed(database)
    await database.execute("update clock_set_backs set next_offset = 0")  # it was of a record after that place
    of_a_later_one = await _failed(database)

    assert ["refusal_knew_its_grants"] == before == of_a_later_one
    assert [] == after


async def test_rows_of_two_topics_are_not_held_against_each_other_where_a_clock_was_set_back(
    database: Connection,
) -> None:
    """One offset of both: of the first topic as of a time far ahead, of the second as of now."""
    book = Book(database)
    book.now = NOW
    await book.one(book.promotion(5))
    book.now = FAR
    for _ in range(2):
        await book.one(book.send())
    book.offset, book.now = book.offset - 2, NOW + DAY
    await database.execute(_ENDED, NOW + DAY / 2)
    await book.one(book.send())
    await all_is_read(database)

    before = await _failed(database)
    await database.execute(_SET_BACK, book.offset, FAR, NOW)
    set_back = await _failed(database)
    await database.execute("update lanes set next_offset = $1, topic_since = $2", book.offset, NOW + DAY / 2)

    assert ["record_has_one_answer"] == before
    assert [] == set_back
    assert [] == await _failed(database)  # the first topic had more records than the lane has read of the second


async def test_paid_sends_of_a_time_far_ahead_are_counted_once_the_clock_was_set_back(database: Connection) -> None:
    """Counts only move on: none is of a time before what was paid for, and the audit has nothing to say."""
    book = Book(database)
    book.now = NOW
    await book.one(book.promotion(5))
    for now in (NOW, FAR, NOW + DAY, NOW + 3 * DAY):
        book.now = now
        await book.one(book.send(recipient_id=f"bob-{now:%m-%d}"))
    await all_is_read(database)
    await database.execute(_SET_BACK, 3, FAR, NOW)

    assert await database.fetchval("select count(*) from journal where code = 'charged'") == 4
    assert [] == await _failed(database)
