"""Books of before rows of expiry told what could be spent: sound after the upgrade, and published as they were."""

from infra.migrate import migrate
from infra.postgres import Connection
from tests.ledger.book import Book, at, pick
from tests.ledger.scenario import read_text
from tests.ledger.scenario_run import run
from tests.ledger.scenario_sql import SqlBooks
from tests.workers.books_sound import all_is_read
from workers.jobs.result_events import result_event
from workers.ledger.model import Entry
from workers.ledger.store import FUNCTIONS
from workers.ops.books.audit import audit_books
from workers.ops.books.statement import statement_of

BEFORE = """
scenario: before the upgrade
catalogue notices.expiring_days = 7
activate s-1 premium_career 2030-01-01..2030-02-01   -> granted +5
promotion 4 of a                                     -> granted +4
at 2030-02-01
promotion 3 of b                                     -> granted +3
promotion 1 of c                                     -> granted +1
send bob                                              -> charged -1 lot 1
adjust -8 by ops-1 because "a trial"                 -> adjusted -4 lot 1; adjusted -4 lot 2
promotion 5 of d                                     -> granted +5
at 2030-04-29
tick                                                 -> expiring_soon lot 3; expiring_soon lot 4; expiring_soon lot 5
at 2030-05-02
tick                                                 -> expired -3; expired -1; expired -5; exhausted
"""
# What the functions before migration 0012 wrote: an expiry as if its lot had lived until then, an end announced again
# once a cancel between had been taken back.
AS_IT_WAS = """
with told as (
    select account, sequence, coalesce(sum(-amount) over rest, 0) as rest
    from journal
    where code = 'expired'
    window rest as (partition by account order by sequence rows between 1 following and unbounded following)
)
update journal as j set balance_before = j.balance_before + t.rest - j.amount, balance_after = j.balance_after + t.rest
from told as t
where j.account = t.account and j.sequence = t.sequence;
create temp table again as
select * from journal where code = 'expiring_soon' order by sequence desc limit 1;
update again set sequence = (select sequence + 1 from accounts), balance_before = 0, balance_after = 0;
insert into journal select * from again;
drop table again;
update accounts set sequence = sequence + 1;
drop table earlier_rows;
alter table lots drop column announced_ends;
delete from migrations where name like '0012%';
"""


async def _play(books: SqlBooks, table: str) -> None:
    (scenario,) = read_text(table, "upgrade")
    await run(scenario, books)


async def _published(connection: Connection) -> list[bytes | None]:
    rows = await connection.fetch("select * from journal order by account, sequence")
    return [result_event("alice", Entry(*row)).value for row in rows]


async def _failures(connection: Connection) -> dict[str, list[str]]:
    await connection.execute("delete from lanes")
    await all_is_read(connection)
    return {each.name: [place.place for place in each.examples] for each in (await audit_books(connection)).failures()}


async def test_rows_of_before_the_upgrade_are_sound_and_published_as_they_were(database: Connection) -> None:
    """Their meaning is kept, not their numbers mended; what is written from then on is held to what could be spent."""
    books = SqlBooks(database)
    await _play(books, BEFORE)
    await database.execute(AS_IT_WAS)
    before = await _published(database)

    await migrate(database, [FUNCTIONS])

    assert before == await _published(database)
    assert {} == await _failures(database)
    (expired, *_) = [line for line in (await statement_of(database, "alice")).lines if line.code == "expired"]
    assert (9, 6) == (expired.balance_before, expired.balance_after)

    book = Book(database)
    book.now, book.offset = at("2030-05-03"), 1_000  # what comes later stands later in its topic
    await book.one(book.promotion(2))
    book.now = at("2030-07-31")
    announced = await book.tick()
    book.now = at("2030-08-01")
    line, *_ = await book.tick()

    assert ["expiring_soon", "booked"] == [each["code"] for each in announced]
    assert ("expired", 2, 0, 0) == pick(line, "code", "credits", "balance_before", "balance_after")
    assert {} == await _failures(database)


async def test_rows_of_after_the_upgrade_are_not_excused(database: Connection) -> None:
    """An expiry told in the earlier meaning, or an end announced twice, is found where it is a later row's."""
    books = SqlBooks(database)
    await _play(books, BEFORE)
    await database.execute(AS_IT_WAS)
    await migrate(database, [FUNCTIONS])
    await database.execute("truncate earlier_rows")

    found = await _failures(database)

    assert {"balance_adds_up", "notice_is_given_once"} <= found.keys()
    assert 3 == len(found["balance_adds_up"])
