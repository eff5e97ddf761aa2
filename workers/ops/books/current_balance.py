"""Accounts' balances now, by one statement whose work does not grow with the accounts' history.

`balance.py` computes the balance at any instant and reads all rows of the account for it. This module reads an
account, its last row and its lots; of several accounts at once, since a busy reader has several asked for together.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from infra.postgres import Connection

__all__ = ["LOTS_AT_MOST", "CurrentBalance", "SpendableLot", "read_current_balances", "read_sequence"]

LOTS_AT_MOST: Final = 200  # in an answer; the sum counts all of them


@dataclass(frozen=True, slots=True)
class SpendableLot:
    """A lot with credits that can be spent now or later."""

    lot: int
    origin: str
    subscription_id: str | None
    plan: str | None
    granted: int
    remaining: int
    granted_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class CurrentBalance:
    """What an account can spend at `as_of`, after the journal row with number `sequence`."""

    account_id: str
    sequence: int
    as_of: datetime
    erased_at: datetime | None
    spendable: int
    changes_at: datetime | None  # the first instant after as_of at which the answer changes without a new row
    next_allotment_at: datetime | None
    lot_count: int  # of all lots with credits, of which `lots` has the first
    lots: tuple[SpendableLot, ...]  # in burn-down order


# A lot's end is a predicate: that a tick has booked it is not needed. An account's last row may be later than `now`,
# since the brokers' clock gives rows their time.
_CURRENT: Final = f"""
with asked as materialized (
    select a.account_id, a.account, a.sequence, a.erased_at, greatest($2, j.as_of) as as_of
    from accounts as a
    left join journal as j on j.account = a.account and j.sequence = a.sequence
    where a.account_id = any($1)
),
coming as materialized (
    select asked.*, next_allotment(asked.account, asked.as_of) as next_allotment_at
    from asked
)
select c.account_id, c.sequence, c.as_of, c.erased_at, coalesce(s.spendable, 0) as spendable,
    least(s.changes_at, c.next_allotment_at) as changes_at, c.next_allotment_at, coalesce(s.lot_count, 0) as lot_count,
    s.lot, s.origin, s.subscription_id, s.plan, s.granted, s.remaining, s.granted_at, s.expires_at
from coming as c
left join lateral (
    select l.lot, l.origin, l.subscription_id, l.plan, l.granted, l.remaining, l.granted_at, l.expires_at, l.priority,
        count(*) over () as lot_count,
        coalesce(sum(l.remaining) filter (where l.granted_at <= c.as_of) over (), 0) as spendable,
        least(
            min(l.expires_at) filter (where l.granted_at <= c.as_of) over (),
            min(l.granted_at) filter (where l.granted_at > c.as_of) over ()
        ) as changes_at
    from lots as l
    where l.account = c.account and l.open and l.remaining > 0
        and l.granted_at < l.expires_at and c.as_of < l.expires_at
    order by l.priority, l.expires_at, l.lot
    limit {LOTS_AT_MOST}
) as s on true
order by c.account_id, s.priority, s.expires_at, s.lot
"""  # noqa: S608 - a constant
_FACTS: Final = tuple(field.name for field in fields(CurrentBalance) if field.name != "lots")  # the first columns


async def read_current_balances(
    connection: Connection, account_ids: Collection[str], now: datetime
) -> dict[str, CurrentBalance]:
    """Return the balances of known accounts at `now`, each at the time of its last row if that is later."""
    rows = await connection.fetch(_CURRENT, account_ids, now)
    found = {}
    for account_id, its in groupby(map(tuple, rows), itemgetter(0)):
        lots = list(its)
        # Without lots there is one row, without a lot.
        of_lots = tuple(SpendableLot(*row[len(_FACTS) :]) for row in lots if row[len(_FACTS)] is not None)
        facts: dict[str, Any] = dict(zip(_FACTS, lots[0], strict=False))
        found[account_id] = CurrentBalance(**facts, lots=of_lots)
    return found


async def read_sequence(connection: Connection, account_id: str) -> int | None:
    """Return the number of an account's newest journal row; None if the account is unknown."""
    sequence: int | None = await connection.fetchval("select sequence from accounts where account_id = $1", account_id)
    return sequence
