"""What the ledger's database tells of an account for the topic of balances, however many lots the account has."""

from datetime import datetime
from typing import Any

from infra.postgres import Connection
from schemas.balances import AccountBalance
from tests.ledger.book import DAY, Book
from workers.jobs.balances import balance_messages

_LOTS = 2_000
# Copies of the first lot: every third starts later, every fifth is spent, every seventh has ended, others end apart.
_ADD = """
insert into lots
select (jsonb_populate_record(l, jsonb_build_object(
    'lot', n, 'request_id', gen_random_uuid(), 'priority', n % 4, 'remaining', (n % 5 > 0)::int * 2,
    'granted_at', case when n % 3 = 0 then $3::timestamptz + n * interval '1 second' else l.granted_at end,
    'expires_at', case when n % 7 = 0 and n % 3 > 0 then $3 else $3 + interval '2 days' + n % 11 * interval '1 day' end,
    'full_expires_at', $3 + interval '99 days'
))).*
from lots as l inner join accounts as a using (account), generate_series(2, $2::int) as n
where a.account_id = $1 and l.lot = 1
"""


class _Counting:
    """A connection that counts the rows which it brings."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self.rows = connection, 0

    async def fetch(self, *query: Any) -> Any:
        """Return the rows of a query."""
        rows = await self._connection.fetch(*query)
        self.rows += len(rows)
        return rows


def _start_or_end(lot: Any, as_of: datetime) -> datetime:
    change: datetime = lot["granted_at"] if lot["granted_at"] > as_of else lot["expires_at"]
    return change


async def test_of_very_many_lots_only_those_that_are_published_leave_the_database(database: Connection) -> None:
    """The deciding transaction waits for it. The sums are over all lots that hold credits, also those to come."""
    book, account = Book(database), "alice"
    await book.decide(book.promotion(2, account))
    await database.execute(_ADD, account, _LOTS, book.now)
    counting: Any = _Counting(database)

    (message,) = await balance_messages(counting, [account], lambda each, _: each)

    data = AccountBalance.model_validate_json(message.value).data
    as_of = data["as_of"]
    lots = await database.fetch(
        "select lot, remaining, granted_at, expires_at from lots inner join accounts using (account)"
        " where account_id = $1 and remaining > 0 order by priority, expires_at, lot",
        account,
    )
    held = [lot for lot in lots if lot["granted_at"] < lot["expires_at"] > as_of]
    assert 200 == counting.rows
    assert [dict(lot) for lot in held[:200]] == data["lots"]
    assert (len(held), sum(lot["remaining"] for lot in held if lot["granted_at"] <= as_of)) == (
        data["lot_count"],
        data["spendable"],
    )
    assert min(_start_or_end(lot, as_of) for lot in held) == data["changes_at"] < as_of + 2 * DAY
    assert 200 < len(held) < len(lots) < _LOTS
