"""What the events tell of each lot, held against the books: a reader who has nothing else comes to the same."""

import json

from tests.ledger.scenario_sql import SqlBooks
from tests.workers.account_reader import read_accounts

__all__ = ["check_told_lots"]


async def check_told_lots(books: SqlBooks) -> None:
    """See that the published events alone give what is left of each lot, and when it ends.

    Raises:
        AssertionError: with the lots of which they say something else.

    """
    rows = await books.connection.fetch(
        "select account_id, lot, remaining, expires_at from lots join accounts using (account)"
    )
    booked = {(account, lot): tuple(state) for account, lot, *state in map(tuple, rows)}
    readers = read_accounts(json.loads(each.value) for each in books.messages)
    told = {
        (account, number): (lot.remaining, lot.ends)
        for account, reader in readers.items()
        for number, lot in reader.lots.items()
    }
    assert told == booked, {
        place: f"told {told.get(place)}, booked {booked.get(place)}"
        for place in told.keys() | booked.keys()
        if told.get(place) != booked.get(place)
    }
